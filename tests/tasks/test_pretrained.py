"""What comes along from a checkpoint that a recipe starts from, and what does not."""

import json
import re

import pytest
import torch
from transformers import AutoImageProcessor
from transformers.utils import logging

from lab.data.arrays import ArrayDataset
from lab.data.splits import Splits
from lab.errors import UserError
from lab.recipe import load_recipe
from lab.tasks import build_task
from lab.tasks.image_classification import resized
from lab.tasks.pretrained import Pretrained
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForImageClassification, PerceiverStudyModel
from tests.checkpoints import save_checkpoint
from tests.models import SMALL
from tests.small_data import CLASSES

HEAD = ["classifier.bias", "classifier.weight"]
LEARNED = ["model.position_encoding_type=learned", "model.learned_position_channels=6"]


def task_from(checkpoint, *overrides, labels=CLASSES):
    """The task of a recipe that says nothing of a model, for data with these labels."""
    task = build_task(load_recipe(None, [f"pretrained={checkpoint}", "data.name=digits", *overrides]))
    numbers = torch.arange(len(labels)).numpy()
    task.fit(Splits(ArrayDataset(numbers), ArrayDataset(numbers), None, list(labels)))
    return task


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_equal(found, expected, without=()):
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.equal(found[name], expected[name].float()) or name in without, name


def test_a_recipe_without_a_model_takes_all_of_it(tmp_path):
    saved = save_checkpoint(tmp_path, "image_processor.image_std=[0.1,0.2,0.3]", "image_processor.resample=2")
    task = task_from(tmp_path)
    model = task.build_model()
    assert_equal(weights(model), weights(saved))
    assert task.pretrained.origin == {"name": str(tmp_path), "revision": None, "made_anew": [], "resampled": []}
    assert task.pretrained.describe(task.config) == f"starting from {tmp_path}"
    expected = AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=True).to_dict()
    found = task.processor.to_dict()
    for name in ("image_mean", "image_std", "resample", "size", "crop_size"):
        assert list(found[name]) == list(expected[name]) if "image" in name else found[name] == expected[name], name
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(model.eval()(pixels).logits, saved(pixels).logits)


@pytest.mark.parametrize(
    ("overrides", "labels"),
    [
        ([], ["cat", "dog"]),
        ([], ["red", "green", "yellow"]),
        ([], ["green", "red", "blue"]),
        (["model.num_labels=2"], ["cat", "dog"]),
    ],
    ids=["fewer", "other", "another order", "as many as the recipe says"],
)
def test_a_head_for_other_labels_is_made_anew(tmp_path, overrides, labels):
    saved = save_checkpoint(tmp_path, "model.decoder_type=query")
    task = task_from(tmp_path, *overrides, labels=labels)
    torch.manual_seed(1)
    model = task.build_model()
    found, expected = weights(model), weights(saved)
    assert_equal(weights(model.perceiver), weights(saved.perceiver))
    assert_equal(weights(model.decoder), weights(saved.decoder))
    assert found["classifier.weight"].shape == (len(labels), 16)
    assert not torch.equal(found["classifier.weight"][:2], expected["classifier.weight"][:2])
    assert task.pretrained.made_anew == HEAD
    assert "made anew: classifier.bias, classifier.weight" in task.pretrained.describe(task.config)
    assert task.label_names == [model.config.id2label[number] for number in range(len(labels))] == labels
    torch.manual_seed(1)
    assert_equal(weights(task.build_model()), found)


def test_the_recipe_may_say_how_many_labels_there_are(tmp_path):
    save_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"model.num_labels=3, but the data has 2 labels .*: set it to 2"):
        task_from(tmp_path, "model.num_labels=3", labels=["a", "b"])


def test_a_folder_of_the_bare_model_or_with_another_decoder(tmp_path):
    saved = save_checkpoint(tmp_path)
    saved.perceiver.save_pretrained(tmp_path)
    task = task_from(tmp_path, "model.decoder_type=query", labels=["a", "b"])
    model = task.build_model()
    assert_equal(weights(model.perceiver), weights(saved.perceiver))
    assert set(HEAD) < set(task.pretrained.made_anew)
    assert all(name.startswith(("classifier.", "decoder.")) for name in task.pretrained.made_anew)
    assert "model.decoder_type=query (the checkpoint has mean)" in task.pretrained.describe(task.config)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_trained_in_float32(tmp_path, dtype):
    saved = save_checkpoint(tmp_path).to(dtype)
    saved.save_pretrained(tmp_path)
    model = task_from(tmp_path).build_model()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_equal(weights(model), weights(saved))
    model.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["dtype"] == "float32" and str(tmp_path) not in json.dumps(config)


