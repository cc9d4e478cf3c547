"""Test claims about the Perceiver by experiments, and write the report.

    python scripts/study.py                                 # all, on the embedded digits, into docs/study/: 1.5 hours
    python scripts/study.py positions permutation --seeds 0 1 2 --output output/study
    python scripts/study.py positions --config configuration/cifar10-study.yaml data.path=/data/cifar10

Each experiment writes a JSON file and a picture; README.md beside them is made from the JSON files. What was measured
with the same settings is not measured again, and a study that was stopped continues with the next training run.
"""

import argparse
import difflib
import importlib
import json
import time
from pathlib import Path
from types import ModuleType

import lab.waiting  # noqa: F401, before torch

from lab.arguments import at_least_one, parse_with_changes
from lab.errors import UserError, run_command
from lab.places import folder_to_write, place
from lab.provenance import describe_run
from lab.recipe import chosen
from lab.study.comparison import conclude
from lab.study.report import REPORT, report
from lab.study.setting import DEFAULT_CONFIG, Setting
from lab.tasks import build_task
from lab.training.loop import build_accelerator
from lab.writing import new_file, write_atomically

EXPERIMENTS = (
    "attention_maps",
    "complexity",
    "weight_sharing",
    "cross_attends",
    "positions",
    "permutation",
    "latents_depth",
    "content_position",
    "latents",
    "query_tuning",
    "elastic",
)
DEFAULT_OUTPUT = DEFAULT_CONFIG.parent.parent / "docs" / "study"


def main(arguments: list[str] | None = None):
    names, setting, output = parse(arguments)
    experiments = load_experiments()
    accelerator = build_accelerator(build_task(setting.recipe()))  # once, for all that is measured in this process
    folder_to_write(output)
    provenance = describe_run(accelerator, launcher=("python",))
    for name in names:
        measured = measure(name, experiments[name], setting, output, provenance)
        with new_file(output / f"{name}.png") as unfinished:
            experiments[name].draw(measured["result"]).savefig(unfinished, dpi=120)
        write_atomically(output / REPORT, report(output, experiments))
        print(f"{experiments[name].TITLE}, verdict: {conclude(experiments[name].judge(measured['result']))[0]}")
    print(f"wrote {output / REPORT}")


def load_experiments() -> dict[str, ModuleType]:
    """Return all experiments by name, in the order of the report."""
    return {name: importlib.import_module(f"lab.study.{name}") for name in EXPERIMENTS}


def measure(name: str, experiment: ModuleType, setting: Setting, output: Path, provenance: dict) -> dict:
    """Return the content of the experiment's JSON file; unless the file has these settings, measure and write it."""
    path = output / f"{name}.json"
    settings = json.loads(json.dumps(experiment.settings(setting)))  # as the file has them
    if path.exists() and not setting.again:
        measured = json.loads(path.read_text(encoding="utf-8"))
        if _identity(measured["settings"]) == _identity(settings):
            print(f"{path} was measured with these settings; --again measures again")
            return measured
    begin = time.perf_counter()
    result = experiment.run(setting)
    seconds = round(time.perf_counter() - begin, 1)
    measured = {"experiment": name, "settings": settings, "seconds": seconds, **provenance, "result": result}
    text = json.dumps(measured, indent=1, allow_nan=False) + "\n"
    write_atomically(path, text)
    return json.loads(text)  # as the file has it


def _identity(settings: dict) -> dict:
    """Return settings without the keys of a recipe that have their defaults, so that a new key changes nothing."""
    return {**settings, **({"recipe": chosen(settings["recipe"])} if "recipe" in settings else {})}


def parse(arguments: list[str] | None) -> tuple[list[str], Setting, Path]:
    """Return the names of experiments, their setting, and the folder for their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="EXPERIMENT or key=value",
        help=f"names from {', '.join(EXPERIMENTS)} (default: all), and overrides of the recipe",
    )
    parser.add_argument("--config", type=place, default=DEFAULT_CONFIG, metavar="PATH", help="or study-digits.yaml")
    parser.add_argument(
        "--checkpoint", metavar="FOLDER_OR_NAME", help="inspect this model in attention_maps instead of training one"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 to 4")
    parser.add_argument("--output", type=place, metavar="FOLDER", help="default: docs/study, or output/study/RECIPE")
    parser.add_argument(
        "--processes", type=at_least_one, help="trainings side by side on a CPU (default: as many as cores)"
    )
    parser.add_argument("--again", action="store_true", help="measure again what is finished")
    options = parse_with_changes(parser, arguments, "words")
    names = [word for word in options.words if "=" not in word]
    overrides = tuple(word for word in options.words if "=" in word)
    for name in names:
        if name not in EXPERIMENTS:
            nearest = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0)[0]
            raise UserError(
                f"unknown experiment {name!r}; expected one of {', '.join(EXPERIMENTS)}; the nearest is {nearest!r}"
            )
    setting = Setting(
        config=options.config,
        overrides=overrides,
        seeds=tuple(options.seeds),
        checkpoint=options.checkpoint,
        processes=options.processes,
        again=options.again,
    )
    usual = options.config == DEFAULT_CONFIG and not overrides
    output = options.output or (DEFAULT_OUTPUT if usual else Path("output/study") / options.config.stem)
    return [name for name in EXPERIMENTS if name in (names or EXPERIMENTS)], setting, output


if __name__ == "__main__":
    run_command(main)
