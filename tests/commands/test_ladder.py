import json
import subprocess
from pathlib import Path

import pytest

import ladder
from lab.errors import UserError
from lab.runs import Runs
from lab.scoring.measures import measure_of
from tests.processes import train_quickly
from tests.small_data import TINY_RUN, make_parquet
from tests.task_kinds import KINDS

pytestmark = pytest.mark.slow

LADDER = """
config: {config}
common: [optimization.epochs=1]
rungs:
  first:
  a wider one:
    beside: first
    overrides: [model.d_latents=32]
"""


@pytest.fixture(autouse=True)
def quick_processes(monkeypatch):
    monkeypatch.setattr(Runs, "train", train_quickly)


def write(folder, text):
    path = folder / "ladder.yaml"
    path.write_text(text)
    return path


def test_rungs_are_trained_once_and_compared(tmp_path, monkeypatch):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("model:\n  d_latents: 16\n")
    path = write(tmp_path, LADDER.format(config=recipe))
    overrides = [text for text in TINY_RUN if "=" in text and not text.startswith("model.d_latents")]
    overrides += [f"data.path={make_parquet(tmp_path / 'data')}", f"data.cache_dir={tmp_path / 'cache'}"]
    arguments = [str(path), "--output", str(tmp_path / "runs"), *overrides]
    ladder.main(arguments)
    results = json.loads(path.with_suffix(".json").read_text())
    first, wider = results["rungs"]
    assert first["parameters"] < wider["parameters"] and wider["beside"] == "first"
    assert not any(name.startswith("test") for name in first)
    text = path.with_suffix(".md").read_text()
    change = 100 * (wider["validation_accuracy"] - first["validation_accuracy"])
    assert f"| a wider one | {100 * wider['validation_accuracy']:.1f} % | {change:+.1f} against first |" in text
    before = (tmp_path / "runs" / "first" / "model.safetensors").stat().st_mtime_ns
    ladder.main(arguments)
    assert (tmp_path / "runs" / "first" / "model.safetensors").stat().st_mtime_ns == before


SEEDS = """
config: {config}
common: []
test: true
seeds: [3, 5]
rungs:
  plain:
    overrides: []
  other:
    beside: plain
    overrides: [optimization.epochs=2]
"""


