"""Reading of clips, the processor for them, and its pipeline."""

import io
import json
import math
import os
from fractions import Fraction
from types import SimpleNamespace
from unittest import mock

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForVideoClassification, pipeline

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForVideoClassification,
    PerceiverStudyImageProcessor,
    PerceiverStudyProcessor,
    PerceiverStudyVideoProcessor,
    video_reading,
)
from modeling_perceiver_study import image_processing_perceiver_study as image_processing
from modeling_perceiver_study.video_reading import choose_frames, read_frames
from tests.clips import encoded_clip, random_clip
from tests.fresh_processes import python

SIZE = {"height": 6, "width": 8}


def everything(count, rate):
    return range(count)


def build_model(dtype=torch.float32):
    torch.manual_seed(0)
    small = {"num_latents": 6, "d_latents": 32, "num_self_attention_heads": 4, "initializer_range": 0.3}
    grid = {"num_axes": 3, "channel_axis": 2, "image_size": [8, 6, 8], "patch_size": [2, 3, 4]}
    config = PerceiverStudyConfig(**grid, num_frequency_bands=3, num_labels=3, **small)
    return PerceiverStudyForVideoClassification(config).to(dtype).eval()


def build_processor(**settings):
    return PerceiverStudyVideoProcessor(**{"size": SIZE, "num_frames": 8, **settings})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((5, None, None), [0, 1, 2, 3, 4]),
        ((5, None, 8), [0, 1, 2, 3, 4]),
        ((9, None, 3), [0, 4, 8]),
        ((3, None, 5, None, True), [0, 0, 1, 2, 2]),  # halves are rounded to even
        ((6, 30.0, None, 10), [0, 3]),
        ((4, 10.0, None, 20), [0, 0, 1, 1, 2, 2, 3, 3]),
        ((6, None, None, 10), [0, 1, 2, 3, 4, 5]),
        ((1, 25.0, 4, 5, True), [0, 0, 0, 0]),
        ((4, np.array([0.0, 0.1, 0.2, 3.0]), None, 1), [0, 2, 2, 3]),  # frames that do not come evenly
        ((4, np.array([5.0, 5.1, 5.2, 8.0]), 2, 1), [0, 3]),
    ],
)
def test_which_frames_are_taken(arguments, expected):
    assert choose_frames(*arguments).tolist() == expected


def test_all_forms_of_a_clip_are_read_alike(tmp_path):
    clip = random_clip()
    path = tmp_path / "clip.mkv"
    path.write_bytes(encoded_clip(clip))
    pictures = [Image.fromarray(frame) for frame in clip]
    files = []
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    contents = [{"bytes": file.read_bytes(), "path": None} for file in files]
    first_axis = torch.from_numpy(clip).movedim(-1, 1)
    forms = [
        path,
        str(path),
        path.read_bytes(),
        {"bytes": path.read_bytes(), "path": None},
        io.BytesIO(path.read_bytes()),
        bytearray(path.read_bytes()),
        memoryview(path.read_bytes()),
        {"bytes": bytearray(path.read_bytes())},
    ]
    forms += [[bytearray(file.read_bytes()) for file in files], [memoryview(file.read_bytes()) for file in files]]
    forms += [clip, first_axis, list(clip), pictures, files, contents, [frame.tolist() for frame in clip]]
    processor = build_processor(size={"height": 12, "width": 16})
    expected = processor(clip)["pixel_values"]
    assert expected.shape == (1, 6, 3, 12, 16)
    several = PerceiverStudyProcessor({"clip": processor})
    for form in forms[:-1]:
        for made in (processor(form), processor([form]), several({"clip": form})):
            torch.testing.assert_close(made["pixel_values"], expected, rtol=0, atol=0)
    assert len(read_frames(forms[-1], everything)) == 6


def test_grey_and_colour():
    clip = random_clip()
    grey = build_processor(num_channels=1)(clip)["pixel_values"]
    assert grey.shape == (1, 6, 1, 6, 8)
    flat = np.repeat(clip[..., :1], 3, axis=-1)
    of_grey = build_processor()(clip[..., 0])["pixel_values"]
    torch.testing.assert_close(of_grey, build_processor()(flat)["pixel_values"])


