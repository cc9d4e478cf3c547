"""Train the rungs of a ladder, recipes that differ in a few keys, and write down what each change gave.

    python scripts/ladder.py docs/cifar10/ladder.yaml data.path=/data/cifar10

Rungs are trained by scripts/train.py into `output/ladder/`, without a look at the test images unless the ladder's file
says `test: true`; finished ones are not trained again, interrupted ones go on. With `seeds: [0, 1, 2]` each rung is
trained that often. The table, and all figures as JSON, come to lie beside the ladder's file.
"""

import argparse
import json
import re
import statistics
import subprocess
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from tqdm.auto import tqdm

from lab.arguments import at_least_one
from lab.changes import FREE, PLACES, verdict
from lab.checkpoint_names import RESULTS
from lab.errors import UserError, one_line, run_command
from lab.places import place
from lab.provenance import facts_of
from lab.recipe import load_recipe
from lab.runs import Runs
from lab.scoring.measures import Measure, is_score, measure_of
from lab.tasks import build_task
from lab.writing import write_atomically

_SPLITS = ("validation", "test")
_KEPT = ("train_seconds", "parameters", "steps", "hardware", "git_commit", "versions", "data")


def main(arguments: list[str] | None = None):
    options = parse(arguments)
    ladder = load_ladder(options.ladder, options.overrides)
    all_runs = [(name, seed) for name in ladder["rungs"] for seed in ladder.get("seeds", [None])]
    threads = ["optimization.cpu_threads=1"] if options.jobs > 1 else []
    overrides = [*options.overrides, *threads]
    with Runs(options.jobs) as runs, tqdm(total=len(all_runs), unit="run") as bar:
        climbed = [runs.submit(climb, runs, ladder, name, seed, overrides, options.output) for name, seed in all_runs]
        for run in climbed:
            run.add_done_callback(lambda _: bar.update())
        rungs = [run.result() for run in climbed]
    common = common_of(ladder, options.overrides)
    results = {"config": ladder["config"], "common": common, "score": ladder["score"], "rungs": rungs}
    write_atomically(options.ladder.with_suffix(".json"), json.dumps(results, indent=2) + "\n")
    write_atomically(options.ladder.with_suffix(".md"), table(results))
    print(table(results))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train recipes that differ in a few keys, and compare them.")
    parser.add_argument("ladder", metavar="LADDER", type=place, help="YAML of config, common and rungs")
    parser.add_argument("--jobs", type=at_least_one, default=1, help="rungs at a time; a thread each if several")
    parser.add_argument("--output", type=place, default=Path("output/ladder"), help="folder of the runs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all rungs, such as data.path=/data")
    return parser.parse_intermixed_args(arguments)


def load_ladder(path: Path, overrides: list[str]) -> dict:
    """What a ladder's file says, all its recipes checked.

    `config` is the recipe to start from, `common` are overrides for all `rungs`. Those go by name; each has `overrides`
    of its own and, but for the first, the rung to compare it with as `beside`. `seeds` and `test` may be there. `score`
    is added, by which all rungs are judged.

    Raises:
        UserError: it cannot be read, lacks a part, a recipe would not work, or rungs cannot be compared.
    """
    try:
        ladder = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    missing = [part for part in ("config", "common", "rungs") if part not in ladder]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: expected config, common and rungs")
    if not ladder["rungs"]:
        raise UserError(f"{path} has no rungs: expected at least one")
    if len({_folder(name) for name in ladder["rungs"]}) < len(ladder["rungs"]):
        raise UserError(f"{path} has rungs whose names differ in no letter or digit: name them apart")
    seeds = ladder.get("seeds") or []
    if len({*seeds}) < len(seeds):
        raise UserError(f"{path} has seeds {seeds}: give each once, as twice the same says nothing")
    given = {*map(_key, overrides)}
    if seeds and "seed" in given:
        raise UserError(f"seed: {path} has seeds {seeds}, and trains each rung with all of them: leave it out")
    if "output_dir" in given:
        raise UserError("output_dir: each run has a folder of its own; --output says where these lie")
    ladder["rungs"] = {name: {"overrides": [], **(rung or {})} for name, rung in ladder["rungs"].items()}
    scores, judged = {}, []
    for name, rung in ladder["rungs"].items():
        beside = rung.get("beside", name)
        if beside not in ladder["rungs"]:
            raise UserError(f"{path}: rung {name!r} is to be compared with {beside!r}, which is none of the rungs")
        if taken := given & {*map(_key, rung["overrides"])}:
            raise UserError(
                f"{', '.join(sorted(taken))}: rung {name!r} of {path} has a value of its own, which one on the command "
                "line would undo: leave it out"
            )
        recipe = load_recipe(ladder["config"], [*ladder["common"], *rung["overrides"], *overrides])
        scores.setdefault(build_task(recipe).best, name)
        tests = bool(ladder.get("test")) and recipe.data.test_split is not None
        judged.append({split for split, there in zip(_SPLITS, (recipe.data.validates, tests), strict=True) if there})
    if len(scores) > 1:
        named = ", ".join(f"{name!r} by {score}" for score, name in scores.items())
        raise UserError(f"{path} has rungs that different scores judge ({named}): compare those of one task")
    if not set.intersection(*judged):
        raise UserError(f"{path} has rungs that no split judges all: let all validate, or all test with test: true")
    return ladder | {"score": next(iter(scores))}


