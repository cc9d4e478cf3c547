"""Score the mean of several checkpoints' probabilities for the same samples: what one model of all inputs has to beat.

    python scripts/fuse.py output/avletters-sound output/avletters-video
    python scripts/fuse.py output/avletters-sound output/avletters-video --split validation -o fused.json

Each checkpoint reads the data that its recipe names in its own way; their samples must be the same in the same order.
Answers are those of each alone, and of the mean of all; of a regression the mean of numbers.
"""

import argparse
import json

import lab.waiting  # noqa: F401, before torch

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration

from lab.checkpoint_names import check_checkpoint, checkpoint_name
from lab.data.loaders import evaluation_loader
from lab.errors import UserError, listed, run_command
from lab.judging.evaluation import open_checkpoint
from lab.judging.predictions import predict
from lab.machine import use_threads, without_gpu
from lab.places import file_to_write, place
from lab.recipe import Recipe, load_recipe
from lab.tasks import find_task
from lab.tasks.labelled import LabelledTask
from lab.tasks.task import Judged, Task
from lab.writing import new_file


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Score the mean of several checkpoints' probabilities.")
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", type=checkpoint_name, help="folders of runs")
    parser.add_argument(
        "--split", default="test", help="train, validation or test as the recipes have them, or any other"
    )
    parser.add_argument("--data", type=place, metavar="FOLDER", help="instead of the folder that the recipes name")
    parser.add_argument("-o", "--output", type=place, metavar="FILE", help="JSON to write as well")
    options = parser.parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    if options.output is not None:
        file_to_write(options.output)
    if "mean" in options.checkpoints:
        raise UserError("mean is what the answers of all together are called: give that checkpoint as ./mean")
    for number, checkpoint in enumerate(options.checkpoints):
        if place(checkpoint).resolve() in [place(other).resolve() for other in options.checkpoints[:number]]:
            raise UserError(f"{checkpoint} is named twice: its answers would count twice; give each checkpoint once")
    accelerator = Accelerator(
        cpu=without_gpu(), mixed_precision="no", dataloader_config=DataLoaderConfiguration(split_batches=True)
    )
    for checkpoint in options.checkpoints:
        _recipe_of(checkpoint, options)  # which refuses before any is judged
    judged, scores, tasks = [], {}, []
    for checkpoint in options.checkpoints:
        task, found = _answers(accelerator, checkpoint, options)
        tasks.append(task)
        judged.append(found)
        scores[checkpoint] = task.scores(found)
        if task.label_names != tasks[0].label_names:
            raise UserError(
                f"{checkpoint} has classes {listed(task.label_names)}, and {options.checkpoints[0]} has "
                f"{listed(tasks[0].label_names)}: give runs with the same classes in the same order"
            )
        if _choice(task, options.split) != _choice(tasks[0], options.split) or not np.array_equal(
            found["labels"], judged[0]["labels"]
        ):
            raise UserError(f"{checkpoint} has other samples than {options.checkpoints[0]}: give runs on the same data")
    fused = task.target.mean([torch.from_numpy(found["logits"]) for found in judged]).numpy()
    scores["mean"] = task.scores({"logits": fused, "labels": judged[0]["labels"]})
    for name, found in scores.items():
        print(f"{name}: {task.summarize(found)}")
    if options.output is not None:
        text = json.dumps({"split": options.split, "scores": scores}, indent=2) + "\n"
        with new_file(options.output) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def _choice(task: Task, split: str) -> list:
    """What of a recipe decides which samples a split has; labels alone would be alike in any stratified split."""
    data = task.recipe.data
    if split not in ("train", "validation"):
        return [data.test_split if split == "test" else split, data.hold_out]
    carved = [data.validation_samples, data.train_samples, data.split_seed, data.streaming]
    return [data.train_split, data.hold_out, data.validate_on, *carved]


def _recipe_of(checkpoint: str, options: argparse.Namespace) -> Recipe:
    """The recipe of a checkpoint; a `UserError` where its samples have no labels, and so no answers to average."""
    check_checkpoint(checkpoint)
    data = [] if options.data is None else [f"data.path={json.dumps(str(options.data))}"]
    recipe = load_recipe(place(checkpoint) / "recipe.yaml", data)
    if not issubclass(find_task(recipe), LabelledTask):
        raise UserError(f"{checkpoint} is of task={recipe.task}, whose samples have no labels: give runs of others")
    return recipe


def _answers(accelerator: Accelerator, checkpoint: str, options: argparse.Namespace) -> tuple[Task, Judged]:
    recipe = _recipe_of(checkpoint, options)
    use_threads(accelerator, recipe.optimization.cpu_threads)
    task, model = open_checkpoint(checkpoint, recipe)
    loader = evaluation_loader(accelerator, task.load_split(options.split), 64)
    return task, predict(accelerator, task, model.to(accelerator.device), loader)[0]


if __name__ == "__main__":
    run_command(main)
