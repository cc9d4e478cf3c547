"""Measure how long this model, transformers' Perceiver and perceiver-pytorch's take to reach an accuracy.

    python scripts/time_to_accuracy.py data.path=/data/cifar10 data.title=CIFAR-10 --hours 1 --rates 3e-4 1e-3 3e-3

Accuracy is that on validation images. All have the recipe's numbers and widths of latents and layers, images, random
changes, batches and schedule, and train by the same loop; heads and decoders are each one's own. Ours has the recipe's
optimiser and learning rate; the others have AdamW with each of --rates, and the best of them counts. A run ends when
it reaches the highest target, or after --hours. Time to judge does not count. With --trial_hours each of --rates is
tried for so long, and the best of them alone is run for --hours, from the start. Runs that are finished are files in
FOLDER/runs and are not repeated on the same hardware with the same data, so the command goes on where it was stopped,
with the next run. It writes time-to-accuracy.json, .md and .png.
"""

import argparse
import json
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

from lab.arguments import parse_with_changes
from lab.data.identity import identity
from lab.data.splits import Splits
from lab.errors import UserError, run_command
from lab.layers import CONFIGURATION_FOLDER
from lab.looking.style import save
from lab.peers.contenders import OURS, perceiver_pytorch
from lab.peers.races import (
    PERCEIVER_PYTORCH,
    RACERS,
    best_run,
    case_of,
    draw_races,
    race,
    racer,
    races_table,
    recipe_of,
)
from lab.places import folder_to_write, place
from lab.provenance import describe_surroundings
from lab.recipe import Recipe, chosen, effective, load_recipe
from lab.tasks import build_task
from lab.training.loop import build_accelerator
from lab.training.precision import settle_precision
from lab.writing import new_file, write_atomically

_CONFIG = CONFIGURATION_FOLDER / "cifar10-study.yaml"
_NAME = "time-to-accuracy"


def main(arguments: list[str] | None = None):
    options = parse(arguments)
    overrides = [*options.overrides, "data.test_split=null"]  # test images are not read
    recipe = settle_precision(load_recipe(options.config, overrides), report=print)
    task = build_task(recipe)
    case_of(task.config, recipe.optimization.batch_size)
    if PERCEIVER_PYTORCH in options.racers:
        perceiver_pytorch()  # said before the others have run for hours
    folder = folder_to_write(folder_to_write(options.output) / "runs")
    splits = task.load_splits()
    targets = [target / 100 for target in sorted(options.targets)]
    limits = {"target": targets[-1], "most_seconds": 3600 * options.hours, "every_seconds": options.every}
    runs, trials = [], []

    def measured(name: str, rates: list[float], limits: dict, suffix: str = "") -> list[dict]:
        return [measure(recipe_of(recipe, name, rate), name, splits, limits, folder, suffix) for rate in rates]

    for name in options.racers:
        rates = [recipe.optimization.learning_rate] if name == OURS else options.rates
        if options.trial_hours is not None and len(rates) > 1:
            tried = measured(name, rates, limits | {"most_seconds": 3600 * options.trial_hours}, suffix="-trial")
            trials += tried
            rates = [best_run(tried, targets)["learning_rate"]]
        runs += measured(name, rates, limits)
    result = {
        "data": recipe.data.title or recipe.data.called,
        "images": {"train": len(splits.train), "validation": len(splits.validation)},
        "targets": targets,
        "most_seconds": limits["most_seconds"],
        "every_seconds": options.every,
        "seed": recipe.seed,
        "runs": runs,
        "trial_seconds": None if options.trial_hours is None else 3600 * options.trial_hours,
        "trials": trials,
    }
    write_atomically(options.output / f"{_NAME}.json", json.dumps(result, indent=1) + "\n")
    table = races_table(result)
    write_atomically(options.output / f"{_NAME}.md", table)
    with new_file(options.output / f"{_NAME}.png") as picture:
        save(draw_races(result), picture, dpi=120)
    print(table)


def measure(recipe: Recipe, name: str, splits: Splits, limits: dict, folder: Path, suffix: str = "") -> dict:
    """Return the result of a run, from its file if that has the same settings, samples and hardware.

    Otherwise train and write it.

    Args:
        suffix: of the file's name.
    """
    settings = recipe.optimization
    path = folder / f"{name.replace(' ', '-')}-{settings.optimizer}-{settings.learning_rate:g}{suffix}.json"
    known = {key: value for key, value in chosen(effective(recipe)).items() if key != "data.path"}
    task = build_task(recipe)
    provenance = describe_surroundings(build_accelerator(task))  # which settles the number of threads
    asked = {"recipe": known, **limits, "hardware": provenance["hardware"], "samples": identity(splits)}
    asked = json.loads(json.dumps(asked))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["asked"] == asked:
            print(f"{path} has this run")
            return found
    task.fit(splits)
    print(f"{name}, {settings.optimizer} at {settings.learning_rate:g}", flush=True)
    found = race(task, splits, racer(name, task), **limits)
    facts = {"name": name, "optimizer": settings.optimizer, "learning_rate": settings.learning_rate}
    found = {**facts, **found, **provenance, "asked": asked}
    write_atomically(path, json.dumps(found, indent=1) + "\n")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(description="Measure how long models take to an accuracy.")
    parser.add_argument("--config", type=place, default=_CONFIG, metavar="PATH", help="recipe (default: CIFAR-10)")
    parser.add_argument("--racers", nargs="+", default=list(RACERS), metavar="NAME", help="default: all three")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3], help="of the others")
    parser.add_argument("--targets", type=float, nargs="+", default=[45.0, 52.0], help="in percent")
    parser.add_argument("--hours", type=float, default=1.0, help="of training, for each run (default: 1)")
    parser.add_argument("--trial_hours", type=float, metavar="HOURS", help="try each of --rates so long, run the best")
    parser.add_argument("--every", type=float, default=60.0, help="seconds of training between judgements")
    parser.add_argument("--output", type=place, default=Path("output") / _NAME, metavar="FOLDER")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.path=FOLDER")
    options = parse_with_changes(parser, arguments)
    for name in options.racers:
        if name not in RACERS:
            raise UserError(f"--racers {name}: expected some of {', '.join(map(repr, RACERS))}")
    for name in ("hours", "trial_hours", "every"):
        if getattr(options, name) is not None and getattr(options, name) <= 0:
            raise UserError(f"--{name} {getattr(options, name):g}: expected more than 0")
    for target in options.targets:
        if not 0 < target <= 100:
            raise UserError(f"--targets {target:g}: expected percent, above 0 and up to 100")
    return options


if __name__ == "__main__":
    run_command(main)
