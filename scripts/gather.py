"""Gather scores that other commands have written into one table, a line for each question, with means over runs.

    python scripts/gather.py --output docs/modalities/video/together.md \\
        --line "sound alone" output/sound/seed-*/metrics.json \\
        --line "video withheld" output/both/seed-*/without-video/evaluation.json \\
        --line "mean of two models" output/fused-*.json

Files are those of train.py (`metrics.json`), of score.py (`evaluation.json`) and of fuse.py. Of a run that read test
samples the score is that of these, otherwise that of validation; those of a line must be of one split, and of different
runs. Beside the table a JSON file of the same name keeps each number; another file of that name is not replaced.
"""

import argparse
import itertools
import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lab.waiting  # noqa: F401, before torch

from lab.errors import UserError, run_command
from lab.places import file_to_write, folder_to_write, place
from lab.recipe import differences, load_recipe
from lab.scoring.measures import is_score, measure_of
from lab.scoring.report import escaped
from lab.writing import new_files


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Gather scores into one table.")
    parser.add_argument("--line", nargs="+", action="append", required=True, metavar=("LABEL", "FILE"))
    parser.add_argument("--score", default="accuracy", help="which (default: accuracy)")
    parser.add_argument("--output", type=place, required=True, metavar="FILE.md")
    options = parser.parse_args(arguments)
    if not is_score(options.score):
        raise UserError(f"--score {options.score}: expected the name of a score as files have it, such as accuracy")
    if options.output.suffix == ".json":
        raise UserError(f"--output {options.output}: expected a name such as table.md; table.json then has the numbers")
    folder_to_write(options.output.parent)
    numbers = options.output.with_suffix(".json")
    for path in (options.output, numbers):
        file_to_write(path)
    if numbers.exists() and not _is_gathered(numbers):
        raise UserError(f"--output {options.output} would replace {numbers}, which is not of a table: name another")
    measure, lines, found = measure_of(options.score), [], {}
    for label, *files in options.line:
        if not files:
            raise UserError(f"--line {label}: give at least one file")
        if label in found:
            raise UserError(f"--line {label} is there twice: give each line a label of its own")
        paths = [place(file) for file in files]
        if len({path.resolve() for path in paths}) < len(paths):
            raise UserError(f"--line {label} has a file twice: give each once, as twice the same says nothing")
        for first, second in itertools.combinations(paths, 2):
            if (run := same_run(first, second)) is not None:
                raise UserError(
                    f"--line {label}: {first} and {second} are both of {run}; give each run once, as twice the same "
                    "says nothing"
                )
        splits, scores = zip(*(score_in(path, options.score) for path in paths), strict=True)
        if len(set(splits)) > 1:
            named = ", ".join(f"{file} of {split}" for file, split in zip(files, splits, strict=True))
            raise UserError(f"--line {label} has scores of several splits ({named}): give files of one split")
        found[label] = {"split": splits[0], "scores": list(scores)}
        text = measure.write_spread(mean(scores), stdev(scores)) if len(scores) > 1 else measure.write(scores[0])
        lines.append(f"| {escaped(label)} | {splits[0]} | {text} | {len(scores)} |")
    table = "\n".join([f"| | split | {measure.title} | seeds |", "|---|---|---:|---:|", *lines]) + "\n"
    with new_files(options.output.parent) as folder:
        (folder / options.output.name).write_text(table, encoding="utf-8")
        (folder / numbers.name).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table)


def score_in(path: Path, name: str) -> tuple[str, float]:
    """Of which split a file has a score, and the score.

    Raises:
        UserError: there is no such file, no such score in it, or one that is no finite number.
    """
    for split, scores, key in _places(_read(path), name):
        if key in scores:
            if not (type(scores[key]) in (int, float) and math.isfinite(scores[key])):  # True is no score
                raise UserError(f"{path} has {key}={scores[key]}: expected a finite number")
            return split, scores[key]
    raise UserError(f"{path} has no {name}: expected a file of train.py, score.py or fuse.py")


def same_run(first: Path, second: Path) -> str | None:
    """What run two files are of, where it is the same one; None where they are of two, or do not say.

    Runs that leave out one group after the other have one seed, and recipes that differ.
    """
    runs = [_run_of(_read(path)) for path in (first, second)]
    if runs[0] is None or runs[0] != runs[1]:
        return None
    recipes = [path.parent / "recipe.yaml" for path in (first, second)]
    if "seed" in runs[0] and all(path.is_file() for path in recipes) and differences(*map(load_recipe, recipes)):
        return None
    return ", ".join(f"{name} {value}" for name, value in runs[0].items() if name != "data_settings")


def _run_of(content: Any) -> dict[str, Any] | None:
    """What tells runs apart: the seed, in a file of train.py, or which checkpoints were judged, on what."""
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("scores"), dict):
        return {"checkpoints": " and ".join(sorted(content["scores"].keys() - {"mean"}))}
    names = ("checkpoint", "data_settings") if "checkpoint" in content else ("seed",)
    return {name: content.get(name) for name in names} if names[0] in content else None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _is_gathered(path: Path) -> bool:
    """Whether a file is what this command wrote beside a table."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    lines = content.values() if isinstance(content, dict) else [None]
    return all(isinstance(line, dict) and line.keys() == {"split", "scores"} for line in lines)


def _places(content: Any, name: str) -> list[tuple[str, dict, str]]:
    """Where a score may be: the name of its split, and what has it by which key."""
    if not isinstance(content, dict):
        return []
    if isinstance(content.get("split"), str):  # of score.py, or of fuse.py with those of several checkpoints
        several = content.get("scores")
        scores = several.get("mean") if isinstance(several, dict) else content
        return [(content["split"], scores, name)] if isinstance(scores, dict) else []
    return [(split, content, f"{split}_{name}") for split in ("test", "validation")]


if __name__ == "__main__":
    run_command(main)
