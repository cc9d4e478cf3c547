"""Bits per byte of n-gram models on the masked bytes that a model of masked bytes is judged by.

    python scripts/baselines.py output/tinyshakespeare --output docs/modalities/text

writes ngrams.json and ngrams.md. The models count runs of bytes in what the checkpoint was trained on. They are given
the true bytes beside each masked one, also where those are masked themselves for the checkpoint, which makes it easier
for them.
"""

import argparse
import json
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

import numpy as np
from accelerate import Accelerator

from lab.arguments import parse_with_changes
from lab.augment.masking import NO_LABEL
from lab.checkpoint_names import check_checkpoint, checkpoint_name
from lab.data.loaders import evaluation_loader
from lab.errors import UserError, run_command
from lab.judging.evaluation import open_checkpoint
from lab.judging.predictions import evaluate
from lab.machine import use_threads, without_gpu
from lab.places import folder_to_write, place
from lab.recipe import load_recipe
from lab.study.ngrams import MOST, bits_of_both_sides
from lab.tasks.masked_lm import MaskedLM
from lab.writing import new_files
from modeling_perceiver_study.tokenization_perceiver_study import FIRST_BYTE

_BATCH = 64


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Compare a model of masked bytes with n-gram models.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=checkpoint_name, help="folder that train.py wrote")
    parser.add_argument(
        "--orders", nargs="+", type=int, default=[1, 2, 3, 4, 5, 6], metavar="N", help="default: 1 to 6"
    )
    parser.add_argument("--output", type=place, metavar="FOLDER", help="default: CHECKPOINT")
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="such as data.path=FOLDER")
    options = parse_with_changes(parser, arguments)
    check_checkpoint(options.checkpoint)
    if not all(1 <= order <= MOST for order in options.orders):
        raise UserError(f"--orders {options.orders}: expected numbers from 1 to {MOST}")
    # n-grams are counted over all of the text at once.
    recipe = load_recipe(Path(options.checkpoint) / "recipe.yaml", [*options.overrides, "data.streaming=false"])
    task, model = open_checkpoint(options.checkpoint, recipe)
    if not isinstance(task, MaskedLM):
        raise UserError(f"{options.checkpoint} is for task={task.name}: expected masked-lm")
    splits = task.load_splits()
    if splits.test is None:
        raise UserError(f"{options.checkpoint} has no test split: name one by data.test_split=test")
    folder = folder_to_write(options.output or Path(options.checkpoint))
    accelerator = Accelerator(cpu=without_gpu(), mixed_precision="no")
    use_threads(accelerator, recipe.optimization.cpu_threads)
    loader = evaluation_loader(accelerator, splits.test, _BATCH, recipe.data.workers)
    scores = evaluate(accelerator, task, model.to(accelerator.device), loader)
    text, places = masked_places(task, splits.test)
    learned = splits.train.values - FIRST_BYTE
    learned = learned[(learned >= 0)].astype(np.uint8)
    rows = []
    for order in options.orders:
        before, both = bits_of_both_sides(learned, text, places, order)
        rows.append({"order": order, "before": before, "both": both})
        print(f"{order}: {before:.3f} by the bytes before, {both:.3f} by those on both sides", flush=True)
    found = {"masked_bytes": len(places), "bits_per_byte": scores["bits_per_byte"], "ngrams": rows}
    with new_files(folder) as unfinished:
        (unfinished / "ngrams.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (unfinished / "ngrams.md").write_text(table(found, model.num_parameters()), encoding="utf-8")


def masked_places(task: MaskedLM, dataset) -> tuple[np.ndarray, np.ndarray]:
    """`(M,)` uint8: all pieces one after the other, and `(n,)`: where in them a byte is masked in evaluation."""
    batch = dataset.__getitems__(list(range(len(dataset))))
    arguments, targets = task.inputs(batch)
    shown = (targets != NO_LABEL).numpy()
    positions = arguments["output_positions"].numpy() - 1  # behind [CLS]
    places = (dataset.starts[:, None] + positions)[shown]
    text = (dataset.values - FIRST_BYTE).clip(0, 255).astype(np.uint8)
    assert (text[places] == targets.numpy()[shown] - FIRST_BYTE).all()
    return text, places


def table(found: dict, parameters: int) -> str:
    """Markdown: a row for each order, and the model below."""
    lines = [
        "| bits per masked byte | true bytes before it | true bytes on both sides | 15 % masked everywhere |",
        "|---|---:|---:|---:|",
    ]
    for row in found["ngrams"]:
        name = f"{row['order']}-grams" if row["order"] > 1 else "frequency of bytes"
        lines.append(f"| {name} | {row['before']:.3f} | {row['both']:.3f} | |")
    lines.append(f"| this model, {parameters:,} parameters | | | {found['bits_per_byte']:.3f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main)