@pytest.mark.parametrize("size", ["16", "[12,6]"])
def test_another_image_size(tmp_path, size):
    """Positions span the same coordinates, with the frequencies that the weights know."""
    saved = save_checkpoint(tmp_path, "model.stem_type=linear")
    task = task_from(tmp_path, f"model.image_size={size}")
    assert task.config.axis_max_frequencies == [4.0, 4.0]
    model = task.build_model().eval()
    assert_equal(weights(model), weights(saved))
    pixels = torch.randn(2, 3, *task.config.grid)
    images = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8).numpy()
    inputs = task.processor(images)
    assert inputs["pixel_values"].shape[2:] == tuple(task.config.grid)
    with torch.no_grad():
        # Grids of any size are accepted: the old model sees the new one's images as the new one does.
        torch.testing.assert_close(model(pixels).logits, saved(pixels).logits)
        torch.testing.assert_close(model(**inputs).logits, model(pixel_values=inputs["pixel_values"]).logits)


def test_sizes_of_the_processor_change_in_proportion():
    settings = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "crop_first": False, "x": 1}
    assert resized(settings, [32, 32], [32, 32]) == settings
    assert resized(settings, [32, 32], [64, 64]) == settings | {
        "size": {"shortest_edge": 80},
        "crop_size": {"height": 64, "width": 64},
    }
    assert resized(settings, [32, 32], [64, 32]) == {"x": 1}


@pytest.mark.parametrize("project", ["true", "false"])
def test_learned_positions_are_resampled(tmp_path, project):
    saved = save_checkpoint(tmp_path, *LEARNED, f"model.project_learned_positions={project}")
    task = task_from(tmp_path, "model.image_size=[12,6]")
    model = task.build_model().eval()
    assert task.pretrained.resampled == ["perceiver.inputs.learned_positions.weight"]
    assert task.pretrained.made_anew == []
    pixels = torch.randn(2, 3, 12, 6)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, saved(pixels).logits)