def common_of(ladder: dict, overrides: list[str]) -> list[str]:
    """What all rungs have in common: of the ladder's file, and of the command line what changes what is trained."""
    idle = PLACES if ladder.get("test") else (*PLACES, "data.test_split")
    given = [text for text in overrides if _key(text) not in idle and verdict(_key(text)) != FREE]
    return [text for text in ladder["common"] if _key(text) not in map(_key, given)] + given


def climb(runs: Runs, ladder: dict, name: str, seed: int | None, overrides: list[str], output: Path) -> dict:
    """Train a rung, if that is not done; returns what the table needs.

    Args:
        seed: None takes that of the recipe.

    Raises:
        UserError: training failed.
    """
    folder = output / _folder(name if seed is None else f"{name} seed {seed}")
    own = [*ladder["common"], *ladder["rungs"][name]["overrides"]]
    arguments = ["--config", ladder["config"], *own, *overrides, f"output_dir={folder}", "--resume"]
    arguments += [] if seed is None else [f"seed={seed}"]
    arguments += [] if ladder.get("test") else ["data.test_split=null"]
    done = runs.train(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("error:")), done.stderr[-300:])
        raise UserError(f"rung {name!r} failed: {reason.strip()}; repeat the command to go on with the others")
    metrics = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    seed = load_recipe(folder / "recipe.yaml").seed
    return {
        "name": name,
        **ladder["rungs"][name],
        "seed": seed,
        **{key: value for key, value in metrics.items() if _is_kept(key)},
    }


def table(results: dict) -> str:
    """Markdown: the deciding score of every rung and the difference to another, with what all have in common.

    Of several seeds it is the mean and the standard deviation; the difference is that of the last split.
    """
    rungs, measure = results["rungs"], measure_of(results["score"])
    runs: dict[str, list[dict]] = {}
    for rung in rungs:
        runs.setdefault(rung["name"], []).append(rung)
    keys = {split: f"{split}_{results['score']}" for split in _SPLITS}
    keys = {split: key for split, key in keys.items() if all(key in rung for rung in rungs)}
    rows = [
        f"| | {' | '.join(f'{split} {measure.title}' for split in keys)} | change | parameters | training time | "
        "overrides |",
        f"|---|{'---:|' * len(keys)}---|---:|---:|---|",
    ]
    for name, of_rung in runs.items():
        rung, beside = of_rung[0], of_rung[0].get("beside")
        cells = [_score(of_rung, key, measure) for key in keys.values()]
        change = ""
        if beside is not None:
            means = [_mean(found, list(keys.values())[-1]) for found in (of_rung, runs[beside])]
            change = f"{_change(means[0] - means[1], measure)} against {beside}"
        overrides = " ".join(f"`{text}`" for text in rung["overrides"])
        seconds = _mean(of_rung, "train_seconds")
        rows.append(
            f"| {name} | {' | '.join(cells)} | {change} | {rung['parameters']:,} | {seconds:.0f} s | {overrides} |"
        )
    seeds = f"seed {facts_of(rungs, 'seed')}"
    if len(rungs) > len(runs):
        seeds = "mean ± standard deviation over seeds " + ", ".join(str(run["seed"]) for run in runs[rungs[0]["name"]])
    common = f" with `{' '.join(results['common'])}`" if results["common"] else ""
    return "\n".join(
        [
            f"{facts_of(rungs, 'data')}, `{results['config']}`{common}, {facts_of(rungs, 'steps')} steps, "
            f"{seeds}, on {facts_of(rungs, 'hardware')} each, torch "
            f"{facts_of([rung['versions'] for rung in rungs], 'torch')}, commit {facts_of(rungs, 'git_commit')}.",
            "",
            *rows,
            "",
        ]
    )


def _is_kept(key: str) -> bool:
    split, _, score = key.partition("_")
    return key in _KEPT or (split in _SPLITS and is_score(score))


def _mean(runs: list[dict], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


def _score(runs: list[dict], key: str, measure: Measure) -> str:
    if len(runs) == 1:
        return measure.write(runs[0][key], decimals=1)
    return measure.write_spread(_mean(runs, key), statistics.stdev(run[key] for run in runs), decimals=1)


def _change(difference: float, measure: Measure) -> str:
    """Such as `+0.5`, of shares in percent."""
    scale, decimals = (100, 1) if measure.percent else (1, 3)
    return f"{round(scale * difference, decimals) + 0.0:+.{decimals}f}"


def _key(override: str) -> str:
    return override.partition("=")[0]


def _folder(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    run_command(main)
