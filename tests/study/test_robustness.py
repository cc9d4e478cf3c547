"""Turned clouds and missing points."""

import json

import datasets
import numpy as np
import pytest
import torch

import robustness
import train
from lab.errors import UserError
from lab.study.robustness import _thinned
from tests.small_data import fresh_accelerate
from tests.task_kinds import KINDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that tells lines along x, y and z, which turning confuses."""
    folder = tmp_path_factory.mktemp("robustness")
    (folder / "data").mkdir()
    for split, count in (("train", 72), ("test", 30)):
        rng, labels = np.random.default_rng(count), np.arange(count) % 3
        clouds = rng.normal(size=(count, 20, 3)) * 0.05
        clouds[np.arange(count), :, labels] *= 20
        rows = {"cloud": clouds.tolist(), "label": ["xyz"[label] for label in labels]}
        datasets.Dataset.from_dict(rows).to_parquet(folder / "data" / f"{split}.parquet")
    (folder / "recipe.yaml").write_text("data: {name: made-up}\n")
    fresh_accelerate()
    arguments = [*KINDS["points"].recipe, f"data.path={folder / 'data'}", f"output_dir={folder / 'run'}"]
    more = ["model.num_channels=0", "optimization.epochs=8", "checkpoint.every_steps=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        train.main(["--config", str(folder / "recipe.yaml"), *arguments, *more])
        yield folder / "run"


def test_the_command(trained, tmp_path):
    robustness.main([str(trained), "--output", str(tmp_path)])
    results = json.loads((tmp_path / "robustness.json").read_text())
    assert results["clouds"] == 30 and (tmp_path / "robustness.png").stat().st_size > 10_000
    for curve in results["rotations"]:
        at = dict(zip(curve["places"], curve["accuracies"], strict=True))
        assert at[0] == at[180] == 1, "half a turn leaves a line as it is"
        assert at[90] == pytest.approx(1 / 3), "a quarter swaps two of them"
    kept = results["missing"]
    assert kept["accuracies"][0] == 1 and kept["places"][0] == 1


def test_a_part_is_of_images_alone(trained):
    with pytest.raises(UserError, match="--samples is for images"):
        robustness.main([str(trained), "--samples", "5"])


def test_points_that_are_left_out():
    mask = torch.arange(8) < torch.tensor([8, 5, 1])[:, None]
    found = _thinned({"attention_mask": mask}, 0.25, np.random.default_rng(0))["attention_mask"]
    assert found.sum(dim=1).tolist() == [2, 2, 1] and not (found & ~mask).any()
