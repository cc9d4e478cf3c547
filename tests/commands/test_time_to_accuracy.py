"""Races of this model and others, on images of a few pixels."""

import json
import sys
from importlib.util import find_spec

import datasets
import pytest

import time_to_accuracy
from lab.errors import UserError
from lab.peers import races
from lab.peers.timing import median_ratio
from lab.recipe import load_recipe
from lab.tasks import build_task
from tests.small_data import TINY_RUN, fresh_accelerate, make_parquet

ROOM = ["model.num_cross_attends=1", "model.num_blocks=1"]


PROVENANCE = {"hardware": "a machine", "versions": {"torch": "2"}, "git_commit": "abc"}


def run(name: str, *points: tuple[float, float]) -> dict:
    found = [{"seconds": seconds, "accuracy": accuracy} for seconds, accuracy in points]
    return {"name": name, "parameters": 5, "optimizer": "adamw", "learning_rate": 0.001, "points": found, **PROVENANCE}


def test_seconds_are_those_of_the_first_judgement_that_reached_it():
    points = run("a", (10, 0.3), (20, 0.5), (30, 0.4), (40, 0.6))["points"]
    assert [races.seconds_to(points, accuracy) for accuracy in (0.3, 0.45, 0.6, 0.7)] == [10, 20, 40, None]


@pytest.mark.parametrize(
    ("others", "best"),
    [
        ([[(10, 0.45), (30, 0.53)], [(5, 0.46), (40, 0.53)]], 0),  # the higher target counts first
        ([[(10, 0.45), (30, 0.50)], [(20, 0.46), (40, 0.51)]], 0),  # which neither reaches
        ([[(10, 0.30)], [(10, 0.31)]], 1),  # nor any
        ([[(10, 0.44)], [(90, 0.52)]], 1),
    ],
)
def test_the_best_learning_rate(others, best):
    runs = [run("b", *points) for points in others]
    assert races.best_run(runs, [0.45, 0.52]) is runs[best]


def test_the_table_says_how_many_times_longer():
    ours, theirs = run(races.OURS, (10, 0.5), (20, 0.6)), run(races.TRANSFORMERS, (50, 0.5), (90, 0.55))
    result = {"data": "pictures", "images": {"train": 9, "validation": 3}, "targets": [0.5, 0.6], "seed": 0}
    result |= {"every_seconds": 10, "most_seconds": 90, "runs": [ours, theirs], "trials": []}
    table = races.races_table(result)
    assert "| this repository | 5 | adamw, 0.001 | 10 | 20 | 60.0 %, 20 s |" in table
    assert "| transformers | 5 | adamw, 0.001 | 50 (5.0 ×) | not reached | 55.0 %, 90 s |" in table
    assert "All learning rates" not in table and "at most 90 s" in table and "trials" not in table
    tried = races.races_table(result | {"trial_seconds": 15.0, "trials": [run(races.TRANSFORMERS, (15, 0.4))]})
    assert "trials of at most 15 s" in tried and "| transformers | 5 | adamw, 0.001 | not reached" in tried
    assert tried.endswith("seed 0. a machine, torch 2, commit abc.\n")
    others = {"hardware": "another", "versions": {"torch": "3"}, "git_commit": "def"}
    mixed = races.races_table(result | {"runs": [ours | others, theirs]})
    assert mixed.endswith("seed 0. another or a machine, torch 3 or 2, commit def or abc.\n")
    races.draw_races(result).draw_without_rendering()


def test_timings_of_other_hardware_or_samples_are_taken_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    raced = []
    point = [{"seconds": 9, "accuracy": 0.5}]
    monkeypatch.setattr(
        time_to_accuracy, "race", lambda *_, **__: raced.append(1) or {"points": point, "parameters": 5}
    )
    folders = [make_parquet(tmp_path / name, train=count) for name, count in (("one", 60), ("two", 60), ("other", 57))]

    def races_run(*given: str) -> int:
        """How many were not taken from files."""
        raced.clear()
        fresh_accelerate()
        time_to_accuracy.main([*TINY_RUN, *ROOM, "--output", str(tmp_path / "out"), "--racers", races.OURS, *given])
        return len(raced)

    assert [races_run(f"data.path={folder}") for folder in folders] == [1, 0, 1]  # the second is a copy of the first
    given = [f"data.path={folders[-1]}", "optimization.cpu_threads=2"]
    assert [races_run(*given) for _ in range(2)] == [1, 0]
    fresh_accelerate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--racers", "nobody"], "--racers nobody: expected some of"),
        (["--hours", "0"], "--hours 0: expected more than 0"),
        (["--trial_hours", "0"], "--trial_hours 0: expected more than 0"),
        (["--targets", "0.45", "152"], "--targets 152: expected percent"),
        (["model.num_blocks=2"], "2 blocks"),
        (["model.patch_size=2"], "model.patch_size=2: the others are compared with None alone"),
        (["model.num_channels=1", "image_processor.image_mean=[0.5]", "image_processor.image_std=[0.5]"], "8 × 8 × 1"),
    ],
)
def test_what_is_refused(arguments, message, tmp_path):
    given = [*TINY_RUN, *ROOM, f"data.path={tmp_path}", "--output", str(tmp_path)]
    with pytest.raises(UserError, match=message):
        time_to_accuracy.main([*given, *arguments])


