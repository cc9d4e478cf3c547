"""Time Perceiver IO's masked language model here and in transformers: same weights, same texts, same losses.

    python scripts/benchmark_text.py --output docs/benchmark

writes text.json, of the size of deepmind/language-perceiver (201 million parameters) with random weights.
"""

import argparse
import json
import os
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

import torch
from accelerate import Accelerator

from lab.errors import run_command
from lab.peers.masked_lm import OFFICIAL, masked_lm_table, measure
from lab.places import place
from lab.provenance import describe_run


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Time Perceiver IO's masked language model beside transformers'.")
    parser.add_argument("--lengths", nargs="+", type=int, default=[200, 2048], help="bytes of a text")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: 1)")
    parser.add_argument("--layers", type=int, default=26, help="self-attends (default: 26, as the source)")
    parser.add_argument("--output", type=place, default=Path("output/benchmark"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    fields = OFFICIAL | {"num_self_attends_per_block": options.layers}
    results = describe_run(Accelerator(cpu=True), launcher=("python",)) | {"rounds": options.rounds}
    results["lengths"] = measure(fields, options.lengths, options.rounds)
    results |= {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "text.json").write_text(
        json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(masked_lm_table(results))


if __name__ == "__main__":
    run_command(main)
