"""Name what is on images.

    python scripts/predict.py output/digits three.png seven.png
    python scripts/predict.py org/perceiver-cifar10 cat.jpg --top_k 3

Every image is followed by its likeliest classes and their probabilities.
"""

import argparse
from pathlib import Path

from transformers import pipeline
from transformers.utils import logging

from errors import UserError, one_line, run_command
from images import open_image


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Name what is on images.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder that train.py wrote, or a name on the Hub")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="image files")
    parser.add_argument("--top_k", type=int, default=5, help="classes to show (default: 5)")
    options = parser.parse_args(arguments)
    if options.top_k < 1:
        raise UserError(f"--top_k {options.top_k}: expected at least 1")
    images = [open_image(path) for path in options.images]
    classify = load_classifier(options.checkpoint)
    for path, predictions in zip(options.images, classify(images, top_k=options.top_k), strict=True):
        width = max(len(prediction["label"]) for prediction in predictions)
        print(path)
        for prediction in predictions:
            print(f"  {prediction['label']:<{width}}  {100 * prediction['score']:5.1f} %")


def check_checkpoint(checkpoint: str):
    """A `UserError` for what is neither a folder with a model nor could be the name of one on the Hub."""
    folder = Path(checkpoint)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"{checkpoint} holds no finished checkpoint: there is no config.json in it")
    elif checkpoint.count("/") != 1 or folder.parent.is_dir():
        # Not asked of the Hub: its answer to a mistyped folder would be slow and beside the point.
        raise UserError(f"{checkpoint}: no such folder, and no OWNER/NAME of a model on the Hub")


def load_classifier(checkpoint: str):
    """transformers' image-classification pipeline for a folder, or a name on the Hub; else a `UserError`."""
    check_checkpoint(checkpoint)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return pipeline("image-classification", model=checkpoint, trust_remote_code=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}") from None


if __name__ == "__main__":
    run_command(main)
