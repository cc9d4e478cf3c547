"""Measure what a classifier of images, of recordings, of clouds of points, or of texts, withstands.

    python scripts/robustness.py model_cards/perceiver-cifar10 data.path=/data/cifar10 --samples 1000
    python scripts/robustness.py output/modelnet10 --output docs/modalities/points
    python scripts/robustness.py model_cards/perceiver-fsdd data.path=FOLDER --output docs/modalities/sound
    python scripts/robustness.py output/udhr --output docs/modalities/text

writes robustness.json and robustness.png, of the test samples of the checkpoint's recipe. Images are compressed,
blurred, resized and permuted, and get noise; the calibration of all of them is judged before and after a temperature
that is fitted to the validation images (robustness.md). Recordings get pauses around them, and noise (robustness.md).
Clouds are turned, and points left out; attention-N.png shows where latents look on four of them, drawn by chance, for
each cross-attend. Texts are mistyped, disguised with letters of other scripts that look the same, and brought to one
case, beside a support vector machine on n-grams of characters that learned the same texts (robustness.md).
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

import numpy as np
import transformers
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from lab.arguments import at_least_one, require_of_data
from lab.checkpoint_names import check_checkpoint, checkpoint_name
from lab.data.label_columns import SINGLE_LABEL
from lab.errors import UserError, run_command
from lab.judging.evaluation import open_checkpoint
from lab.looking.maps import draw_maps_on
from lab.looking.points_view import PointsView
from lab.looking.style import save
from lab.places import folder_to_write, place
from lab.provenance import describe_surroundings
from lab.recipe import load_recipe
from lab.study.images import calibration_of, draw_images, images_table, logits_of, measure_changes
from lab.study.robustness import draw_robustness, missing_points_curve, rotation_curves
from lab.study.sounds import draw_sounds, sound_curves, sounds_table
from lab.study.texts import (
    cases_of,
    classifier_of,
    curves_of,
    draw_texts,
    ngram_classifier,
    texts_of,
    texts_table,
)
from lab.tasks.audio_classification import AudioClassification
from lab.tasks.image_classification import ImageClassification
from lab.tasks.point_cloud_classification import PointCloudClassification
from lab.tasks.task import drawn
from lab.tasks.text_classification import TextClassification
from lab.training.loop import build_accelerator
from lab.writing import new_files

_DRAWN = 4  # clouds


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Measure what a classifier withstands.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=checkpoint_name, help="folder that train.py wrote")
    parser.add_argument("--split", default="test", help="train, validation or test (default: test)")
    parser.add_argument("--batch_size", type=at_least_one, default=64, help="samples at a time (default: 64)")
    parser.add_argument("--samples", type=at_least_one, help="change so many images, drawn by chance (default: all)")
    parser.add_argument("--output", type=place, metavar="FOLDER", help="default: CHECKPOINT")
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="such as data.path=FOLDER")
    options = parser.parse_intermixed_args(arguments)
    check_checkpoint(options.checkpoint)
    require_of_data(options.overrides)
    transformers.utils.logging.disable_progress_bar()
    recipe = load_recipe(Path(options.checkpoint) / "recipe.yaml", options.overrides)
    task, model = open_checkpoint(options.checkpoint, recipe)
    one_class = getattr(task, "problem_type", None) == SINGLE_LABEL
    if one_class and isinstance(task, TextClassification):
        measure = of_texts
    elif one_class and isinstance(task, PointCloudClassification) and task.processor.num_axes == 3:
        measure = of_points
    elif one_class and isinstance(task, ImageClassification):
        measure = of_images
    elif one_class and isinstance(task, AudioClassification) and task.processor.do_rescale:
        measure = of_sounds
    else:
        raise UserError(
            f"{options.checkpoint} is for {task.samples}; expected texts, images, sound, or clouds of points "
            "with 3 coordinates, with one class each"
        )
    if options.samples is not None and measure is not of_images:
        raise UserError(f"--samples is for images: leave it out for {task.samples}")
    folder = folder_to_write(options.output or Path(options.checkpoint))
    about = {"data": recipe.data.title or recipe.data.called, "split": options.split}
    about |= describe_surroundings(build_accelerator(task))  # which settles the number of threads
    measure(task, model, options, folder, about)
    print(f"more in {folder}")


def of_images(
    task: ImageClassification, model: PreTrainedModel, options: argparse.Namespace, folder: Path, about: dict
):
    splits = [task.load_split(split) for split in ("validation", options.split)]
    judged = [
        (logits_of(task, model, images, np.arange(len(images)), options.batch_size), images.labels) for images in splits
    ]
    calibration = calibration_of(*judged)
    images = splits[-1]
    rows = np.sort(drawn(len(images), options.samples or len(images)))
    changes = measure_changes(task, model, images, rows, options.batch_size)
    results = {**about, "images": len(rows), **changes, "calibration": calibration}
    results["curves"] = [asdict(curve) for curve in changes["curves"]]
    write(folder, results, draw_images(changes, calibration), images_table(changes, calibration, len(rows)))


def of_points(
    task: PointCloudClassification, model: PreTrainedModel, options: argparse.Namespace, folder: Path, about: dict
):
    dataset = task.load_split(options.split)
    rotations = rotation_curves(task, model, dataset, options.batch_size)
    missing = missing_points_curve(task, model, dataset, options.batch_size)
    results = {**about, "clouds": len(dataset)}
    results |= {"rotations": [asdict(curve) for curve in rotations], "missing": asdict(missing)}
    samples = [dataset.sample(row) for row in drawn(len(dataset), _DRAWN)]
    maps = [
        draw_maps_on(samples, model, task.processor, PointsView, number)
        for number in range(1, model.config.num_cross_attends + 1)
    ]
    write(folder, results, draw_robustness(rotations, missing), maps=maps)
    for curve in [*rotations, missing]:
        pairs = zip(curve.places, curve.accuracies, strict=True)
        print(f"{curve.name}: " + ", ".join(f"{at:g} {100 * value:.1f} %" for at, value in pairs))


def of_sounds(
    task: AudioClassification, model: PreTrainedModel, options: argparse.Namespace, folder: Path, about: dict
):
    dataset = task.load_split(options.split)
    curves = sound_curves(task, model, dataset, options.batch_size)
    results = {**about, "recordings": len(dataset)}
    results |= {kind: [asdict(curve) for curve in found] for kind, found in curves.items()}
    write(folder, results, draw_sounds(curves), sounds_table(curves, options.split))


def of_texts(task: TextClassification, model: PreTrainedModel, options: argparse.Namespace, folder: Path, about: dict):
    if task.recipe.data.streaming:
        raise UserError(
            "n-grams, which the model is compared with, learn from the training texts, and a stream does not keep "
            "these: add data.streaming=false, by which other texts are the training and the validation split"
        )
    baseline = ngram_classifier(*texts_of(task, "train"))  # as the model, which does not learn the validation texts
    texts, labels = texts_of(task, options.split)
    classifiers = {"this model": classifier_of(task, model, options.batch_size), "n-grams, SVM": baseline.predict}
    curves = {name: curves_of(classify, texts, labels) for name, classify in classifiers.items()}
    cases = {name: cases_of(classify, texts, labels) for name, classify in classifiers.items()}
    results = {**about, "texts": len(texts), "cases": cases}
    results |= {"curves": {name: [asdict(curve) for curve in found] for name, found in curves.items()}}
    write(folder, results, draw_texts(curves), texts_table(curves, cases, options.split))


def write(folder: Path, results: dict, picture: Figure, table: str | None = None, maps: Sequence[Figure] = ()):
    """Write what was measured, with maps of each cross-attend, and print the table if there is one."""
    with new_files(folder) as unfinished:
        (unfinished / "robustness.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        save(picture, unfinished / "robustness.png", dpi=120)
        for number, figure in enumerate(maps, start=1):
            save(figure, unfinished / f"attention-{number}.png", dpi=100)
        if table is not None:
            (unfinished / "robustness.md").write_text(table, encoding="utf-8")
    if table is not None:
        print(table)


if __name__ == "__main__":
    run_command(main)
