"""Train the rungs of a ladder, recipes that differ in a few keys, and write down what each change gave.

    python scripts/ladder.py docs/cifar10/ladder.yaml data.path=/data/cifar10

Rungs are trained by scripts/train.py, without a look at the test images, into `output/ladder/`; finished ones are not
trained again, interrupted ones go on. The table, and all figures as JSON, come to lie beside the ladder's file.
"""

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omegaconf import OmegaConf
from tqdm.auto import tqdm

from lab.errors import UserError, run_command
from lab.places import place
from lab.recipe import load_recipe
from lab.training.run_folder import RESULTS, write_atomically

TRAIN = Path(__file__).with_name("train.py")
_KEPT = ("validation_accuracy", "train_seconds", "parameters", "steps", "hardware", "git_commit", "versions", "data")


def main(arguments: list[str] | None = None):
    options = parse(arguments)
    ladder = load_ladder(options.ladder, options.overrides)
    with ThreadPoolExecutor(options.jobs) as pool, tqdm(total=len(ladder["rungs"]), unit="rung") as bar:
        runs = [
            pool.submit(climb, ladder, name, options.overrides, options.output, options.jobs)
            for name in ladder["rungs"]
        ]
        for run in runs:
            run.add_done_callback(lambda _: bar.update())
        rungs = [run.result() for run in runs]
    results = {"config": ladder["config"], "common": ladder["common"], "rungs": rungs}
    write_atomically(options.ladder.with_suffix(".json"), json.dumps(results, indent=2) + "\n")
    write_atomically(options.ladder.with_suffix(".md"), table(results))
    print(table(results))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train recipes that differ in a few keys, and compare them.")
    parser.add_argument("ladder", metavar="LADDER", type=place, help="YAML of config, common and rungs")
    parser.add_argument("--jobs", type=int, default=1, help="rungs trained at a time; a thread for each if several")
    parser.add_argument("--output", type=place, default=Path("output/ladder"), help="folder of the runs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all rungs, such as data.path=/data")
    options = parser.parse_intermixed_args(arguments)
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: expected at least 1")
    return options


def load_ladder(path: Path, overrides: list[str]) -> dict:
    """What a ladder's file says, all its recipes checked.

    `config` is the recipe to start from, `common` are overrides for all `rungs`. Those go by name; each has `overrides`
    of its own and, but for the first, the rung to compare it with as `beside`.

    Raises:
        UserError: it cannot be read, lacks a part, or a recipe would not work.
    """
    try:
        ladder = OmegaConf.to_container(OmegaConf.load(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    missing = [part for part in ("config", "common", "rungs") if part not in ladder]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: expected config, common and rungs")
    if len({_folder(name) for name in ladder["rungs"]}) < len(ladder["rungs"]):
        raise UserError(f"{path} has rungs whose names differ in no letter or digit: name them apart")
    for name, rung in ladder["rungs"].items():
        beside = rung.get("beside", name)
        if beside not in ladder["rungs"]:
            raise UserError(f"{path}: rung {name!r} is to be compared with {beside!r}, which is none of the rungs")
        load_recipe(ladder["config"], [*ladder["common"], *rung["overrides"], *overrides])
    return ladder


def climb(ladder: dict, name: str, overrides: list[str], output: Path, jobs: int) -> dict:
    """Train a rung, if that is not done; returns what the table needs.

    Raises:
        UserError: training failed.
    """
    folder = output / _folder(name)
    own = [*ladder["common"], *ladder["rungs"][name]["overrides"]]
    threads = ["optimization.cpu_threads=1"] if jobs > 1 else []
    command = ["accelerate.commands.launch", "--num_processes", "1", str(TRAIN), "--config", ladder["config"]]
    command += [*own, *overrides, *threads, f"output_dir={folder}", "data.test_split=null", "--resume"]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("error:")), done.stderr[-300:])
        raise UserError(f"rung {name!r} failed: {reason.strip()}; repeat the command to go on with the others")
    metrics = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    seed = load_recipe(folder / "recipe.yaml").seed
    return {
        "name": name,
        **ladder["rungs"][name],
        "seed": seed,
        **{key: metrics[key] for key in _KEPT if key in metrics},
    }


def table(results: dict) -> str:
    """Markdown: accuracy of every rung and the difference to another, with what all have in common."""
    rungs = results["rungs"]
    accuracies = {rung["name"]: 100 * rung["validation_accuracy"] for rung in rungs}
    rows = [
        "| | validation accuracy | change | parameters | training time | overrides |",
        "|---|---:|---|---:|---:|---|",
    ]
    for rung in rungs:
        accuracy, beside = accuracies[rung["name"]], rung.get("beside")
        change = "" if beside is None else f"{round(accuracy - accuracies[beside], 1) + 0.0:+.1f} against {beside}"
        keys = " ".join(f"`{text}`" for text in rung["overrides"])
        rows.append(
            f"| {rung['name']} | {accuracy:.1f} % | {change} | {rung['parameters']:,} | "
            f"{rung['train_seconds']:.0f} s | {keys} |"
        )
    common = " ".join(results["common"])
    return "\n".join(
        [
            f"{_all(rungs, 'data')}, `{results['config']}` with `{common}`, {_all(rungs, 'steps')} steps, "
            f"seed {_all(rungs, 'seed')}, on {_all(rungs, 'hardware')} each, torch "
            f"{_all([rung['versions'] for rung in rungs], 'torch')}, commit {_all(rungs, 'git_commit')}.",
            "",
            *rows,
            "",
        ]
    )


def _all(rungs: list[dict], fact: str) -> str:
    """What all rungs have in common, or else everything that one of them has."""
    return " or ".join(dict.fromkeys(str(rung[fact]) for rung in rungs))


def _folder(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    run_command(main)
