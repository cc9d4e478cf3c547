"""Time and memory of several inputs at once beside others, and memory of many output queries.

    python scripts/benchmark_inputs.py                                     # both parts, into output/benchmark/
    python scripts/benchmark_inputs.py --part inputs --frames 1 2 --rounds 9
    python scripts/benchmark_inputs.py --part decoding
    python scripts/benchmark_inputs.py --part inputs --elements patches --frames 32 --samples 61440 \
        --samples_per_patch 128                                            # the paper's input

One cross-attend of 512 × 1024 latents looks at frames of 224 × 224 pixels, as single pixels and as patches of 2 × 8 × 8
(of 4 frames or more), beside one second of sound. Others are given the array of all elements, which transformers'
preprocessor makes. With `--output docs/benchmark` the JSON files of docs/performance.md are made;
scripts/configurations.py makes its tables.
"""

import argparse
import json
import os
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

from accelerate import Accelerator

from lab.arguments import at_least_one
from lab.errors import UserError, run_command
from lab.machine import without_gpu
from lab.peers.decoding import measure_decoding
from lab.peers.results import decoding_table, inputs_table
from lab.peers.several_inputs import CONTENDERS, VideoWithSound
from lab.peers.several_measured import measure_series
from lab.places import folder_to_write, place
from lab.provenance import describe_run
from lab.writing import write_atomically

PATCH = (2, 8, 8)
EDGES = [32, 100, 316, 1000]


def main(arguments: list[str] | None = None):
    options = parse(arguments)
    folder_to_write(options.output)
    accelerator = Accelerator(cpu=without_gpu())
    device = str(accelerator.device)
    run = {**describe_run(accelerator, launcher=("python",)), "limit_gigabytes": options.limit_gb}
    if "inputs" in options.part:
        results = {**run, "rounds": options.rounds, "cases": {}}
        sound = {"samples": options.samples, "samples_per_patch": options.samples_per_patch}
        pixels = [VideoWithSound(count, **sound) for count in options.frames]
        patches = [
            VideoWithSound(count, PATCH, **sound)
            for count in options.frames
            if count % PATCH[0] == 0 and count > PATCH[0]  # of a single one transformers' preprocessor makes an image
        ]
        series_of = {"pixels": pixels, "patches": patches}
        for series in (series_of[name] for name in options.elements):
            for name, result in measure_series(
                series, options.contenders, device, options.rounds, options.limit_gb, options.timed_frames
            ):
                results["cases"][name] = result
                written = _write(options.output / "inputs.json", results)
        if not results["cases"]:
            raise UserError(f"--frames {options.frames}: patches need {PATCH[0]} times 2 frames or more")
        write_atomically(options.output / "inputs.md", inputs_table(written))
        print(inputs_table(written))
    if "decoding" in options.part:
        results = {**run, "queries": measure_decoding(options.edges, device, options.limit_gb)}
        print(decoding_table(_write(options.output / "decoding.json", results)))


def parse(arguments: list[str] | None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("inputs", "decoding")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument("--frames", nargs="+", type=at_least_one, default=[1, 2, 4, 8, 16], help="of clips, ascending")
    parser.add_argument("--timed_frames", type=at_least_one, help="most frames of clips that are timed (default: all)")
    elements = ("pixels", "patches")
    parser.add_argument("--elements", nargs="+", choices=elements, default=elements, help="of video (default: both)")
    parser.add_argument("--samples", type=at_least_one, default=16_000, help="of sound (default: 16000)")
    parser.add_argument("--samples_per_patch", type=at_least_one, default=16, help="of sound, an element (default: 16)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--edges", nargs="+", type=at_least_one, default=EDGES, help="of images to decode, ascending")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="repetitions (default: 3)")
    parser.add_argument("--limit_gb", type=float, default=6.0, help="that a contender may take (default: 6)")
    parser.add_argument("--output", type=place, default=Path("output/benchmark"))
    return parser.parse_args(arguments)


def _write(path: Path, results: dict) -> dict:
    """Write what there is so far, with the load of the machine, as the time of a crowded one says little."""
    written = results | {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}
    write_atomically(path, json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    return written


if __name__ == "__main__":
    run_command(main)