RGBA = np.concatenate([random_clip(), random_clip(seed=1)[..., :1]], axis=-1)
TRANSPARENT = {
    "uint8": RGBA,
    "uint16": RGBA.astype(np.uint16) * 257,
    "int32": RGBA.astype(np.int32),
    "floats": RGBA.astype(np.float32),
    "white": np.full((2, 12, 16, 4), 255, np.float32),
    "floats to 1": RGBA / 255,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"rescale_factor": 1 / 65535}, {"do_rescale": False}])
@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_clips_are_laid_on_white_as_pictures_are(kind, settings, channels):
    """Whatever white is in them, for settings of the processor and of a call."""
    clip = TRANSPARENT[kind]
    mean = {"num_channels": channels, "image_mean": [0.4] * channels, "image_std": [0.5] * channels}
    pictures = PerceiverStudyImageProcessor(size=SIZE, do_fourier_encode=False, **mean, **settings)
    expected = pictures(list(clip))["pixel_values"]
    tolerance = 1e-6 * max(1, expected.abs().max().item())
    for found in (build_processor(**mean, **settings)(clip), build_processor(**mean)(clip, **settings)):
        torch.testing.assert_close(found["pixel_values"][0], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("codec", "form", "pixels"), [("apng", "apng", "rgba"), ("ffv1", "matroska", "bgra")])
def test_transparent_files_are_laid_on_white_as_pictures_are(codec, form, pixels):
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *RGBA.shape[1:3], pixels
        for frame in RGBA:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba").reformat(format=pixels)))
        container.mux(stream.encode())
    for found, picture in zip(read_frames(file.getvalue(), everything), RGBA, strict=True):
        white = Image.new("RGBA", picture.shape[1::-1], (255, 255, 255, 255))
        white.alpha_composite(Image.fromarray(picture))
        np.testing.assert_allclose(found, np.asarray(white.convert("RGB")), rtol=0, atol=1)


