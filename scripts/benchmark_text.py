"""Time Perceiver IO's masked language model, or its tokenizer, here and in transformers: same numbers, other speed.

    python scripts/benchmark_text.py --output docs/benchmark

writes text.json, of the size of deepmind/language-perceiver (201 million parameters) with random weights.

    python scripts/benchmark_text.py --part tokenizer --data lines.txt

prints how many lines a second the tokenizers take.
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
from lab.peers.masked_lm import OFFICIAL, masked_lm_table, measure
from lab.peers.tokenizing import lines_of, time_tokenizers
from lab.places import folder_to_write, place
from lab.provenance import describe_run
from lab.writing import new_files


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Time Perceiver IO's masked language model beside transformers'.")
    parser.add_argument("--lengths", nargs="+", type=at_least_one, default=[200, 2048], help="bytes of a text")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="repetitions (default: 3)")
    parser.add_argument("--threads", type=at_least_one, default=1, help="of the processor (default: 1)")
    parser.add_argument("--layers", type=at_least_one, default=26, help="self-attends (default: 26, as the source)")
    parser.add_argument("--output", type=place, default=Path("output/benchmark"), metavar="FOLDER")
    parser.add_argument("--part", choices=("model", "tokenizer"), default="model", help="what to time")
    parser.add_argument("--data", type=place, metavar="FILE", help="lines of text for the tokenizers; or random ones")
    parser.add_argument("--lines", type=at_least_one, default=10_000, help="of them, at most (default: 10,000)")
    options = parser.parse_args(arguments)
    if options.part == "tokenizer":
        _time_tokenizers(options.data, options.lines, options.rounds)
        return
    folder_to_write(options.output)
    torch.set_num_threads(options.threads)
    fields = OFFICIAL | {"num_self_attends_per_block": options.layers}
    results = describe_run(Accelerator(cpu=True), launcher=("python",)) | {"rounds": options.rounds}
    results["lengths"] = measure(fields, options.lengths, options.rounds)
    results |= {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}
    print(masked_lm_table(results))
    with new_files(options.output) as unfinished:
        text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
        (unfinished / "text.json").write_text(text, encoding="utf-8")


def _time_tokenizers(file: Path | None, count: int, rounds: int):
    lines = lines_of(file, count)
    speeds = time_tokenizers(lines, rounds)
    size = sum(len(line.encode()) for line in lines) / len(lines)
    print(
        f"{len(lines):,} lines of {size:.0f} bytes, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; same ids"
    )
    slowest = min(speeds.values())
    for name, speed in speeds.items():
        print(f"  {name}: {speed:,.0f} lines a second, {1e6 / speed:.0f} µs a line, × {speed / slowest:.1f}")


if __name__ == "__main__":
    run_command(main)
