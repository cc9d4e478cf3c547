"""Clouds of points with labels: what the tests of all tasks leave open."""

import json

import datasets
import numpy as np
import pytest
import torch

import train
from lab.errors import UserError
from lab.recipe import load_recipe
from lab.tasks import build_task
from lab.training.run_folder import RESULTS
from modeling_perceiver_study import PerceiverStudyPointCloudProcessor
from tests.small_data import fresh_accelerate
from tests.task_kinds import KINDS, SHAPES, clouds, make_points

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("points")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield make_points(folder / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("runs")

    def run(name, *overrides):
        fresh_accelerate()
        arguments = [
            *KINDS["points"].recipe,
            f"data.path={data}",
            "data.columns.label=label",
            f"output_dir={outputs / name}",
            *overrides,
        ]
        train.main(["--config", str(make_recipe(outputs)), *arguments])
        return outputs / name

    return run


def make_recipe(folder):
    """A recipe with nothing in it, as the default one is about images."""
    path = folder / "empty.yaml"
    path.write_text("data: {name: made-up}\n")
    return path


@pytest.fixture(scope="module")
def trained(run):
    return run("whole")


def test_it_learns(trained):
    metrics = json.loads((trained / RESULTS).read_text())
    assert metrics["task"] == "point-cloud-classification" and metrics["test_accuracy"] > 0.5
    config = json.loads((trained / "config.json").read_text())
    assert list(config["id2label"].values()) == SHAPES


@pytest.mark.parametrize("labels", ["[spread,height]", "spread"])
def test_numbers(run, labels):
    count = labels.count(",") + 1
    settings = ["model.problem_type=regression", f"model.num_labels={count}", "augmentation.mix_alpha=0.3"]
    folder = run(f"numbers-{count}", *settings, f"data.columns.label={labels}")
    assert "test_mean_absolute_error" in json.loads((folder / RESULTS).read_text())


def test_paths_in_a_table(data, tmp_path):
    """Files are found below the folder of the data."""
    for seed, split in enumerate(("train", "test")):
        lines = ["file,label"]
        for number, (cloud, label) in enumerate(zip(*clouds(30, seed), strict=True)):
            (tmp_path / split).mkdir(exist_ok=True)
            np.save(tmp_path / split / f"{number}.npy", cloud)
            lines.append(f"{split}/{number}.npy,{SHAPES[label]}")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    task = build(tmp_path, "data.columns={points: file, label: label}")
    splits = task.load_splits()
    assert len(splits.train) == 18 and len(splits.test) == 30
    processor = PerceiverStudyPointCloudProcessor(num_features=1)
    np.testing.assert_array_equal(splits.test.sample(4), processor.process_cloud(clouds(30, 1)[0][4]))


@pytest.mark.parametrize("layout", ["{split}/{name}/{number}.npy", "{name}/{split}/{number}.npy"])
def test_folders_of_files(tmp_path, layout):
    """As most have them, and as ModelNet is distributed."""
    for seed, split in enumerate(("train", "test")):
        for number, (cloud, label) in enumerate(zip(*clouds(30, seed), strict=True)):
            path = tmp_path / layout.format(split=split, name=SHAPES[label], number=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, cloud)
    splits = build(tmp_path).load_splits()
    assert splits.label_names == sorted(SHAPES) and len(splits.train) == 18 and len(splits.test) == 30
    first = clouds(30, 1)[0][SHAPES.index("ball")]
    expected = PerceiverStudyPointCloudProcessor(num_features=1).process_cloud(first)
    assert any(np.array_equal(splits.test.sample(row), expected) for row in range(30))
    with pytest.raises(UserError, match="streaming"):
        build(tmp_path, "data.streaming=true", "data.train_samples=18").load_splits()


def test_a_broken_cloud_is_named_or_left_out(tmp_path):
    for split in ("train", "test"):
        found, labels = clouds(30, 0)
        found[5][2] = np.nan
        rows = {"cloud": [cloud.tolist() for cloud in found], "label": [SHAPES[label] for label in labels]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=r"row 5 of split t.* is not a usable cloud: .*NaN"):
        build(tmp_path).load_splits()
    assert len(build(tmp_path, "data.on_error=skip").load_splits().test) == 29


def test_normals_turn_with_clouds_that_are_judged():
    """In mirror images and in turns of `robustness.py`, alone and among several modalities."""
    names = "feature_names: [weight, nx, ny, nz]"
    fields = "num_channels: 4, num_axes: 3, max_frequencies: 3, num_frequency_bands: 2"
    task = build_task(
        load_recipe(
            None,
            [
                "data.name=made-up",
                "task=point-cloud-classification",
                f"feature_extractor={{{names}}}",
                f"model={{{fields}}}",
            ],
        )
    )
    given = {"points": torch.randn(2, 5, 3), "point_features": torch.randn(2, 5, 4)}
    signs = torch.tensor([-1.0, 1.0, 1.0])
    mirrored = task.mirrored(given)
    torch.testing.assert_close(mirrored["points"], given["points"] * signs)
    features = torch.cat([given["point_features"][..., :1], given["point_features"][..., 1:] * signs], dim=-1)
    torch.testing.assert_close(mirrored["point_features"], features)
    turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = task.turned(given, turn)
    torch.testing.assert_close(turned["points"], given["points"] @ turn)
    torch.testing.assert_close(turned["point_features"][..., 1:], given["point_features"][..., 1:] @ turn)
    several = build_task(
        load_recipe(
            None,
            [
                "data.name=made-up",
                "task=multimodal-classification",
                f"feature_extractor.modalities={{cloud: {{task: point-cloud-classification, {names}}}}}",
                f"model.modalities={{cloud: {{{fields}}}}}",
            ],
        )
    )
    together = {"points": given["points"], "cloud_point_features": given["point_features"]}
    found = several.mirrored(together)
    torch.testing.assert_close(found["cloud_point_features"], features)
    torch.testing.assert_close(found["points"], mirrored["points"])


def test_the_recipe_must_fit(data):
    defaults = ["model.num_neighbors=16", "model.neighbor_channels=null"]
    with pytest.raises(UserError, match="input_type=grid"):
        build(data, "model.input_type=grid", "model.stem_type=linear", *defaults)
    with pytest.raises(UserError, match=r"nearest is 'feature_extractor\.center'"):
        build(data, "feature_extractor={centre: box}")
    with pytest.raises(UserError, match="section image_processor"):
        build(data, "image_processor={do_resize: true}")


def build(folder, *overrides):
    arguments = [*KINDS["points"].recipe, f"data.path={folder}", "data.name=made-up", *overrides]
    return build_task(load_recipe(None, arguments))
