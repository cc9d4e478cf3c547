"""What only a task of several modalities has: samples that lack some, modalities that are withheld, shared mixup."""

import json

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import score
import train
from lab.data.several import SeveralDecoder
from lab.data.sound import SoundDecoder
from lab.errors import UserError
from lab.recipe import Data, load_recipe
from lab.tasks import build_task
from lab.tasks.task import drawn
from modeling_perceiver_study import PerceiverStudyFeatureExtractor
from tests.small_data import fresh_accelerate
from tests.task_kinds import KINDS

KIND = KINDS["multimodal"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return KIND.write_data(tmp_path_factory.mktemp("several") / "data")


def build(folder, *overrides):
    return build_task(load_recipe(None, [*KIND.recipe, f"data.path={folder}", *overrides]))


def test_a_sample_that_lacks_a_modality_is_answered_from_the_other(folder):
    task = build(folder)
    splits = task.load_splits()
    there = splits.train.there
    assert 0 < (~there["video"]).sum() < len(splits.train) and not (~there["video"] & ~there["sound"]).any()
    model = task.build_model().eval()
    row = int(np.flatnonzero(~there["video"])[0])
    arguments, _ = task.inputs(splits.train.__getitems__([row, int(np.flatnonzero(there["video"])[0])]))
    assert arguments["video_attention_mask"][0].sum() == 0 and arguments["video_attention_mask"][1].sum() > 0
    logits = model(**arguments).logits[0]
    length = int(arguments["sound_attention_mask"][0].sum())
    alone = model(input_values=arguments["input_values"][:1, :, :length]).logits[0]
    torch.testing.assert_close(logits, alone, rtol=0, atol=1e-5)


def test_a_withheld_modality_is_not_shown(folder):
    task = build(folder, "data.withhold=[sound]", "data.on_error=skip")
    splits = task.load_splits()
    arguments, _ = task.inputs(splits.validation.__getitems__([0, 1, 2]))
    assert not arguments["sound_attention_mask"].any()


def test_a_withheld_modality_leaves_validation_samples_what_they_are(folder):
    kept = build(folder).load_splits().validated
    task = build(folder, "data.withhold=[sound]", "data.on_error=skip")
    task.validated = kept
    assert len(task.load_split("validation"))


def test_samples_of_which_everything_is_withheld_are_refused(folder):
    with pytest.raises(UserError, match="not a usable sample: it has none of"):
        build(folder, "data.withhold=[sound,video]").load_splits()


def test_mixup_has_one_share_for_all_modalities(folder):
    task = build(folder, "augmentation.mixup_alpha=0.5")
    splits = task.load_splits()
    batch = splits.train.__getitems__(list(range(4)))
    mixed, targets = task.training_inputs(batch, 2, 0)
    plain, labels = build(folder).training_inputs(batch, 2, 0)
    share = targets[0, labels[0]] if labels[0] != labels[1] else None
    if share is not None:
        for name in ("pixel_values", "input_values"):
            expected = share * plain[name][0] + (1 - share) * plain[name][1]
            torch.testing.assert_close(mixed[name][0], expected, rtol=0, atol=1e-5)
    parts = [task.training_inputs(splits.train.__getitems__(rows), 2, rows[0])[1] for rows in ([0, 1], [2, 3])]
    torch.testing.assert_close(torch.cat(parts), targets)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.withhold=[smell]", "smell: expected a modality, one of video, sound"),
        ("augmentation.modalities={smell: {}}", "smell: expected a modality"),
        ("augmentation.modalities={sound: {mixup_alpha: 0.2}}", "sound mixes samples"),
        ("augmentation.modalities={sound: {loudness: 2}}", "unknown key 'augmentation.loudness'"),
        ("feature_extractor={}", "give each modality a name"),
        ("feature_extractor.modalities={video: {task: smelling}}", "video.task: expected one of image-class"),
        ("data.columns={frames: frames}", "data.columns.frames: this task reads video, sound, label"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(folder, override, message):
    recipe = [text for text in KIND.recipe if not override.startswith(text.partition("=")[0] + "=")]
    if override.startswith("feature_extractor"):
        recipe = [text for text in recipe if not text.startswith(("feature_extractor", "model.modalities"))]
    with pytest.raises(UserError, match=message):
        build_task(load_recipe(None, [*recipe, f"data.path={folder}", override])).load_splits()


def test_what_is_missing_is_mixed_as_nothing(folder):
    """Padding is 0 in what is mixed, and a stand-in is black."""
    task = build(folder, "augmentation.mixup_alpha=0.5")
    splits = task.load_splits()
    there = splits.train.there["video"]
    lacks = int(np.flatnonzero(~there)[0])
    rows = [lacks, int(np.flatnonzero(there & (splits.train.labels != splits.train.labels[lacks]))[0])]
    batch = splits.train.__getitems__(rows)
    mixed, targets = task.training_inputs(batch, 2, 0)
    plain, labels = build(folder).training_inputs(batch, 2, 0)
    assert plain["pixel_values"][0].abs().max() == 0
    shares = [targets[0, labels[1]], targets[1, labels[1]]]  # of the one that has frames, in either
    for row, share in enumerate(shares):
        expected = share * plain["pixel_values"][1]
        torch.testing.assert_close(mixed["pixel_values"][row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_two_modalities_of_one_kind(kind):
    """Each has random changes of its own, and its input a name of its own."""
    audio = {"task": "audio-classification", "sampling_rate": 100, "max_length": 40}
    described = {"audio": audio, "video": {"task": "video-classification"}}[kind]
    fields = {"audio": {}, "video": {"image_size": [4, 8, 8], "num_channels": 1}}[kind] | {"num_frequency_bands": 2}
    changes = {"audio": {"noise": [0, 1]}, "video": {"noise": 1.0, "flip": True}}[kind]
    model = {"num_labels": 2, "num_latents": 4, "d_latents": 8}
    model["modalities"] = {"one": fields, "two": fields | {"input_name": "others"}}
    recipe = {
        "task": "multimodal-classification",
        "feature_extractor": {"modalities": {"one": described, "two": described}},
        "model": model,
        "augmentation": {"modalities": {"one": changes, "two": changes}},
        "data": {"path": "nowhere"},
    }
    overrides = [f"{section}={json.dumps(value)}" for section, value in recipe.items()]
    task = build_task(load_recipe(None, overrides))
    shape = {"audio": (2, 40, 1), "video": (2, 4, 1, 8, 8)}[kind]
    values = torch.rand(shape) if kind == "audio" else torch.randint(256, shape, dtype=torch.uint8)
    batch = {"labels": torch.tensor([0, 1])}
    for name in ("one", "two"):
        batch |= {f"{name}.values": values, f"{name}.lengths": torch.full((2,), shape[1])}
        batch[f"{name}.there"] = torch.ones(2, dtype=torch.bool)
    arguments, _ = task.training_inputs(batch, 1, 0)
    first = {"audio": "input_values", "video": "pixel_values"}[kind]
    assert (arguments[first] - arguments["others"]).abs().max() > 0.1
    model = task.build_model()
    assert model(**arguments).logits.shape == (2, 2)
    if kind == "audio":
        assert all(model.config.modality_config(name).absolute_positions for name in ("one", "two"))


def test_other_tasks_withhold_nothing():
    with pytest.raises(UserError, match="samples of task=audio-classification have a single input"):
        build_task(load_recipe(None, [*KINDS["waveforms"].recipe, "data.path=/tmp", "data.withhold=[sound]"]))


@pytest.mark.slow
def test_scores_with_a_modality_withheld_and_a_fine_tuned_copy(folder, tmp_path):
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    common = [f"--config={tmp_path / 'plain.yaml'}", f"data.path={folder}", "logging.log_with=null"]
    fresh_accelerate()
    train.main([*common, *KIND.recipe, f"output_dir={tmp_path / 'run'}"])
    scores = {}
    for withheld in ("", "video", "sound"):
        fresh_accelerate()
        output = tmp_path / f"without-{withheld}"
        score.main(
            [str(tmp_path / "run"), "--output", str(output), f"data.withhold=[{withheld}]", "data.on_error=skip"]
        )
        scores[withheld] = json.loads((output / "evaluation.json").read_text())
    assert scores["video"]["data_settings"]["withhold"] == ["video"]
    assert scores["video"]["loss"] != scores["sound"]["loss"] != scores[""]["loss"]
    fresh_accelerate()
    columns = next(text for text in KIND.recipe if text.startswith("data.columns"))
    tuned = ["task=multimodal-classification", columns, f"pretrained={tmp_path / 'run'}", "data.validation_samples=12"]
    tuned += ["optimization.epochs=1", "optimization.batch_size=8", "optimization.learning_rate=0"]
    train.main([*common, *tuned, f"output_dir={tmp_path / 'tuned'}"])
    found = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["test_loss"] == pytest.approx(kept["test_loss"], abs=1e-5)


def test_crops_of_pictures_that_would_do_nothing_are_refused():
    sound = "sound: {task: audio-classification, max_length: 160}"
    parts = f"feature_extractor.modalities={{image: {{task: image-classification}}, {sound}}}"
    inputs = "model.modalities={image: {image_size: 8}, sound: {patch_size: 16}}"
    crops = "augmentation.modalities={image: {random_resized_crop: [0.5, 1.0]}}"
    recipe = ["task=multimodal-classification", "data.name=x", "model.num_labels=3", parts, inputs, crops]
    with pytest.raises(UserError, match=r"augmentation.modalities.image.random_resized_crop: it is for pictures alone"):
        build_task(load_recipe(None, recipe))


def test_series_beside_others_lie_as_their_column_says():
    sound = SoundDecoder(Data(name="x"), PerceiverStudyFeatureExtractor(2, do_rescale=False))
    decoder = SeveralDecoder(Data(name="x"), {"sound": sound}, {"sound": np.zeros((1, 2), np.float32)})
    square = [[0.0, 10.0], [1.0, 11.0]]  # two moments of two channels
    decoder.look_at({"sound": [None, [], [*square, [2.0, 12.0]], square]})
    assert decoder.decode_row({"sound": square})["sound"].tolist() == square
    with pytest.raises(ValueError, match="it has none of sound"):
        decoder.decode_row({"sound": []})


def test_samples_that_are_shown_are_drawn_by_chance():
    rows = drawn(100, 8).tolist()
    assert rows == drawn(100, 8).tolist() != sorted(rows) and len({*rows}) == 8 and max(rows) > 50
    assert sorted(drawn(3, 8).tolist()) == [0, 1, 2]


def test_texts_cannot_be_blended():
    recipe = [*KINDS["captions"].recipe, "data.path=nowhere", "augmentation.mixup_alpha=0.3"]
    with pytest.raises(UserError, match="text is no grid, and cannot be blended; set it to 0"):
        build_task(load_recipe(None, recipe))


def test_what_is_said_of_a_modality_changes_nothing_else(folder, tmp_path):
    """Of a checkpoint that training starts from; a longer recording changes what follows from its length."""
    task = build(folder)
    task.build_model().save_pretrained(tmp_path)
    task.processor.save_pretrained(tmp_path)
    start = ["task=multimodal-classification", f"data.path={folder}", f"pretrained={tmp_path}"]

    def again(*changes):
        return build_task(load_recipe(None, [*start, *changes])).config.modalities

    own = task.config.modalities
    assert again() == own == again("feature_extractor.modalities={sound: null}", "model.modalities={sound: null}")
    halved = again("feature_extractor.modalities.sound.max_length=80")
    assert halved["sound"]["image_size"] == 80 and halved["video"] == own["video"]
    wider = again("model.modalities={sound: {patch_size: 8}}")
    assert wider["sound"] == own["sound"] | {"patch_size": 8} and wider["video"] == own["video"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("broken", ["picture", "sound", "cloud"])
def test_the_file_of_the_broken_input_is_named(tmp_path, broken, streaming):
    rows = []
    for number in range(6):
        files = {"picture": f"{number}.png", "sound": f"{number}.wav", "cloud": f"{number}.npy"}
        Image.new("RGB", (8, 8)).save(tmp_path / files["picture"])
        soundfile.write(tmp_path / files["sound"], np.zeros(80), 8000)
        np.save(tmp_path / files["cloud"], np.zeros((4, 3)))
        rows.append({**files, "label": number % 2})
    content = {"picture": b"nothing", "sound": b"nothing"}
    for row in rows:
        if broken == "cloud":
            np.save(tmp_path / row["cloud"], np.zeros((4, 2)))
        else:
            (tmp_path / row[broken]).write_bytes(content[broken])
    for split in ("train-0", "train-1"):
        lines = [json.dumps(row) + "\n" for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    kinds = {"picture": "image", "sound": "audio", "cloud": "point-cloud"}
    recipe = ["task=multimodal-classification", "model.num_labels=2", "model.modalities.picture.image_size=8"]
    recipe += ["model.modalities.sound.patch_size=16", "feature_extractor.modalities.sound.max_length=80"]
    recipe += [f"feature_extractor.modalities.{name}.task={kind}-classification" for name, kind in kinds.items()]
    recipe += [f"data.path={tmp_path}", "data.columns={picture: picture, sound: sound, cloud: cloud}"]
    recipe += ["data.test_split=null", "data.validation_samples=2", "data.train_samples=4"]
    task = build_task(load_recipe(None, [*recipe, f"data.streaming={streaming}"]))
    ending = {"picture": "png", "sound": "wav", "cloud": "npy"}[broken]
    message = rf"\d\.{ending}\)? .*is not a usable sample: {broken}: "
    with pytest.raises(UserError, match=message) as caught:
        task.load_splits()
    assert " object at " not in str(caught.value)
