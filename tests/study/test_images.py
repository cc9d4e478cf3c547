"""Images that are changed, and how far confidence can be trusted."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import robustness
import train
from lab.errors import UserError
from lab.study import images
from modeling_perceiver_study import PerceiverStudyForImageClassification
from tests.small_data import TINY_RUN, fresh_accelerate, make_parquet


def noise(channels: int = 3, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, channels, 8, 6), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", images.KINDS, ids=lambda kind: kind.name)
def test_stronger_changes_change_more(kind, channels):
    given, rng = noise(channels), np.random.default_rng(0)
    if kind.change is images.resized:
        sizes = [kind.change(given, place, rng).shape for place in (50, 100, 200)]
        assert sizes == [(2, channels, 4, 3), (2, channels, 8, 6), (2, channels, 16, 12)]
    else:
        changed = [kind.change(given, place, rng) for place in kind.places]
        assert all(one.shape == given.shape and one.dtype == np.uint8 for one in changed)
        distances = [float(np.abs(one.astype(float) - given).mean()) for one in changed]
        assert distances == sorted(distances) and distances[-1] > 10
    if kind.same is not None:
        assert np.array_equal(kind.change(given, kind.same, rng), given)


def test_colours_stay_where_they_are():
    given = np.zeros((1, 3, 8, 8), np.uint8)
    given[:, 1] = 200
    for change, place in ((images.compressed, 90), (images.blurred, 2), (images.resized, 200)):
        assert np.abs(change(given, place, None).mean(axis=(0, 2, 3)) - [0, 200, 0]).max() < 3


def test_pixels_move_as_one():
    given = noise()
    found = images.permuted(given)
    assert not np.array_equal(found, given)
    for image, moved in zip(given, found, strict=True):
        before, after = (sorted(map(tuple, one.reshape(3, -1).T.tolist())) for one in (image, moved))
        assert before == after, "channels of a pixel stay together"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_temperature_is_found(temperature):
    """Labels drawn from probabilities that are too sure, or not sure enough, by a known factor."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)).astype(np.float32) * 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) > rng.random((len(logits), 1))).argmax(axis=1)
    given = (temperature * logits, labels)
    found = images.calibration_of(given, given)
    assert found["temperature"] == pytest.approx(temperature, rel=0.03)
    assert found["after"]["expected_calibration_error"] < 0.01
    assert found["after"]["cross_entropy"] <= found["before"]["cross_entropy"] + 1e-9
    assert sum(bin["images"] for bin in found["after"]["bins"]) == len(labels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that tells red, green and blue images, whatever the order of their pixels."""
    folder = tmp_path_factory.mktemp("images")
    fresh_accelerate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        path = f"data.path={make_parquet(folder / 'data')}"
        train.main([*TINY_RUN, path, f"output_dir={folder / 'run'}", "optimization.epochs=12"])
        fresh_accelerate()
        yield folder / "run"
        fresh_accelerate()


@pytest.mark.slow
def test_the_command(trained, tmp_path):
    robustness.main([str(trained), "--output", str(tmp_path), "--samples", "20"])
    results = json.loads((tmp_path / "robustness.json").read_text())
    assert results["images"] == 20 and results["accuracy"] > 0.7
    assert results["permutation"]["with_positions"] == results["accuracy"]
    assert results["permutation"]["largest_difference_of_logits"] < 1e-4
    assert [curve["name"] for curve in results["curves"]] == [kind.name for kind in images.KINDS]
    calibration = results["calibration"]
    assert (calibration["fitted_on"], calibration["judged_on"]) == (12, 21)
    assert results["versions"] and "command" not in results, "which may name folders of this machine"
    table = (tmp_path / "robustness.md").read_text()
    assert "| JPEG of quality 50 |" in table and "expected calibration error" in table
    with Image.open(tmp_path / "robustness.png") as picture:
        assert picture.width > 1000


@pytest.mark.slow
def test_answers_that_are_no_numbers(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "broken")
    model = PerceiverStudyForImageClassification.from_pretrained(folder)
    model.classifier.bias.data.fill_(torch.nan)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"answers to .* images are not finite numbers"):
        robustness.main([str(folder)])
