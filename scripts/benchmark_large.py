"""Time the processors on very large inputs: clouds of points, recordings and videos.

    python scripts/benchmark_large.py --output docs/modalities/large
    python scripts/benchmark_large.py --points 1000000 --hours 0.1 --minutes 1     # smaller ones

It makes the inputs itself, in the folder for temporary files, which must have room for them (2.1 GB), and writes
`large.json` and `large.md`.
"""

import argparse
import json
import os
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

import torch
from accelerate import Accelerator

from lab.arguments import at_least_one
from lab.errors import run_command
from lab.peers.large import large_table, measure_large
from lab.places import folder_to_write, place
from lab.provenance import describe_run
from lab.writing import new_files


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=at_least_one, default=10_000_000, help="of the cloud (default: 10 million)")
    parser.add_argument("--hours", type=float, default=3.3, help="of the WAV file (default: 3.3)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the video (default: 10)")
    parser.add_argument("--threads", type=at_least_one, default=1, help="of the processor (default: 1)")
    parser.add_argument("--output", type=place, default=Path("output") / "benchmark", metavar="FOLDER")
    options = parser.parse_args(arguments)
    folder_to_write(options.output)
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    inputs = measure_large(options.points, options.hours, options.minutes, options.threads)
    found = {**describe_run(Accelerator(cpu=True), launcher=("python",)), "load_average": load, "inputs": inputs}
    print(large_table(found))
    with new_files(options.output) as unfinished:
        (unfinished / "large.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (unfinished / "large.md").write_text(large_table(found), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
