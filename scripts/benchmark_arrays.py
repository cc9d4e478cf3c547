"""Time a recipe's model beside Perceivers of the same size by others, on the same byte array of elements.

    python scripts/benchmark_arrays.py --config configuration/modelnet10.yaml

For inputs of any kind, where scripts/benchmark.py is about images. It prints a table, and needs no data.
"""

import argparse

import lab.waiting  # noqa: F401, before torch

import torch

from lab.errors import run_command
from lab.peers.arrays import measure
from lab.recipe import load_recipe
from lab.tasks import build_task


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Time a recipe's model beside others on the same arrays.")
    parser.add_argument("--config", required=True, metavar="PATH", help="recipe")
    parser.add_argument("--batch_size", type=int, default=16, help="samples at a time (default: 16)")
    parser.add_argument("--rounds", type=int, default=9, help="repetitions (default: 9)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: 1)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as model.num_latents=128")
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(options.threads)
    task = build_task(load_recipe(options.config, options.overrides))
    print(
        "| | parameters | forward, ms a sample | training step, ms a sample | times ours |\n|---|---:|---:|---:|---:|"
    )
    for name, found in measure(task, options.batch_size, options.rounds).items():
        print(
            f"| {name} | {found['parameters']:,} | {found['forward']:.2f} | {found['step']:.2f} | "
            f"{found['ratio']:.2f} |"
        )


if __name__ == "__main__":
    run_command(main)
