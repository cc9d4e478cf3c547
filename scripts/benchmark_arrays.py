"""Time a recipe's model beside Perceivers of the same size by others, on the same byte array of elements.

    python scripts/benchmark_arrays.py --config configuration/modelnet10.yaml --output docs/modalities/points

For inputs of any kind, where scripts/benchmark.py is about images. It needs no data, and writes `cost.json` and
`cost.md` into the folder.
"""

import argparse
import json
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

import torch
from accelerate import Accelerator

from lab.arguments import at_least_one, parse_with_changes
from lab.errors import run_command
from lab.machine import without_gpu
from lab.peers.arrays import OTHERS, cost_table, measure
from lab.places import folder_to_write, place
from lab.provenance import describe_run
from lab.recipe import load_recipe
from lab.tasks import build_task
from lab.writing import new_files


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Time a recipe's model beside others on the same arrays.")
    parser.add_argument("--config", required=True, metavar="PATH", help="recipe")
    parser.add_argument("--batch_size", type=at_least_one, default=16, help="samples at a time (default: 16)")
    parser.add_argument("--rounds", type=at_least_one, default=9, help="repetitions (default: 9)")
    parser.add_argument("--threads", type=at_least_one, default=1, help="of the processor (default: 1)")
    parser.add_argument("--others", nargs="*", choices=tuple(OTHERS), default=tuple(OTHERS), help="default: all")
    parser.add_argument("--output", type=place, default=Path("output") / "benchmark", metavar="FOLDER")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as model.num_latents=128")
    options = parse_with_changes(parser, arguments)
    torch.set_num_threads(options.threads)
    accelerator = Accelerator(cpu=without_gpu())
    task = build_task(load_recipe(options.config, options.overrides))
    folder_to_write(options.output)
    found = {
        **describe_run(accelerator, launcher=("python",)),
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        **measure(task, options.batch_size, options.rounds, options.others, accelerator.device),
    }
    print(cost_table(found))
    with new_files(options.output) as unfinished:
        (unfinished / "cost.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (unfinished / "cost.md").write_text(cost_table(found), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
