"""Draw where the latents of a model look: maps of its cross-attends over an image, a recording, ...

    python scripts/attention_maps.py output/digits three.png -o maps.png
    python scripts/attention_maps.py configuration/cifar10-study.yaml cat.jpg        # before training
    python scripts/attention_maps.py org/perceiver-cifar10 cat.jpg --cross_attends first last --latents 1 40 --logits
    python scripts/attention_maps.py output/fsdd seven.wav

A recipe stands for its model before training. The same picture in a notebook:
`draw_attention_maps(model, processor, sample)`.
"""

import argparse
from pathlib import Path
from typing import Any

import lab.waiting  # noqa: F401, before torch

from accelerate.utils import set_seed
from transformers import PreTrainedModel

from lab.checkpoint_names import checkpoint_name
from lab.errors import UserError, about_file, run_command
from lab.judging.checkpoints import load_classifier
from lab.looking.maps import draw_attention_maps
from lab.looking.style import save
from lab.looking.view import View
from lab.looking.views import VIEWS
from lab.places import file_to_write, place
from lab.recipe import load_recipe
from lab.tasks import build_task
from lab.writing import new_file


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Draw where the latents of a checkpoint look.")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_name,
        help="folder of a run, a name on the Hub, or RECIPE.yaml",
    )
    parser.add_argument("file", metavar="FILE", type=place, help="image, recording, ..., or .npz")
    parser.add_argument(
        "--cross_attends", nargs="+", metavar="WHICH", help="first, second, last or numbers (default: these three)"
    )
    parser.add_argument("--heads", nargs="+", type=int, metavar="NUMBER", help="from 1 (default: all)")
    parser.add_argument("--latents", nargs="+", type=int, metavar="NUMBER", help="from 1 (default: a few)")
    parser.add_argument("--logits", action="store_true", help="before the softmax, as the paper's figure 3 shows them")
    parser.add_argument("-o", "--output", type=place, default=Path("attention_maps.png"), help="picture to write")
    options = parser.parse_args(arguments)
    output = file_to_write(options.output)
    output = output if output.suffix else output.with_suffix(".png")
    load = load_untrained if options.checkpoint.endswith(".yaml") else load_trained
    model, processor, view = load(options.checkpoint)
    sample = view.read(options.file, processor)
    shown = (options.cross_attends, options.heads, options.latents, options.logits)
    with about_file(options.file):
        figure = draw_attention_maps(model, processor, sample, *shown, view=view)
    try:
        with new_file(output) as unfinished:
            save(figure, unfinished, dpi=100)
    except ValueError as error:  # the ending of its name says no format
        raise UserError(f"--output {output} cannot be written: {error}") from None
    print(output)


def load_trained(checkpoint: str) -> tuple[PreTrainedModel, Any, type[View]]:
    """Return the model, the processor and the view of a folder, or of a name on the Hub."""
    classifier = load_classifier(checkpoint)
    return classifier.model, classifier.processor, classifier.view


def load_untrained(path: str) -> tuple[PreTrainedModel, Any, type[View]]:
    """Return the model that training by a recipe begins with, its processor and its view."""
    recipe = load_recipe(path)
    task = build_task(recipe)
    set_seed(recipe.seed)
    model = task.build_model().eval()
    return model, task.processor, task.view or VIEWS[type(model).__name__]


if __name__ == "__main__":
    run_command(main)
