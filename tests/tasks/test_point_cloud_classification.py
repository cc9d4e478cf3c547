"""Clouds of points with labels: from columns and files to a trained folder, resumed and scored."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import score
import train
from lab.errors import UserError
from lab.recipe import load_recipe
from lab.tasks import build_task
from lab.training.checkpoint import checkpoints, read_progress
from lab.training.run_folder import RESULTS
from modeling_perceiver_study import PerceiverStudyForPointCloudClassification, PerceiverStudyPointCloudProcessor
from tests.small_data import TINY_POINTS, fresh_accelerate

pytestmark = pytest.mark.slow

SHAPES = ["line", "plane", "ball"]


def make_clouds(count, seed):
    """Clouds of 10 to 20 points on a line, in a plane and in space, with a feature that says nothing."""
    rng, clouds = np.random.default_rng(seed), []
    labels = np.arange(count) % 3
    for label in labels:
        points = rng.normal(size=(rng.integers(10, 21), 4))
        points[:, label + 1 : 3] *= 0.05
        clouds.append(points.astype(np.float32))
    return clouds, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Parquet files with nested lists, and the clouds to test on."""
    folder = tmp_path_factory.mktemp("points") / "data"
    folder.mkdir()
    features = datasets.Features(
        {
            "cloud": datasets.List(datasets.List(datasets.Value("float32"))),
            "label": datasets.ClassLabel(names=SHAPES),
            "spread": datasets.Value("float32"),
            "height": datasets.Value("float32"),
        }
    )
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        clouds, labels = make_clouds(count, seed)
        columns = {"cloud": [cloud.tolist() for cloud in clouds], "label": labels}
        columns |= {
            "spread": [cloud.std() * 100 for cloud in clouds],
            "height": [cloud[:, 2].max() for cloud in clouds],
        }
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder.parent / "cache")
        yield folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("runs")

    def run(name, *overrides):
        fresh_accelerate()
        arguments = [
            *TINY_POINTS,
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


def test_scores_are_those_of_the_saved_folder(trained, data, capsys):
    clouds, labels = make_clouds(21, seed=1)
    model = PerceiverStudyForPointCloudClassification.from_pretrained(trained).eval()
    processor = PerceiverStudyPointCloudProcessor.from_pretrained(trained)
    with torch.no_grad():
        found = model(**processor(clouds)).logits.argmax(dim=1)
    expected = json.loads((trained / RESULTS).read_text())["test_accuracy"]
    assert (found.numpy() == labels).mean() == pytest.approx(expected)
    fresh_accelerate()
    score.main([str(trained)])
    assert json.loads((trained / "evaluation" / "test" / "evaluation.json").read_text())["accuracy"] == pytest.approx(
        expected
    )


def test_a_resumed_run_ends_with_the_same_bits(trained, run, tmp_path):
    stopped = trained.parent / "stopped"
    shutil.copytree(trained, stopped)
    (stopped / RESULTS).unlink()
    for checkpoint in checkpoints(stopped):
        if read_progress(checkpoint).step > 9:  # in the middle of the second epoch
            shutil.rmtree(checkpoint)
    run("stopped", "--resume")
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (trained, stopped))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_parts_change_nothing_but_rounding(trained, run):
    whole = load_file(trained / "model.safetensors")
    parts = load_file(run("parts", "optimization.gradient_accumulation_steps=2") / "model.safetensors")
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "kind, labels",
    [("regression", "[spread,height]"), ("regression", "spread")],
)
def test_numbers(run, kind, labels):
    count = labels.count(",") + 1
    folder = run(
        f"{kind}-{count}",
        f"model.problem_type={kind}",
        f"model.num_labels={count}",
        f"data.columns.label={labels}",
        "augmentation.mix_alpha=0",
    )
    assert "test_mean_absolute_error" in json.loads((folder / RESULTS).read_text())


def test_paths_in_a_table(data, tmp_path):
    """Files are found below the folder of the data."""
    for seed, split in enumerate(("train", "test")):
        lines = ["file,label"]
        for number, (cloud, label) in enumerate(zip(*make_clouds(30, seed), strict=True)):
            (tmp_path / split).mkdir(exist_ok=True)
            np.save(tmp_path / split / f"{number}.npy", cloud)
            lines.append(f"{split}/{number}.npy,{SHAPES[label]}")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    task = build(tmp_path, "data.columns={points: file, label: label}")
    splits = task.load_splits()
    assert len(splits.train) == 18 and len(splits.test) == 30
    processor = PerceiverStudyPointCloudProcessor(num_features=1)
    np.testing.assert_array_equal(splits.test.sample(4), processor.process_cloud(make_clouds(30, 1)[0][4]))


def test_a_broken_cloud_is_named_or_left_out(tmp_path):
    for split in ("train", "test"):
        clouds, labels = make_clouds(30, 0)
        clouds[5][2] = np.nan
        rows = {"cloud": [cloud.tolist() for cloud in clouds], "label": [SHAPES[label] for label in labels]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=r"row 5 of split t.* is not a usable cloud: .*NaN"):
        build(tmp_path).load_splits()
    assert len(build(tmp_path, "data.on_error=skip").load_splits().test) == 29


def test_the_recipe_must_fit(data):
    with pytest.raises(UserError, match="input_type=grid"):
        build(data, "model.input_type=grid")
    with pytest.raises(UserError, match=r"nearest is 'feature_extractor\.center'"):
        build(data, "feature_extractor={centre: box}")
    with pytest.raises(UserError, match="section image_processor"):
        build(data, "image_processor={do_resize: true}")


def build(folder, *overrides):
    arguments = [*TINY_POINTS, f"data.path={folder}", "data.name=made-up", *overrides]
    return build_task(load_recipe(None, arguments))
