"""Gather scores that other commands have written into one table, a line for each question, with means over runs.

    python scripts/gather.py --output docs/modalities/video/together.md \\
        --line "sound alone" output/sound/seed-*/metrics.json \\
        --line "video withheld" output/both/seed-*/without-video/evaluation.json \\
        --line "mean of two models" output/fused-*.json

Files are those of train.py (`metrics.json`), of score.py (`evaluation.json`) and of fuse.py. Beside the table a JSON
file of the same name keeps each number.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from lab.errors import UserError, run_command
from lab.places import place
from lab.scoring.measures import measure_of


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Gather scores into one table.")
    parser.add_argument("--line", nargs="+", action="append", required=True, metavar=("LABEL", "FILE"))
    parser.add_argument("--score", default="accuracy", help="which (default: accuracy)")
    parser.add_argument("--output", type=place, required=True, metavar="FILE.md")
    options = parser.parse_args(arguments)
    measure, lines, found = measure_of(options.score), [], {}
    for label, *files in options.line:
        if not files:
            raise UserError(f"--line {label}: give at least one file")
        scores = [score_in(place(file), options.score) for file in files]
        found[label] = scores
        spread = stdev(scores) if len(scores) > 1 else 0.0
        text = measure.write_spread(mean(scores), spread) if len(scores) > 1 else measure.write(scores[0])
        lines.append(f"| {label} | {text} | {len(scores)} |")
    table = "\n".join([f"| | {measure.title} | seeds |", "|---|---:|---:|", *lines]) + "\n"
    options.output.write_text(table, encoding="utf-8")
    options.output.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table)


def score_in(path: Path, name: str) -> float:
    """The score of a whole split that a file has.

    Raises:
        UserError: there is no such file, or no such score in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    of_mean = content.get("scores", {}).get("mean", {})
    for scores, key in ((of_mean, name), (content, name), (content, f"test_{name}"), (content, f"validation_{name}")):
        if key in scores:
            return scores[key]
    raise UserError(f"{path} has no {name}: expected a file of train.py, score.py or fuse.py")


if __name__ == "__main__":
    run_command(main)