@pytest.mark.parametrize("times", [[*range(0, 1000, 100), *range(1000, 11000, 1000)], [*range(0, 2000, 100)]])
def test_frames_of_a_second_are_those_seen_in_it(times):
    """Also of a file whose frames do not come evenly; in milliseconds."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 8, 8, "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((8, 8, 3), number, np.uint8), format="rgb24")
            frame = frame.reformat(format="bgr0")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = [int(frame[0, 0, 0]) for frame in build_processor(fps=1, num_frames=None).read(file.getvalue())]
    seen = [max(number for number, time in enumerate(times) if time <= 1000 * second) for second in range(len(found))]
    assert found == seen and len(found) == -(-times[-1] // 1000) + (times[-1] % 1000 == 0)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 3, 1, 2, 10], [0, 1, 2, 3, 10]),  # in the order of a file, which is not that in which they are seen
        ([0, 33, 67, 100, 133], None),
        ([0, 1], None),
        ([0, None, 9, 10], None),
        ([5, 5, 5, 5], None),
        ([*range(0, 90, 3), *range(0, 60, 2)], None),  # of two files, one behind the other
    ],
)
def test_times_of_frames_that_do_not_come_evenly(times, expected):
    found = video_reading._uneven(times, Fraction(1, 2))
    assert found is None if expected is None else found.tolist() == [time / 2 for time in expected]


@pytest.mark.parametrize(
    ("clip", "settings", "warned"),
    [
        (random_clip() / 255, {}, True),
        (random_clip() / 255, {"do_rescale": False}, False),
        (random_clip().astype(np.float32), {}, False),
        (random_clip(), {}, False),
    ],
)
def test_a_warning_of_clips_that_are_rescaled_already(clip, settings, warned, monkeypatch):
    said = []
    monkeypatch.setattr(image_processing.logger, "warning_once", said.append)
    build_processor(num_frames=1, **settings)(clip)
    assert len(said) == warned


def test_padding_and_masks():
    clips = [random_clip(3), random_clip(8, seed=1), random_clip(20, seed=2)]
    batch = build_processor()(clips)
    assert batch["pixel_values"].shape == (3, 8, 3, 6, 8)
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 8, 8]
    assert not batch["pixel_values"][0, 3:].any()
    model = build_model().double()
    together = model(batch["pixel_values"].double(), batch["attention_mask"]).logits
    for clip, logits in zip(clips, together, strict=True):
        alone = build_processor()(clip)
        own = model(alone["pixel_values"].double(), alone["attention_mask"]).logits[0]
        torch.testing.assert_close(own, logits, rtol=0, atol=1e-12)


def test_sampled_clips_are_of_one_length():
    batch = build_processor(do_sample_frames=True)([random_clip(3), random_clip(20)])
    assert batch["attention_mask"].all() and batch["pixel_values"].shape[1] == 8
    given = build_processor()(random_clip(20), frame_indices=[0, 19])
    assert given["pixel_values"].shape[1] == 2


@pytest.mark.parametrize("lengths", [(9, 7), (4, 4), (2, 12)])
def test_a_list_of_grey_clips_is_no_clip_of_grey_frames(lengths):
    processor = build_processor(size={"height": 6, "width": 8}, image_mean=[0.5], image_std=[0.5])
    clips = [random_clip(length)[..., 0] for length in lengths]
    batch = processor(clips)
    assert batch["attention_mask"].sum(dim=1).tolist() == [min(8, length) for length in lengths]
    torch.testing.assert_close(batch["pixel_values"][0, 0], processor(clips[0])["pixel_values"][0, 0])
    frames = processor([frame[..., None] for frame in clips[0]])
    torch.testing.assert_close(frames["pixel_values"], processor(clips[0])["pixel_values"])


@pytest.mark.parametrize("normalize", ["clip", "pixel"])
def test_normalization_of_each_clip(normalize):
    clip = random_clip(5).astype(np.float32)
    clip[:, :, :8] += 300  # brighter on the left, in all frames
    batch = build_processor(normalize=normalize, do_rescale=False)([clip, random_clip(3)])
    values = batch["pixel_values"][0, :5]
    assert abs(values.mean()) < 1e-5 and abs(values.std(correction=0) - 1) < 1e-5
    assert (values.mean(dim=0).abs().max() < 1e-5) == (normalize == "pixel")
    brighter = build_processor(normalize=normalize, do_rescale=False)(1.5 * clip + 7)["pixel_values"][0]
    torch.testing.assert_close(brighter, values, rtol=0, atol=1e-4)
    still = build_processor(normalize=normalize)(np.full((4, 6, 8, 3), 9, np.uint8))["pixel_values"]
    assert not still.any()


def test_only_frames_that_are_wanted_are_kept_of_a_file():
    clip = random_clip(30)
    batch = build_processor(size={"height": 12, "width": 16}, num_frames=3, fps=5)(encoded_clip(clip, rate=10))
    expected = build_processor(size={"height": 12, "width": 16})(clip[[0, 14, 28]])["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected)


def test_frames_of_a_file_are_upright():
    clip = random_clip(2, height=12, width=20)
    content = encoded_clip(clip)
    frames = read_frames(content, everything)
    np.testing.assert_array_equal(np.stack(frames), clip)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ([], "There are no clips"),
        (np.zeros((0, 6, 8, 3), np.uint8), "has no frames"),
        (np.zeros((6, 8), np.uint8), r"shape \(6, 8\)"),
        ("missing.mp4", "missing.mp4 is not a clip: there is no such file"),
        (b"not a clip at all", "bytes of a clip is not a clip that can be read"),
        ({"path": None, "bytes": None}, "expected `bytes` or `path`"),
        (7, "'int' object is not iterable|expected a file"),
    ],
)
def test_what_is_no_clip_is_refused(clip, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build_processor()(clip)


def test_a_file_without_video_is_refused(tmp_path):
    from tests.task_kinds import encoded_sound

    with pytest.raises(ValueError, match="has no video in it"):
        build_processor()(encoded_sound(np.zeros(100, np.float32)))


@pytest.mark.parametrize("num_frames", [None, 1, 4])
def test_a_file_of_a_header_alone(num_frames):
    content = encoded_clip(random_clip(20, 32, 32))
    with av.open(io.BytesIO(content)) as container:
        first = next(packet for packet in container.demux() if packet.size).pos
    with pytest.raises(ValueError, match="has no frames that can be decoded"):
        build_processor(num_frames=num_frames)(content[:first])


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_a_clip_as_nested_lists_is_one_clip(channels):
    clip = np.random.default_rng(0).integers(0, 256, (5, 10, 12, *channels), np.uint8)
    processor = build_processor(num_frames=4)
    expected = processor(clip.astype(np.int64))
    for given in (clip.tolist(), [frame.tolist() for frame in clip], [clip.tolist()]):
        assert processor(given)["pixel_values"].equal(expected["pixel_values"])
    two = processor([clip.tolist(), clip[:2].tolist()])
    assert two["attention_mask"].sum(dim=1).tolist() == [4, 2]


def test_a_cut_file_gives_the_frames_that_are_there():
    content = encoded_clip(random_clip(20, 32, 32))
    batch = build_processor(num_frames=None)(content[: len(content) * 2 // 3])
    assert 5 < batch["pixel_values"].shape[1] < 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "num_frames=0"),
        ({"num_frames": None, "do_sample_frames": True}, "do_sample_frames=True needs num_frames"),
        ({"fps": -1}, "fps=-1"),
        ({"fps": float("inf")}, "fps=inf: expected None or a number above 0"),
        ({"normalize": "frame"}, "normalize='frame': expected one of 'training', 'clip', 'pixel'"),
        ({"do_fourier_encode": True}, "do_fourier_encode=True: expected False"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_processor(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_channels": 1}, r"image_mean=\(0\.5, 0\.5, 0\.5\): expected a number, or one for each of the 1 channels"),
        ({"image_std": [0.5, 0.5]}, r"image_std=\[0\.5, 0\.5\]: expected a number, or one for each of the 3 channels"),
        ({"num_channels": 2.5}, r"num_channels=2\.5: expected a whole number"),
        ({"rescale_factor": None}, "`rescale_factor` must be specified"),
        ({"image_mean": None}, "`image_mean` and `image_std` must both be specified"),
        ({"do_sample_frames": True, "num_frames": None}, "do_sample_frames=True needs num_frames"),
        ({"crop_first": True, "size": {"shortest_edge": 6}}, "crop_first=True needs a height and a width"),
    ],
)
def test_wrong_settings_of_a_call_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_processor()(random_clip(), **settings)


@pytest.mark.parametrize("settings", [{"fps": "fast"}, {"long_clips": "end"}, {"rescale_factor": None}])
def test_settings_of_a_call_are_refused_before_anything_is_read(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        build_processor()("missing.mp4", **settings)


def test_settings_of_a_call_take_the_place_of_the_own_ones():
    own = {"num_channels": 1, "image_mean": 0.4, "image_std": 0.3, "size": {"height": 4, "width": 5}, "num_frames": 3}
    expected = build_processor(**own)(random_clip())["pixel_values"]
    torch.testing.assert_close(build_processor()(random_clip(), **own)["pixel_values"], expected)


def test_clips_are_given_by_name_too():
    expected = build_processor()(random_clip())["pixel_values"]
    for name in ("videos", "images"):
        torch.testing.assert_close(build_processor()(**{name: random_clip()})["pixel_values"], expected)
    for wrong in ({}, {"videos": random_clip(), "images": random_clip()}):
        with pytest.raises(ValueError, match="Clips are the first argument, or named `videos` or `images`"):
            build_processor()(**wrong)


def test_types_of_what_is_returned():
    clips = [random_clip(3), random_clip(5)]
    tensors, arrays, lists = (build_processor()(clips, return_tensors=kind) for kind in ("pt", "np", None))
    for name, expected in tensors.items():
        assert isinstance(expected, torch.Tensor) and isinstance(arrays[name], np.ndarray)
        assert isinstance(lists[name], list) and all(isinstance(one, np.ndarray) for one in lists[name])
        np.testing.assert_array_equal(arrays[name], expected)
        np.testing.assert_array_equal(np.stack(lists[name]), expected)


def test_clips_of_different_sizes_need_a_size():
    with pytest.raises(ValueError, match="channels first: expected one shape"):
        build_processor(do_resize=False, do_center_crop=False)([random_clip(2), random_clip(2, 10, 10)])
    with pytest.raises(ValueError, match="frames of sizes"):
        build_processor(do_resize=False, do_center_crop=False)([random_clip(1)[0], random_clip(1, 10, 10)[0]])


def test_frames_outside_of_a_clip_are_refused():
    with pytest.raises(ValueError, match="wanted of a clip that has 6"):
        build_processor()(random_clip(), frame_indices=[0, 6])


def test_a_saved_folder_loads_by_auto_classes(tmp_path):
    build_model().save_pretrained(tmp_path)
    build_processor(fps=5).save_pretrained(tmp_path)
    assert isinstance(AutoModelForVideoClassification.from_pretrained(tmp_path), PerceiverStudyForVideoClassification)
    processor = AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(processor).__name__ == "PerceiverStudyVideoProcessor" and processor.fps == 5
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["auto_map"].keys() == {
        "AutoImageProcessor",
        "AutoVideoProcessor",
    }


STRANGER = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np
from transformers import pipeline
from transformers.utils import logging
logging.disable_progress_bar()
folder, clip = sys.argv[1:]
classify = pipeline("video-classification", model=folder, trust_remote_code=True)
found = [classify(source, top_k=1) for source in (clip, open(clip, "rb").read(), list(np.zeros((3, 9, 9, 3), "uint8")))]
assert all(len(answers) == 1 for answers in found) and found[0] == found[1]
assert len(classify([clip, np.zeros((3, 9, 9, 3), "uint8")], batch_size=2)) == 2
assert len(classify(clip, num_frames=4)) == 3 and len(classify(clip, num_frames=2, frame_sampling_rate=2)) == 3
assert "modeling_perceiver_study" not in sys.modules
"""


