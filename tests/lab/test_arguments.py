"""Command lines: changes of a recipe anywhere, and numbers that must be at least 1."""

import argparse
import importlib
import itertools
from pathlib import Path

import pytest

import publish
from lab.arguments import parse_with_changes
from lab.errors import UserError

PARTS = [["data.path=a=b", "seed=3"], ["--seeds", "0", "1"], ["--folders", "x", "y"], ["model.tasks={a: 2}"]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_they_stand_anywhere(order):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--folders", nargs="+", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parse_with_changes(parser, [word for part in order for word in PARTS[part]])
    assert sorted(options.overrides) == ["data.path=a=b", "model.tasks={a: 2}", "seed=3"]
    assert (options.seeds, options.folders) == ([0, 1], [Path("x"), Path("y")])


def test_what_is_no_key_stays_with_its_option():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folders", nargs="+")
    parser.add_argument("overrides", nargs="*")
    options = parse_with_changes(parser, ["--folders", "run=1", "seeds=2"])
    assert (options.folders, options.overrides) == (["run=1", "seeds=2"], [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimization.epochs=3"], "optimization.epochs=3: only keys of section data: can be changed here"),
        (["--license", "My License"], "--license My License: expected an identifier of the Hub's"),
    ],
)
def test_publishing_refuses_at_once_what_changes_nothing_or_is_no_licence(words, message):
    with pytest.raises(UserError, match=message):
        publish.parse(["run", "--repo_id", "org/name", *words])


COUNTS = {
    "benchmark": ["--rounds"],
    "benchmark_arrays": ["--batch_size", "--rounds", "--threads"],
    "benchmark_inputs": ["--frames", "--timed_frames", "--samples", "--samples_per_patch", "--edges", "--rounds"],
    "benchmark_large": ["--points", "--threads"],
    "benchmark_text": ["--lengths", "--rounds", "--threads", "--layers", "--lines"],
    "export": ["--length"],
    "ladder": ["--jobs"],
    "predict": ["--top_k"],
    "repeat": ["--processes"],
    "robustness": ["--batch_size", "--samples"],
    "scale": ["--processes", "--train_samples"],
    "score": ["--batch_size"],
    "study": ["--processes"],
}


@pytest.mark.parametrize("value", ["0", "-3", "2.5"])
@pytest.mark.parametrize("command, option", [(command, option) for command in COUNTS for option in COUNTS[command]])
def test_numbers_of_at_least_one(command, option, value, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(command).main([f"{option}={value}"])
    assert f"argument {option}: {value}: expected a whole number of at least 1" in capsys.readouterr().err
