"""Measure how well a classifier of clouds of points does when clouds are turned, and when points are missing.

    python scripts/robustness.py output/modelnet10 --output docs/modalities/points

writes robustness.json and robustness.png, of the test clouds of the checkpoint's recipe, and attention-N.png:
where latents look on four of them, drawn by chance, for each cross-attend.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

import torch
import transformers

from lab.checkpoint_names import check_checkpoint, checkpoint_name
from lab.errors import UserError, run_command
from lab.judging.evaluation import open_checkpoint
from lab.looking.maps import draw_maps_on
from lab.looking.points_view import PointsView
from lab.looking.style import save
from lab.places import place
from lab.recipe import load_recipe
from lab.study.robustness import draw_robustness, missing_points_curve, rotation_curves
from lab.tasks.point_cloud_classification import PointCloudClassification
from lab.tasks.task import drawn

_DRAWN = 4  # clouds


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Turn clouds of points, and leave out points.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=checkpoint_name, help="folder that train.py wrote")
    parser.add_argument("--split", default="test", help="train, validation or test (default: test)")
    parser.add_argument("--batch_size", type=int, default=64, help="clouds at a time (default: 64)")
    parser.add_argument("--output", type=place, metavar="FOLDER", help="default: CHECKPOINT")
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="such as data.path=FOLDER")
    options = parser.parse_intermixed_args(arguments)
    check_checkpoint(options.checkpoint)
    transformers.utils.logging.disable_progress_bar()
    recipe = load_recipe(Path(options.checkpoint) / "recipe.yaml", options.overrides)
    if recipe.optimization.cpu_threads:
        torch.set_num_threads(recipe.optimization.cpu_threads)
    task, model = open_checkpoint(options.checkpoint, recipe)
    if not isinstance(task, PointCloudClassification) or task.processor.num_axes != 3:
        raise UserError(f"{options.checkpoint} is for {task.samples}; expected clouds of points with 3 coordinates")
    dataset = task.load_split(options.split)
    rotations = rotation_curves(task, model, dataset, options.batch_size)
    missing = missing_points_curve(task, model, dataset, options.batch_size)

    folder = options.output or Path(options.checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    results = {"data": recipe.data.title or recipe.data.called, "split": options.split, "clouds": len(dataset)}
    results |= {"rotations": [asdict(curve) for curve in rotations], "missing": asdict(missing)}
    (folder / "robustness.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    save(draw_robustness(rotations, missing), folder / "robustness.png", dpi=120)
    samples = [dataset.sample(row) for row in drawn(len(dataset), _DRAWN)]
    for number in range(1, model.config.num_cross_attends + 1):
        figure = draw_maps_on(samples, model, task.processor, PointsView, number)
        save(figure, folder / f"attention-{number}.png", dpi=100)
    for curve in [*rotations, missing]:
        pairs = zip(curve.places, curve.accuracies, strict=True)
        print(f"{curve.name}: " + ", ".join(f"{at:g} {100 * value:.1f} %" for at, value in pairs))
    print(f"more in {folder}")


if __name__ == "__main__":
    run_command(main)