def test_perceiver_pytorch_is_missed_before_the_race(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "perceiver_pytorch", None)
    with pytest.raises(UserError, match="pip install perceiver-pytorch"):
        time_to_accuracy.main(["--output", str(tmp_path)])


@pytest.mark.slow
def test_a_race(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    others = [races.TRANSFORMERS, *([races.PERCEIVER_PYTORCH] if find_spec("perceiver_pytorch") else [])]
    given = [*TINY_RUN, *ROOM, f"data.path={make_parquet(tmp_path / 'data')}", "augmentation.horizontal_flip=true"]
    given += ["optimization.epochs=4", "--targets", "40", "100", "--every", "0.001", "--rates", "0.01", "0.001"]
    given += ["--output", str(tmp_path / "out"), "--racers", races.OURS, *others]
    (tmp_path / "data" / "test.parquet").unlink()  # not read
    fresh_accelerate()
    time_to_accuracy.main(given)
    path = tmp_path / "out" / "time-to-accuracy.json"
    result = json.loads(path.read_text())
    assert [run["name"] for run in result["runs"]] == [races.OURS, *(name for name in others for _ in range(2))]
    assert str(tmp_path) not in json.dumps(result["runs"]), "no folder of a machine"
    for run in result["runs"]:
        seconds = [point["seconds"] for point in run["points"]]
        reached = run["points"][-1]["accuracy"] == 1
        assert seconds == sorted(seconds) and len(seconds) >= 1 and (reached or run["points"][-1]["step"] == 24)
    assert (tmp_path / "out" / "time-to-accuracy.png").stat().st_size > 10_000

    monkeypatch.setattr(time_to_accuracy, "race", lambda *_, **__: pytest.fail("it is there"))
    before = path.read_text()
    fresh_accelerate()
    time_to_accuracy.main(given)
    assert path.read_text() == before
    with pytest.raises(pytest.fail.Exception):
        time_to_accuracy.main([*given, "--hours", "2"])
    fresh_accelerate()


def test_rates_are_tried_and_the_best_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    asked = []

    def race(task, splits, build, target, most_seconds, every_seconds):
        rate = task.recipe.optimization.learning_rate
        asked.append((rate, most_seconds))
        return run(races.TRANSFORMERS, (9, 0.1), (most_seconds, 0.4 if rate == 0.01 else 0.3)) | {"learning_rate": rate}

    monkeypatch.setattr(time_to_accuracy, "race", race)
    fresh_accelerate()
    given = [*TINY_RUN, *ROOM, f"data.path={make_parquet(tmp_path / 'data')}", "--output", str(tmp_path / "out")]
    given += ["--racers", races.TRANSFORMERS, "--rates", "0.001", "0.01", "0.1", "--trial_hours", "0.1"]
    time_to_accuracy.main(given)
    assert asked == [(0.001, 360), (0.01, 360), (0.1, 360), (0.01, 3600)]
    result = json.loads((tmp_path / "out" / "time-to-accuracy.json").read_text())
    assert [one["learning_rate"] for one in result["trials"]] == [0.001, 0.01, 0.1]
    assert [one["learning_rate"] for one in result["runs"]] == [0.01] and result["trial_seconds"] == 360
    fresh_accelerate()
    time_to_accuracy.main(given)
    assert len(asked) == 4, "trials and runs have files of their own"
    fresh_accelerate()


@pytest.mark.slow
def test_time_is_up(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    fresh_accelerate()
    given = [*TINY_RUN, *ROOM, f"data.path={make_parquet(tmp_path / 'data')}", "optimization.epochs=50"]
    time_to_accuracy.main(
        [*given, "--racers", races.OURS, "--targets", "100", "--hours", "1e-9", "--output", str(tmp_path / "out")]
    )
    (only,) = json.loads((tmp_path / "out" / "time-to-accuracy.json").read_text())["runs"]
    assert [point["step"] for point in only["points"]] == [1]
    fresh_accelerate()


def test_others_are_of_the_recipes_size():
    sizes = ["num_latents=5", "d_latents=24", "num_self_attends_per_block=3", "self_attention_widening_factor=2"]
    sizes = [f"model.{size}" for size in (*sizes, "num_frequency_bands=3", "num_labels=4")]
    config = build_task(load_recipe(None, [*TINY_RUN, *ROOM, "data.name=made-up", *sizes])).config
    case = races.case_of(config, 7)
    same = ("num_latents", "d_latents", "num_self_attends_per_block", "num_frequency_bands", "num_labels")
    assert all(getattr(case, name) == getattr(config, name) for name in same)
    assert (case.part, case.image_size, case.batch, case.widening_factor) == ("model", 8, 7, 2)


def test_a_ratio_is_the_median_of_those_of_rounds():
    assert median_ratio([2.0, 6.0, 10.0], [1.0, 4.0, 2.0]) == 2.0