@pytest.mark.parametrize(
    ("of_checkpoint", "overrides", "named"),
    [
        (
            [],
            ["model.d_latents=32"],
            [
                r"perceiver\.\S+ \(\(\S+, 16\) in the checkpoint, \(\S+, 32\) here\)",
                r"and \d+ more",
                "d_latents=32 .* has 16",
            ],
        ),
        (
            [],
            ["model.num_blocks=2", "model.share_block_weights=false"],
            [r"not in the checkpoint", r"num_blocks=2 .* 1\)"],
        ),
        (["model.num_self_attends_per_block=2"], ["model.num_self_attends_per_block=1"], ["not in this model"]),
        (
            LEARNED,
            ["model.position_encoding_type=fourier", "model.learned_position_channels=null"],
            ["not in this model"],
        ),
        (LEARNED, ["model.learned_position_channels=8"], [r"learned_positions.weight \(\(64, 6\) in the checkpoint"]),
        ([], ["model.num_frequency_bands=3"], ["num_frequency_bands=3 .the checkpoint has 2."]),
        (
            [],
            ["model.num_channels=1", "image_processor.image_mean=[0]", "image_processor.image_std=[1]"],
            ["num_channels=1"],
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed(tmp_path, of_checkpoint, overrides, named):
    save_checkpoint(tmp_path, *of_checkpoint)
    with pytest.raises(UserError) as raised:
        task_from(tmp_path, *overrides).build_model()
    message = str(raised.value)
    assert message.startswith(f"pretrained={tmp_path}: weights do not fit the model: ") and "\n" not in message
    for pattern in named:
        assert re.search(pattern, message), message


def test_other_keys_override_the_checkpoint(tmp_path):
    save_checkpoint(tmp_path)
    task = task_from(tmp_path, "model.attention_probs_dropout_prob=0.25", "image_processor.resample=0")
    assert task.build_model().config.attention_probs_dropout_prob == 0.25
    assert task.processor.resample == 0
    assert "model.attention_probs_dropout_prob=0.25 (the checkpoint has 0.0)" in task.pretrained.describe(task.config)


def test_nothing_is_printed_but_one_line(tmp_path, capfd):
    save_checkpoint(tmp_path)
    task = task_from(tmp_path, labels=["a", "b"])
    capfd.readouterr()
    logging.set_verbosity_info()
    task.build_model()
    assert "".join(capfd.readouterr()) == ""
    assert logging.get_verbosity() == logging.INFO


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"cannot be loaded: .* no config.json in it"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"cannot be loaded: .*model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), r"cannot be loaded: "),
        (
            lambda folder: (folder / "preprocessor_config.json").unlink(),
            r"cannot be loaded: .*preprocessor_config.json",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "perceiver"}'),
            r"cannot be loaded: it holds a perceiver model; expected perceiver_study \(scripts/convert.py",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_used(tmp_path, spoil, message):
    save_checkpoint(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=rf"^pretrained={tmp_path} {message}"):
        task_from(tmp_path).build_model()


def test_pickled_weights_are_not_read(tmp_path):
    model = save_checkpoint(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot be loaded: .*model\.safetensors"):
        task_from(tmp_path).build_model()


def test_what_is_neither_a_folder_nor_a_name(tmp_path):
    with pytest.raises(UserError, match=r"pretrained=\S+nowhere cannot be loaded: .*no such folder, and no OWNER/NAME"):
        task_from(tmp_path / "nowhere")


def test_home_is_expanded(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    task = task_from("~/mine")
    assert task.build_model().num_parameters() > 0 and task.pretrained.name == str(tmp_path / "mine")


def test_another_kind_of_labels_makes_the_head_anew_too(tmp_path):
    """A regression starts from a classifier; the body comes along."""
    saved = save_checkpoint(tmp_path)
    recipe = load_recipe(None, [f"pretrained={tmp_path}", "data.name=digits", "model.problem_type=regression"])
    task = build_task(recipe)
    numbers = torch.rand(5, 1).numpy()
    task.fit(Splits(ArrayDataset(numbers), ArrayDataset(numbers), None, ["length"]))
    model = task.build_model()
    assert_equal(weights(model.perceiver), weights(saved.perceiver))
    assert task.pretrained.made_anew == HEAD and model.config.num_labels == 1


def test_a_finished_regression_goes_on_in_the_units_of_new_labels(tmp_path):
    """Its answers in the labels' own units are at first what they were, whatever the new labels' mean and deviation."""
    saved = save_checkpoint(tmp_path, "model.problem_type=regression")
    task = build_task(load_recipe(None, [f"pretrained={tmp_path}", "data.name=digits"]))
    numbers = 7 + 5 * torch.rand(50, 3).numpy()
    task.fit(Splits(ArrayDataset(numbers), ArrayDataset(numbers), None, CLASSES))
    model = task.build_model().eval()
    assert task.pretrained.made_anew == []
    pixels = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected, outputs = saved(pixels).logits, model(pixels)
        answers = task.judge([outputs], torch.zeros(4, 3))["logits"]
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(outputs.logits, expected, atol=0.1)
    assert_equal(weights(model), weights(saved), without=HEAD)
    finished = task.finish(weights(model))
    torch.testing.assert_close(finished["classifier.bias"], saved.classifier.bias.detach())
    torch.testing.assert_close(finished["classifier.weight"], saved.classifier.weight.detach())


def test_positions_of_four_axes_cannot_be_resampled(tmp_path):
    """A clear error instead of positions that mean nothing."""
    fields = {"num_axes": 4, "num_channels": 2, "position_encoding_type": "learned", "learned_position_channels": 4}
    old = PerceiverStudyConfig(**SMALL | fields | {"image_size": [2, 2, 2, 2]})
    PerceiverStudyForImageClassification(old).save_pretrained(tmp_path)
    pretrained = Pretrained(str(tmp_path), None, {}, [], {})
    new = PerceiverStudyConfig(**SMALL | fields | {"image_size": [3, 2, 2, 2]})
    with pytest.raises(UserError, match=r"Learned positions of 4 axes cannot be resampled"):
        pretrained.load(PerceiverStudyForImageClassification, new)


def test_the_bare_model_can_be_what_is_loaded(tmp_path):
    saved = save_checkpoint(tmp_path)
    pretrained = task_from(tmp_path).pretrained
    assert_equal(weights(pretrained.load(PerceiverStudyModel, saved.config)), weights(saved.perceiver))
