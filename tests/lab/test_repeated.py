"""Results of repeated runs: the tables that pages show are made of the numbers beside them."""

import json

import pytest

from lab.scoring.repeated import summarize, table
from tests.paths import ROOT

KEPT = sorted(path for path in (ROOT / "docs").rglob("*.json") if "standard_deviation" in json.loads(path.read_text()))


def run(accuracy, seconds=10.0, **others):
    return {
        "task": "audio-classification",
        "test_samples": 20,
        "test_accuracy": accuracy,
        "test_loss": 1 - accuracy,
        "validation_accuracy": 1.0,
        "train_seconds": seconds,
        "hardware": "a CPU, 1 thread",
        "git_commit": "abc",
        **others,
    }


def test_mean_and_deviation():
    result = summarize({"seed-0": run(0.9), "seed-1": run(0.8, 20.0), "seed-2": run(0.7, git_commit="def")})
    assert result["mean"] == pytest.approx({"accuracy": 0.8, "loss": 0.2})
    assert result["standard_deviation"]["accuracy"] == pytest.approx(0.1)
    assert result["git_commit"] == ["abc", "abc", "def"] and result["hardware"] == "a CPU, 1 thread"
    assert "| mean | 80.00 ± 10.00 % | 0.2000 ± 0.1000 | 13 |" in table(result)


@pytest.mark.parametrize("other, told", [(None, "unknown"), ("abc", "unknown and abc")])
def test_without_a_repository(other, told):
    runs = {"seed-0": run(0.9, git_commit=None), "seed-1": run(0.8, git_commit=other)}
    assert table(summarize(runs)).endswith(f"; commit {told}.\n")


def test_one_run():
    assert summarize({"seed-0": run(0.9)})["standard_deviation"] == {"accuracy": 0.0, "loss": 0.0}


@pytest.mark.parametrize("lacking", ["seed-0", "seed-1"])
def test_scores_are_those_that_all_runs_have(lacking):
    """The samples of one fold may have no label of a task."""
    runs = {name: run(0.9, test_accuracy_of_mood=0.5, test_accuracy_of_tongue=0.7) for name in ("seed-0", "seed-1")}
    del runs[lacking]["test_accuracy_of_mood"]
    result = summarize(runs)
    assert result["mean"] == pytest.approx({"accuracy": 0.9, "loss": 0.1, "accuracy_of_tongue": 0.7})
    assert "mood" not in table(result)


def test_without_a_test_split():
    results = {name: value for name, value in run(0.5).items() if not name.startswith("test_")}
    result = summarize({"seed-0": {**results, "validation_samples": 7}})
    assert result["split"] == "validation" and result["mean"] == {"accuracy": 1.0}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept_tables_are_those_of_the_numbers(path):
    assert path.with_suffix(".md").read_text() == table(json.loads(path.read_text()))
