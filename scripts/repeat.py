"""Train a recipe several times, with other seeds or with one group of samples after the other left out for testing.

    python scripts/repeat.py --config configuration/fsdd.yaml --seeds 0 1 2 data.path=/data/fsdd
    python scripts/repeat.py --config configuration/fsdd.yaml --leave_out speaker george jackson data.path=/data/fsdd

Runs are folders of `output_dir`, which gets `repeated.json` and `repeated.md` too: mean and standard deviation, and
each. What was interrupted goes on, and what is finished is not trained again.
"""

import argparse
import json
import subprocess
from pathlib import Path

from lab.arguments import at_least_one, parse_with_changes
from lab.errors import UserError, listed, run_command
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.runs import Runs
from lab.scoring.repeated import summarize, write_repeated


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Train a recipe several times.")
    parser.add_argument("--config", default=str(DEFAULT_RECIPE), metavar="PATH", help="recipe (default: digits)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="SEED", help="one run for each")
    parser.add_argument(
        "--leave_out", nargs="+", default=[], metavar=("COLUMN", "VALUE"), help="one run for each value"
    )
    parser.add_argument("--processes", type=at_least_one, default=1, help="runs at a time (default: 1)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as optimization.epochs=5")
    options = parse_with_changes(parser, arguments)
    recipe = load_recipe(options.config, options.overrides)
    jobs = {f"seed-{seed}": [f"seed={seed}"] for seed in options.seeds}
    if options.leave_out:
        column, *values = options.leave_out
        if others := sorted(recipe.data.hold_out.keys() - {column}):
            raise UserError(
                f"--leave_out {column}: the recipe's data.hold_out names {listed(others)}, and only rows that fit both "
                "would be left out: take it out of the recipe"
            )
        jobs |= {f"{column}-{value}": [_hold_out(column, value)] for value in values}
    if not jobs:
        raise UserError("nothing to do: give --seeds, or --leave_out with a column and its values")
    output = Path(recipe.output_dir)
    with Runs(options.processes) as runs:
        done = runs.map(lambda name: _train(runs, options, output / name, jobs[name]), jobs)
        failed = [name for name, code in zip(jobs, done, strict=True) if code]
    if failed:
        raise UserError(f"{', '.join(failed)} did not end well: see {output}/NAME.log")
    results = {name: json.loads((output / name / "metrics.json").read_text(encoding="utf-8")) for name in jobs}
    write_repeated(output, summarize(results))
    print((output / "repeated.md").read_text(encoding="utf-8"))


def _hold_out(column: str, value: str) -> str:
    """The override that leaves rows out: as JSON, which is YAML that takes no text for a number or a list."""
    return f"data.hold_out={json.dumps({column: value}, ensure_ascii=False)}"


def _train(runs: Runs, options: argparse.Namespace, folder: Path, overrides: list[str]) -> int:
    """The exit code of a run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    resume = ["--resume"] if (folder / "recipe.yaml").exists() else []
    arguments = ["--config", options.config, *resume, *options.overrides, *overrides, f"output_dir={folder}"]
    with folder.with_name(f"{folder.name}.log").open("a", encoding="utf-8") as log:
        return runs.train(arguments, stdout=log, stderr=subprocess.STDOUT).returncode


if __name__ == "__main__":
    run_command(main)
