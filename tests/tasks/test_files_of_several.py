"""Files of several modalities, as a video with sound: of one time, some without one of them, and folders of them."""

import io
from pathlib import Path

import av
import datasets
import numpy as np
import pytest
import soundfile
import torch

from lab.errors import UserError
from lab.looking.multimodal_view import MultimodalView
from lab.recipe import load_recipe
from lab.tasks import build_task
from modeling_perceiver_study import (
    PerceiverStudyFeatureExtractor,
    PerceiverStudyPointCloudProcessor,
    PerceiverStudyProcessor,
    PerceiverStudyTokenizer,
    PerceiverStudyVideoProcessor,
    fetching,
)
from modeling_perceiver_study.video_reading import MissingStream
from tests.clips import encoded_clip
from tests.file_server import serving

RATE, FPS, FRAMES = 8000, 10, 8
SAMPLES = RATE * FRAMES // FPS  # of as long a time as the frames
RECIPE = [
    "task=multimodal-classification",
    "feature_extractor.modalities.sound.task=audio-classification",
    f"feature_extractor.modalities.sound.sampling_rate={RATE}",
    "feature_extractor.modalities.sound.normalize=null",
    f"feature_extractor.modalities.sound.max_length={SAMPLES}",
    "feature_extractor.modalities.video.task=video-classification",
    f"model.modalities.video.image_size=[{FRAMES},6,8]",
    "model.modalities.sound.patch_size=80",
    "model.num_labels=2",
    "model.num_latents=4",
    "model.d_latents=16",
    "data.columns={video: video, sound: video}",
    "data.validation_samples=2",
    "optimization.batch_size=8",
]
CUT = "feature_extractor.modalities.video.long_clips=cut"


def clip(seconds: float) -> bytes:
    """Each frame is as bright as the sound is loud at its time: both grow from 0 to 200 of 255 in ten seconds."""
    frames = np.repeat(np.linspace(0, 20 * seconds, int(FPS * seconds)).astype(np.uint8), 6 * 8 * 3)
    return encoded_clip(frames.reshape(-1, 6, 8, 3), FPS, np.linspace(0, 20 * seconds / 255, int(RATE * seconds)))


def silent_clip() -> bytes:
    return encoded_clip(np.zeros((5, 6, 8, 3), np.uint8), FPS)


def recording() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.linspace(0, 0.5, SAMPLES), RATE, format="WAV")
    return file.getvalue()


def processor_of(**settings) -> PerceiverStudyProcessor:
    video = PerceiverStudyVideoProcessor(
        size={"height": 6, "width": 8}, num_frames=FRAMES, do_normalize=False, **settings
    )
    sound = PerceiverStudyFeatureExtractor(sampling_rate=RATE, normalize=None, max_length=SAMPLES)
    return PerceiverStudyProcessor({"video": video, "sound": sound})


def write_folder(folder):
    """`train/CLASS/NUMBER.mkv`, of which one is silent."""
    for split, count in {"train": 5, "test": 2}.items():
        for name, seconds in {"short": 0.5, "long": 3.0}.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                content = silent_clip() if (split, name, number) == ("train", "short", 0) else clip(seconds)
                (folder / split / name / f"{number}.mkv").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("videos") / "data")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def build(folder, *overrides):
    return build_task(load_recipe(None, [*RECIPE, f"data.path={folder}", *overrides]))