@pytest.mark.slow
def test_the_pipeline_is_quiet_for_a_stranger(tmp_path):
    build_model().save_pretrained(tmp_path / "model")
    build_processor().save_pretrained(tmp_path / "model")
    (tmp_path / "clip.mkv").write_bytes(encoded_clip(random_clip(12)))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    arguments = ["-c", STRANGER, str(tmp_path / "model"), str(tmp_path / "clip.mkv")]
    run = python(*arguments, folder=tmp_path, environment=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_frames", [6, None])
def test_the_pipeline_answers_as_the_model(dtype, num_frames, tmp_path):
    """In a batch of clips of two lengths, also where all frames are looked at."""
    build_model(dtype).save_pretrained(tmp_path)
    processor = build_processor(num_frames=num_frames)
    processor.save_pretrained(tmp_path)
    classify = pipeline("video-classification", model=str(tmp_path), trust_remote_code=True)
    clips = [random_clip(3), random_clip(12, seed=1)]
    logits = build_model(dtype)(**processor(clips)).logits.float()
    for answers, own in zip(classify(clips, batch_size=2), logits.softmax(dim=-1), strict=True):
        found = torch.tensor([answer["score"] for answer in answers])
        atol = 1e-2 if dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(found, own.sort(descending=True).values, rtol=0, atol=atol)


def test_the_pipeline_spreads_frames_that_it_is_asked_for(tmp_path):
    """Also over a clip of which the model otherwise takes the first ones."""
    build_model().save_pretrained(tmp_path)
    build_processor(long_clips="cut").save_pretrained(tmp_path)
    classify = pipeline("video-classification", model=str(tmp_path), trust_remote_code=True)
    clip = random_clip(12)
    assert classify(clip, num_frames=4) == classify(clip[[0, 4, 7, 11]])
    assert classify(clip) == classify(clip[:8])
    assert classify(clip.tolist()) == classify(clip.astype(np.int64))  # one answer, not one for each frame


@pytest.mark.parametrize("rotation", [0, 90, -90, 180, -180])
def test_frames_are_turned_as_a_file_says(rotation, monkeypatch):
    """Counterclockwise, by the degrees that FFmpeg gives."""
    clip, container = random_clip(2), mock.MagicMock()
    container.streams.video = [SimpleNamespace(type="video", disposition=0)]
    container.decode.return_value = [SimpleNamespace(rotation=rotation, picture=frame) for frame in clip]
    monkeypatch.setattr(video_reading, "open_video", lambda source: (container, "clip"))
    monkeypatch.setattr(video_reading, "_colours", lambda frame: frame.picture)
    found, count = video_reading._decode("clip", [0, 1])
    assert count == 2
    for frame, picture in zip(found, clip, strict=True):
        np.testing.assert_array_equal(frame, np.asarray(Image.fromarray(picture).rotate(rotation, expand=True)))


@pytest.mark.parametrize("fps", [1, 3, 7.5, 10, 12.5, 24, 29])
@pytest.mark.parametrize("rate", [30, 25, 60])
def test_frames_at_each_moment_without_rounding(rate, fps):
    """Moments that lie where a frame begins belong to it, and not to the one before."""
    step = Fraction(rate) / Fraction(fps)
    for count in range(1, 200):
        moments = range(max(1, round(count / step)))
        expected = [min(math.floor(step * moment), count - 1) for moment in moments]
        assert choose_frames(count, float(rate), None, fps=float(fps)).tolist() == expected
        if count > 1 and count / step % 1 != Fraction(1, 2):  # where rounding may decide how many there are
            begins = 40 + np.arange(count) / rate - 40  # rounded, as times of a file are
            assert choose_frames(count, begins, None, fps=float(fps)).tolist() == expected
