import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import attention_maps
import predict
import score
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from modeling_perceiver_study import (
    PerceiverStudyForImageClassification,
    PerceiverStudyForPointCloudClassification,
    PerceiverStudyPointCloudProcessor,
)
from tests.checkpoints import save_checkpoint
from tests.models import small_model
from tests.small_data import CLASSES, TINY_RUN, coloured_images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained model whose classifier prefers `green`."""
    recipe = load_recipe(DEFAULT_RECIPE, TINY_RUN)
    config = build_task(recipe).config
    config.id2label = dict(enumerate(CLASSES))
    model = PerceiverStudyForImageClassification(config)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.copy_(model.classifier.bias.new_tensor([0.0, 2.0, 1.0]))
    folder = tmp_path_factory.mktemp("predict") / "checkpoint"
    model.save_pretrained(folder)
    build_task(recipe).processor.save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for path, image in zip(paths, coloured_images(2, seed=0, size=12)[0], strict=True):
        image.save(path)
    return [str(path) for path in paths]


def test_a_table_for_each_image(checkpoint, images, capsys):
    predict.main([str(checkpoint), *images])
    captured = capsys.readouterr()
    probabilities = 100 * np.exp([2, 1, 0]) / np.exp([2, 1, 0]).sum()
    table = "".join(
        f"  {name:<5}  {share:5.1f} %\n" for name, share in zip(["green", "blue", "red"], probabilities, strict=True)
    )
    assert captured.out == "".join(f"{path}\n{table}" for path in images)
    assert captured.err == ""


def test_top_k(checkpoint, images, capsys):
    predict.main([str(checkpoint), images[0], "--top_k", "1"])
    assert capsys.readouterr().out.splitlines()[1:] == ["  green   66.5 %"]


def refused(command, capsys, *arguments):
    """What a command says on its one line of error about a file."""
    if command is predict:
        with pytest.raises(SystemExit, match=r"^1$"):
            predict.main([*map(str, arguments)])
        return capsys.readouterr().err.removeprefix("error: ").removesuffix("\n")
    with pytest.raises(UserError) as caught:
        command.main([*map(str, arguments)])
    return str(caught.value)


def test_missing_image(checkpoint, capsys):
    assert refused(predict, capsys, checkpoint, "absent.png") == "absent.png: no such file"


def test_a_folder_of_images(checkpoint, tmp_path, capsys):
    assert refused(predict, capsys, checkpoint, tmp_path).endswith(" is a folder: expected a file")


def test_a_file_that_is_no_image(checkpoint, tmp_path, capsys):
    path = tmp_path / "text.png"
    path.write_text("not an image")
    assert "text.png is not a readable image: cannot identify" in refused(predict, capsys, checkpoint, path)


def test_a_truncated_image(checkpoint, tmp_path, capsys):
    path = tmp_path / "half.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    assert "half.png is not a readable image" in refused(predict, capsys, checkpoint, path)


def test_files_that_can_be_read_have_answers_beside_others(checkpoint, images, tmp_path, capsys):
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(SystemExit, match=r"^1$"):
        predict.main([str(checkpoint), "absent.png", images[0], str(tmp_path / "text.png"), images[1], "--top_k", "1"])
    captured = capsys.readouterr()
    assert captured.out == "".join(f"{path}\n  green   66.5 %\n" for path in images)
    first, second = captured.err.splitlines()
    assert first == "error: absent.png: no such file" and "text.png is not a readable image" in second


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "{folder}/nowhere"])
def test_missing_checkpoint(images, tmp_path, name):
    with pytest.raises(UserError, match=r": no such folder, and no OWNER/NAME"):
        predict.main([name.format(folder=tmp_path), *images])


def test_a_folder_without_a_model(images, tmp_path):
    with pytest.raises(UserError, match=r"does not hold a finished checkpoint"):
        predict.main([str(tmp_path), *images])


@pytest.mark.parametrize("command", [predict, score])
def test_a_run_that_is_not_finished(images, tmp_path, command):
    save_checkpoint(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=r"holds a run that is not finished: there is no metrics.json in it; finish it"):
        command.main([str(tmp_path), *images][: 2 if command is predict else 1])


@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors"])
def test_a_folder_that_cannot_be_loaded(images, tmp_path, damaged):
    save_checkpoint(tmp_path)
    (tmp_path / damaged).write_text("{}")
    with pytest.raises(UserError, match=r"cannot be loaded: .") as caught:
        predict.main([str(tmp_path), *images])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", [predict, attention_maps])
@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        ("weights", r"not hold a whole model for image-classification: 1 weights are missing \(classifier.weight\)"),
        ("classes", r"cannot be loaded: its weights have other shapes than its config.json says"),
    ],
)
def test_a_head_that_would_be_made_up(images, tmp_path, command, lacks, message):
    save_checkpoint(tmp_path)
    if lacks == "weights":
        weights = load_file(tmp_path / "model.safetensors")
        del weights["classifier.weight"]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    else:
        settings = json.loads((tmp_path / "config.json").read_text())
        settings |= {"id2label": {str(label): f"class {label}" for label in range(5)}, "label2id": {}}
        (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        command.main([str(tmp_path), images[0]])


def test_answers_that_are_no_numbers(images, tmp_path, capsys):
    model = save_checkpoint(tmp_path)
    model.classifier.bias.data.fill_(torch.nan)
    model.save_pretrained(tmp_path)
    assert "one.png: answers are not finite numbers" in refused(predict, capsys, tmp_path, images[0])


@pytest.mark.parametrize("command", [predict, attention_maps])
@pytest.mark.parametrize(
    ("shape", "message"),
    [((10, 5), r"cloud.npy: a cloud has shape \(10, 5\)"), ((2, 10, 3), r"cloud.npy has shape .*: expected one cloud")],
)
def test_a_cloud_that_does_not_fit(tmp_path, capsys, command, shape, message):
    fields = {"num_axes": 3, "num_channels": 0, "image_size": 32, "num_frequency_bands": 2}
    kind = PerceiverStudyForPointCloudClassification
    small_model(model_class=kind, input_type="points", **fields).save_pretrained(tmp_path / "model")
    PerceiverStudyPointCloudProcessor().save_pretrained(tmp_path / "model")
    np.save(tmp_path / "cloud.npy", np.zeros(shape))
    assert re.search(message, refused(command, capsys, tmp_path / "model", tmp_path / "cloud.npy"))
