"""Several runs of one recipe: mean and standard deviation of their scores."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lab.scoring.measures import is_score, measure_of
from lab.writing import new_files

_SHARED = ("task", "data", "parameters", "hardware", "git_commit", "versions", "mixed_precision", "epochs")


def summarize(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `metrics.json` of each run says, by the names of the runs, as one result.

    Scores are those that all runs have: of the test split, or of validation where that was not read. The standard
    deviation is that of a sample, and 0 of a single run.
    """
    first, *others = runs.values()
    split = "test" if "test_samples" in first else "validation"
    names = [name for name in first if name.startswith(f"{split}_") and is_score(name.removeprefix(f"{split}_"))]
    names = [name for name in names if all(name in other for other in others)]
    scores = {name.removeprefix(f"{split}_"): {run: results[name] for run, results in runs.items()} for name in names}
    return {
        "split": split,
        "runs": len(runs),
        "mean": {name: mean(of_runs.values()) for name, of_runs in scores.items()},
        "standard_deviation": {
            name: stdev(of_runs.values()) if len(runs) > 1 else 0.0 for name, of_runs in scores.items()
        },
        "each": scores,
        "samples": {run: results[f"{split}_samples"] for run, results in runs.items()},
        "train_seconds": {run: results["train_seconds"] for run, results in runs.items()},
        **{name: _same([results.get(name) for results in runs.values()]) for name in _SHARED},
    }


def write_repeated(folder: Path, result: dict[str, Any]):
    """Write `repeated.json`, and `repeated.md` with a table of all runs."""
    with new_files(folder) as unfinished:
        (unfinished / "repeated.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (unfinished / "repeated.md").write_text(table(result), encoding="utf-8")


def table(result: dict[str, Any]) -> str:
    """A line for each run, and if there are several their mean, in Markdown."""
    names = list(result["mean"])
    lines = [
        f"| {result['split']} | {' | '.join(measure_of(name).title for name in names)} | seconds |",
        f"|---|{'---:|' * (len(names) + 1)}",
    ]
    for run, seconds in result["train_seconds"].items():
        cells = [measure_of(name).write(result["each"][name][run]) for name in names]
        lines.append(f"| {run} | {' | '.join(cells)} | {seconds:.0f} |")
    if result["runs"] > 1:
        spreads = [(name, result["mean"][name], result["standard_deviation"][name]) for name in names]
        cells = [measure_of(name).write_spread(middle, deviation) for name, middle, deviation in spreads]
        lines.append(f"| mean | {' | '.join(cells)} | {mean(result['train_seconds'].values()):.0f} |")
    lines += ["", f"{_listed(result['hardware'])}; commit {_listed(result['git_commit'])}."]
    return "\n".join(lines) + "\n"


def _listed(values: str | list[str | None] | None) -> str:
    """What `_same` gave, each once."""
    values = values if isinstance(values, list) else [values]
    return " and ".join(dict.fromkeys("unknown" if value is None else value for value in values))


def _same(values: list[Any]) -> Any:
    """The value that all have, or the list of them."""
    return values[0] if all(value == values[0] for value in values) else values
