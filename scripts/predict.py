"""Name what is on images, in recordings, in texts, or whatever else a checkpoint knows.

    python scripts/predict.py output/digits three.png seven.png
    python scripts/predict.py org/perceiver-cifar10 cat.jpg --top_k 3
    python scripts/predict.py output/fsdd seven.wav
    python scripts/predict.py output/both sample.npz                    # several inputs, see docs/modalities.md

Every file is followed by its likeliest classes and their probabilities, for each task if there are several, or by all
numbers that a regression answers. A file that cannot be read is named on stderr, and the others get their answers.
Of a model of masked bytes the files are texts with `[MASK]` in them, and the likeliest bytes for each follow.
"""

import argparse
import sys

import lab.waiting  # noqa: F401, before torch

from lab.arguments import at_least_one
from lab.checkpoint_names import checkpoint_name
from lab.errors import UserError, about_file, one_line, run_command
from lab.judging.checkpoints import load_classifier
from lab.places import place


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Name what is in files.")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_name,
        help="folder of a run, or a name on the Hub",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=place, help="images, recordings, ..., or .npz")
    parser.add_argument("--top_k", type=at_least_one, default=5, help="classes to show (default: 5)")
    options = parser.parse_args(arguments)
    classifier = load_classifier(options.checkpoint)
    failed = False
    for path in options.files:
        try:
            sample = classifier.view.read(path, classifier.processor)
            with about_file(path):
                named, _ = classifier.answer(sample, options.top_k)
        except UserError as error:  # the other files have answers
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        named = [(one_line(label), number) for label, number in named]
        width = max(len(label) for label, _ in named)
        print(path)
        for label, number in named:
            score = f"{number:.4g}" if classifier.answers_numbers else f"{100 * number:5.1f} %"
            print(f"  {label:<{width}}  {score}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