@pytest.mark.parametrize("seconds", [0.5, 0.8, 5.0])
def test_frames_and_sound_of_a_long_file_are_of_one_time(seconds):
    made = processor_of(long_clips="cut")(clip(seconds))
    frames, heard = made["pixel_values"][0].mean(dim=(1, 2, 3)), made["input_values"][0]
    count = int(made["video_attention_mask"].sum())
    assert count == min(FRAMES, seconds * FPS) and int(made["sound_attention_mask"].sum()) == count * RATE // FPS
    torch.testing.assert_close(heard[:: RATE // FPS][:count], frames[:count], rtol=0, atol=0.03)
    spread = processor_of()(clip(seconds))["pixel_values"][0].mean(dim=(1, 2, 3))
    assert bool(spread.max() > frames.max() + 0.1) == (seconds == 5.0)


@pytest.mark.parametrize(("frames_begin", "sound_begins"), [(0, 0.5), (0.5, 0), (0.5, 0.5), (0.3, 0.5)])
def test_frames_and_sound_that_begin_at_different_times(frames_begin, sound_begins):
    """What is heard beside a frame is what a player plays there, silence where sound has not begun."""
    moments = np.arange(FRAMES) / FPS + frames_begin
    frames = np.repeat((200 * moments).astype(np.uint8), 6 * 8 * 3).reshape(-1, 6, 8, 3)
    sound = (sound_begins + np.arange(SAMPLES) / RATE) * 200 / 255
    file = encoded_clip(frames, FPS, sound, frames_begin=frames_begin, sound_begins=sound_begins)
    made = processor_of(long_clips="cut")(file)
    seen, heard = made["pixel_values"][0].mean(dim=(1, 2, 3)).numpy(), made["input_values"][0].numpy()
    beside = heard[:: RATE // FPS][:FRAMES]
    begun = (moments[: len(beside)] >= sound_begins - 1e-6).astype(float)
    np.testing.assert_allclose(beside, seen[: len(beside)] * begun, rtol=0, atol=0.03)
    assert begun.any() and len(beside) >= FRAMES - round(frames_begin * FPS)


def test_cut_and_sampled_contradict_each_other():
    with pytest.raises(ValueError, match="long_clips='cut' takes the first frames"):
        processor_of(long_clips="cut", do_sample_frames=True)(clip(0.5))
    with pytest.raises(ValueError, match="long_clips='all': expected one of 'spread', 'cut'"):
        processor_of(long_clips="all")(clip(0.5))


def test_a_file_that_lacks_a_modality_has_the_others():
    processor = processor_of()
    made = processor([silent_clip(), recording(), clip(0.5)])
    assert made["sound_attention_mask"].any(dim=1).tolist() == [False, True, True]
    assert made["video_attention_mask"].any(dim=1).tolist() == [True, False, True]
    assert "input_values" not in processor(silent_clip())
    with pytest.raises(ValueError, match="bytes of a clip is not a clip that can be read"):
        processor(b"nothing")
    with pytest.raises(ValueError, match="bytes of a recording has no sound in it"):
        processor.modalities["sound"](silent_clip())
    only_sound = PerceiverStudyProcessor({"sound": processor.modalities["sound"]})
    with pytest.raises(ValueError, match="Sample 0 is a file, and has none of these: sound"):
        only_sound(silent_clip())


@pytest.mark.parametrize(("form", "codec"), [("mp3", "libmp3lame"), ("mp4", "aac")])
def test_the_picture_on_a_cover_is_no_video(form, codec):
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        sound = container.add_stream(codec, rate=RATE, layout="mono")
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 8, 6, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((6, 8, 3), 200, np.uint8), format="rgb24")
        picture.pts = 0
        container.mux([*cover.encode(picture), *cover.encode()])
        heard = av.AudioFrame.from_ndarray(np.zeros((1, SAMPLES), np.float32), format="fltp", layout="mono")
        heard.sample_rate = RATE
        container.mux([*sound.encode(heard), *sound.encode()])
    processor = processor_of()
    assert {"pixel_values", "input_values"} & processor(file.getvalue()).keys() == {"input_values"}
    with pytest.raises(MissingStream, match="has no video in it"):
        processor.modalities["video"](file.getvalue())


def test_a_url_is_fetched_once(tmp_path, monkeypatch):
    (tmp_path / "clip.mkv").write_bytes(clip(0.5))
    asked, client = [], fetching.httpx
    get = client.get
    monkeypatch.setattr(client, "get", lambda url, **settings: asked.append(url) or get(url, **settings))
    with serving(tmp_path) as server:
        made = processor_of()(f"{server}/clip.mkv")
    assert asked == [f"{server}/clip.mkv"]
    assert {"pixel_values", "input_values"} <= made.keys()


def test_a_file_is_no_text():
    tokenizer, sound = PerceiverStudyTokenizer(), processor_of().modalities["sound"]
    made = PerceiverStudyProcessor({"text": tokenizer, "sound": sound})(recording())
    assert not {"input_ids", "text_attention_mask"} & made.keys() and "input_values" in made
    with pytest.raises(ValueError, match="Sample 0 is a file, and cannot hold a text: text"):
        PerceiverStudyProcessor({"text": tokenizer})("cat.txt")


def test_a_folder_of_videos_is_learned_from_as_video_with_sound(folder):
    task = build(folder, CUT)
    splits = task.load_splits()
    there = splits.train.there
    assert len(splits.train) == 8 and there["video"].all() and (~there["sound"]).sum() <= 1
    loader = splits.train.__getitems__(list(range(8)))
    arguments, _ = task.training_inputs(loader, 0, 0)
    for frames, heard, shown in zip(
        arguments["pixel_values"], arguments["input_values"], arguments["sound_attention_mask"], strict=True
    ):
        part = task.parts["video"].processor
        mean, std = torch.tensor(part.image_mean), torch.tensor(part.image_std)
        bright = (frames.mean(dim=(2, 3)) * std + mean).mean(dim=1)
        count = int(shown.sum()) * FPS // RATE
        torch.testing.assert_close(heard[:: RATE // FPS][:count], bright[:count], rtol=0, atol=0.03)
    with pytest.raises(
        UserError, match=r"modalities.video: frames and sound come from the same files.* long_clips to cut"
    ):
        build(folder)


def test_a_folder_of_videos_is_listened_to(folder):
    options = ["task=audio-classification", "feature_extractor.sampling_rate=8000", "feature_extractor.max_length=800"]
    options += ["model.num_labels=2", "data.columns={audio: video}", "data.validation_samples=2", "data.on_error=skip"]
    splits = build_task(load_recipe(None, [*options, f"data.path={folder}"])).load_splits()
    assert len(splits.train) + len(splits.validation) == 9 and len(splits.test) == 4


@pytest.mark.parametrize(("content", "there"), [(silent_clip, ["video"]), (recording, ["sound"])])
def test_commands_read_what_a_file_has(tmp_path, content, there):
    (tmp_path / "file").write_bytes(content())
    assert list(MultimodalView.read(tmp_path / "file", processor_of())) == there


def test_commands_read_one_text_a_sample(tmp_path):
    processor = PerceiverStudyProcessor({"text": PerceiverStudyTokenizer()})
    (tmp_path / "cat.txt").write_text("a cat")
    with pytest.raises(UserError, match=r"cat.txt cannot hold a text: give a .npz file with some of text by"):
        MultimodalView.read(tmp_path / "cat.txt", processor)
    np.savez(tmp_path / "cat.npz", text="a cat")
    assert MultimodalView.read(tmp_path / "cat.npz", processor) == {"text": "a cat"}
    for wrong in (["a cat", "a dog"], 5):
        np.savez(tmp_path / "cat.npz", text=wrong)
        with pytest.raises(UserError, match=r"cat.npz has text of shape .*: expected a single text"):
            MultimodalView.read(tmp_path / "cat.npz", processor)


@pytest.mark.parametrize("wrong", ["secret.npy", b"secret.npy", ["secret.npy"], "http://127.0.0.1:9/secret.png"])
@pytest.mark.parametrize("name", ["video", "sound"])
def test_an_archive_cannot_name_other_files(tmp_path, name, wrong, monkeypatch):
    """A visitor of a page gives archives, and must not see what lies on its machine, nor what that can reach."""
    monkeypatch.chdir(tmp_path)
    np.save("secret.npy", np.zeros((2, 4, 4, 3), np.uint8))
    np.savez("sample.npz", **{name: wrong})
    with pytest.raises(UserError, match=rf"sample.npz has {name} of shape .*: expected numbers"):
        MultimodalView.read(Path("sample.npz"), processor_of())


CLOUD, TEXT = PerceiverStudyPointCloudProcessor(num_points=4), PerceiverStudyTokenizer()


@pytest.mark.parametrize(
    ("names", "files"),
    [
        ("video sound", "FILE"),
        ("sound", "FILE"),
        ("cloud", "FILE"),
        ("text", "SAMPLE.npz"),
        ("sound text", "SAMPLE.npz"),
        ("sound cloud text", "SAMPLE.npz"),
    ],
)
def test_advice_names_a_file_that_fits(names, files):
    known = processor_of().modalities | {"cloud": CLOUD, "text": TEXT}
    processor = PerceiverStudyProcessor({name: known[name] for name in names.split()})
    assert MultimodalView.files(processor) == files


def test_one_file_that_cannot_hold_all_inputs_is_refused_with_advice(tmp_path):
    sound = processor_of().modalities["sound"]
    processor = PerceiverStudyProcessor({"sound": sound, "cloud": CLOUD, "text": TEXT})
    (tmp_path / "a.wav").write_bytes(recording())
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(8, 3)))
    message = r"cloud would be read of this file, too; give a .npz file with some of sound, cloud, text by these names"
    with pytest.raises(UserError, match=rf"a.wav is not a readable .*: {message}"):
        MultimodalView.read(tmp_path / "a.wav", processor)
    # As docs/modalities.md says.
    heard, cloud = sound.read(tmp_path / "a.wav"), np.load(tmp_path / "a.npy")
    np.savez(tmp_path / "sample.npz", sound=heard, cloud=cloud, text="a chair that creaks")
    made = processor(MultimodalView.read(tmp_path / "sample.npz", processor))
    assert all(made[f"{name}_attention_mask"].any() for name in ("sound", "cloud", "text"))