def test_several_seeds_and_the_test_images(tmp_path, monkeypatch):
    """What is typed for each run, and means with standard deviations of what comes out."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("data: {name: digits}\n")
    path = write(tmp_path, SEEDS.format(config=recipe))
    started = []

    def train(runs, arguments, **_):
        options = dict(text.split("=") for text in arguments if "=" in text)
        started.append(options)
        folder, better = Path(options["output_dir"]), "optimization.epochs" in options
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(f"seed: {options['seed']}\ndata: {{name: digits}}\n")
        score = int(options["seed"]) / 100 + 0.5 * better
        facts = {"parameters": 10, "steps": 6, "hardware": "a CPU", "git_commit": "c0ffee", "data": "digits"}
        metrics = {"validation_accuracy": score + 0.1, "test_accuracy": score, "train_seconds": 2, **facts}
        (folder / "metrics.json").write_text(json.dumps({**metrics, "versions": {"torch": "2"}}))
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(Runs, "train", train)
    ladder.main([str(path), "--output", str(tmp_path / "runs")])
    assert sorted(options["seed"] for options in started) == ["3", "3", "5", "5"]
    assert len({options["output_dir"] for options in started}) == 4
    assert not any("data.test_split" in options for options in started)
    text = path.with_suffix(".md").read_text()
    assert "| | validation accuracy | test accuracy | change |" in text
    assert "mean ± standard deviation over seeds 3, 5, on a CPU" in text
    assert "| plain | 14.0 ± 1.4 % | 4.0 ± 1.4 % |  | 10 |" in text
    assert "| other | 64.0 ± 1.4 % | 54.0 ± 1.4 % | +50.0 against plain |" in text


SCORES = {"images": "accuracy", "masked-lm": "bits_per_byte", "several tasks": "accuracy", "regression": "r2"}
SCORES |= {"several classes": "mean_average_precision"}
RECIPES = {name: kind.recipe for name, kind in KINDS.items()}
RECIPES |= {"regression": [*TINY_RUN, "model.problem_type=regression"]}
RECIPES |= {"several classes": [*TINY_RUN, "model.problem_type=multi_label_classification"]}


@pytest.mark.parametrize(("kind", "score"), SCORES.items())
def test_rungs_are_compared_by_the_score_of_their_task(tmp_path, monkeypatch, kind, score):
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    path = write(tmp_path, LADDER.format(config=tmp_path / "plain.yaml"))
    found = iter([0.25, 0.375])

    def train(runs, arguments, **_):
        (folder,) = (Path(word.removeprefix("output_dir=")) for word in arguments if word.startswith("output_dir="))
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text("data: {name: digits}\n")
        facts = {"parameters": 10, "steps": 6, "hardware": "a CPU", "git_commit": "c0ffee", "data": "digits"}
        metrics = {f"validation_{score}": next(found), "validation_loss": 1.0, "validation_samples": 5} | facts
        (folder / "metrics.json").write_text(json.dumps({**metrics, "train_seconds": 2, "versions": {"torch": "2"}}))
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(Runs, "train", train)
    recipe = [text for text in RECIPES[kind] if not text.startswith("model.d_latents")]
    ladder.main([str(path), "--output", str(tmp_path / "runs"), *recipe, f"data.path={tmp_path}"])
    measure, text = measure_of(score), path.with_suffix(".md").read_text()
    change = "+12.5" if measure.percent else "+0.125"
    assert f"| | validation {measure.title} | change |" in text
    assert f"| first | {measure.write(0.25, 1)} |" in text and f"| {change} against first | 10 |" in text
    results = json.loads(path.with_suffix(".json").read_text())
    assert results["score"] == score and [rung[f"validation_{score}"] for rung in results["rungs"]] == [0.25, 0.375]
    assert [rung["validation_loss"] for rung in results["rungs"]] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: null\ncommon: []\nrungs: {}\n", r"has no rungs"),
        (
            "config: null\ncommon: []\nrungs: {a: {overrides: []}, b: {overrides: [task=masked-lm]}}\n",
            r"rungs that different scores judge \('a' by accuracy, 'b' by bits_per_byte\)",
        ),
        (
            "config: null\ncommon: []\nrungs: {a: {overrides: [data.validation_samples=0]}, b: {overrides: []}}\n",
            r"rungs that no split judges all",
        ),
        ("config: a.yaml\ncommon: [\n", r"cannot be read"),
        ("config: a.yaml\ncommon: []\nseeds: [0, 1, 0]\nrungs: {plain: }\n", r"has seeds \[0, 1, 0\]: give each once"),
        ("config: a.yaml\nrungs: {}\n", r"lacks common: expected config, common and rungs"),
        ("config: a.yaml\ncommon: []\nrungs: {a b: {overrides: []}, a-b: {overrides: []}}\n", r"name them apart"),
        ("config: a.yaml\ncommon: []\nrungs: {a: {beside: c, overrides: []}}\n", r"compared with 'c', which is none"),
        (
            "config: null\ncommon: []\nrungs: {a: {overrides: [seeds=1]}}\n",
            r"the nearest is 'seed'",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        ladder.load_ladder(write(tmp_path, text), ["data.name=digits"])


def test_what_the_command_line_says_is_written_down(tmp_path, monkeypatch):
    """It holds for all rungs, but for where their data lie; what a rung is about is not to be undone."""
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    path = write(tmp_path, LADDER.format(config=tmp_path / "plain.yaml"))
    written = {"validation_accuracy": 0.5, "train_seconds": 1, "seed": 0, "name": "first", "parameters": 1}
    facts = {"steps": 1, "hardware": "a CPU", "git_commit": "c0ffee", "data": "digits", "versions": {"torch": "2"}}
    monkeypatch.setattr(ladder, "climb", lambda *_: {**written, **facts, "overrides": []})
    given = ["optimization.epochs=3", "seed=2", f"data.path={tmp_path}", "data.workers=1", *RECIPES["images"]]
    given = [text for text in given if not text.startswith("model.d_latents")]
    ladder.main([str(path), "--output", str(tmp_path / "runs"), *given])
    common = json.loads(path.with_suffix(".json").read_text())["common"]
    assert common[:2] == ["optimization.epochs=3", "seed=2"]
    assert not {"data.path", "data.workers", "optimization.cpu_threads"} & {text.partition("=")[0] for text in common}
    assert f"with `{' '.join(common)}`" in path.with_suffix(".md").read_text()
    with pytest.raises(UserError, match=r"model.d_latents: rung 'a wider one' of .* has a value of its own"):
        ladder.main([str(path), "--output", str(tmp_path / "runs"), *given, "model.d_latents=16"])
    with pytest.raises(UserError, match=r"output_dir: each run has a folder of its own"):
        ladder.main([str(path), *given, "output_dir=elsewhere"])
    path.write_text(path.read_text() + "seeds: [0, 1]\n")
    with pytest.raises(UserError, match=r"seed: .* has seeds \[0, 1\], and trains each rung with all of them"):
        ladder.main([str(path), *given])


def test_a_rung_that_fails_is_named(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("")
    path = write(tmp_path, LADDER.format(config=recipe))
    with pytest.raises(UserError, match=r"rung 'first' failed: error: .*nowhere"):
        ladder.main([str(path), "--output", str(tmp_path / "runs"), f"data.path={tmp_path / 'nowhere'}"])
