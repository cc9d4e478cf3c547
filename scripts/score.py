"""Everything about how well a checkpoint classifies a set of labelled images.

    accelerate launch scripts/score.py output/digits                            # the test images of its recipe
    accelerate launch scripts/score.py output/digits --split validation --flip
    accelerate launch scripts/score.py output/cifar10-study --data /data/cifar10 --dtype float16
    accelerate launch scripts/score.py FOLDER --data org/dataset data.label_column=fine_label

writes evaluation.json and evaluation.md (accuracy, top-5, cross-entropy, calibration error, precision, recall and F1 of
every class), confusion_matrix.csv and .png, reliability.png, and mistakes.png, the 24 samples whose answers are worst,
into CHECKPOINT/evaluation/SPLIT or --output.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

import transformers
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from tqdm.auto import tqdm

from lab.arguments import at_least_one, require_of_data
from lab.checkpoint_names import check_checkpoint, checkpoint_name
from lab.data.loaders import evaluation_loader
from lab.errors import UserError, run_command
from lab.judging.evaluation import open_checkpoint, task_of
from lab.judging.predictions import predict
from lab.machine import finish, use_threads, without_gpu
from lab.places import folder_to_write, place
from lab.provenance import describe_run
from lab.recipe import Recipe, load_recipe
from lab.writing import new_files

_DTYPES = ("auto", "float32", "bfloat16", "float16")


def main(arguments: list[str] | None = None):
    options = parse(arguments)
    transformers.utils.logging.disable_progress_bar()
    check_checkpoint(options.checkpoint)
    recipe = find_recipe(options)
    accelerator = Accelerator(
        cpu=without_gpu(),
        mixed_precision="no",  # --dtype decides
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    use_threads(accelerator, recipe.optimization.cpu_threads)
    task, model = open_checkpoint(options.checkpoint, recipe, options.dtype)
    if options.flip and task.mirrored(task.example(1, "cpu")[0]) is None:
        raise UserError(f"--flip: {task.samples} of task={task.name} have no mirror image here; leave it out")
    with accelerator.local_main_process_first():  # it fills the caches that the others of its machine read
        dataset = task.load_split(options.split, options.match_by_number)
    folder = options.output or default_output(options)
    if accelerator.is_main_process:
        folder_to_write(folder)

    size = options.batch_size * accelerator.num_processes
    loader = evaluation_loader(accelerator, dataset, size, recipe.data.workers)
    hidden = None if accelerator.is_main_process else True  # None hides it when output is not a terminal
    bar = tqdm(loader, desc=f"evaluating {options.split}", unit="batch", disable=hidden, leave=False)
    plain, *mirrored = predict(accelerator, task, model.to(accelerator.device), bar, options.flip)

    if accelerator.is_main_process:
        results = {
            "checkpoint": options.checkpoint,
            "data": recipe.data.called,
            "split": options.split,
            "data_settings": asdict(recipe.data),
            "samples": len(dataset),
            **task.all_scores(plain),
            "dtype": str(model.dtype).removeprefix("torch."),
            "parameters": model.num_parameters(),
            **describe_run(accelerator),
        }
        with new_files(folder, stale=("mistakes.png",)) as unfinished:
            task.write_report(unfinished, results, plain, mirrored[0] if mirrored else None)
            task.draw_mistakes(unfinished, dataset, plain)
        text = (folder / "evaluation.md").read_text(encoding="utf-8")
        print("\n\n".join(text.split("\n\n")[:3]))  # the title, what was scored, and the scores
        print(f"\nmore in {folder}")
    finish(accelerator)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score a checkpoint on samples with labels.")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_name,
        help="folder of a run, or a name on the Hub",
    )
    parser.add_argument("--config", metavar="PATH", help="recipe whose data to use (default: CHECKPOINT/recipe.yaml)")
    parser.add_argument("--data", metavar="DATA", help="a folder, a name on the Hub or digits, instead of the recipe's")
    parser.add_argument(
        "--split", default="test", help="train, validation or test as the recipe has them, or any other"
    )
    parser.add_argument("--flip", action="store_true", help="also score the mean over samples and their mirror images")
    parser.add_argument("--dtype", choices=_DTYPES, default="auto", help="of the model (default: as it is stored)")
    parser.add_argument(
        "--batch_size", type=at_least_one, default=64, help="samples per process at a time (default: 64)"
    )
    parser.add_argument("--match_by_number", action="store_true", help="match classes by number, whatever their names")
    parser.add_argument(
        "--output", type=place, metavar="FOLDER", help="where to write (default: CHECKPOINT/evaluation/SPLIT)"
    )
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="such as data.test_split=validation")
    return parser.parse_intermixed_args(arguments)


def find_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that says which data: that of `--config`, or of the checkpoint, with what the command line changes.

    Where there is none it has the task that the checkpoint's model is for.
    """
    require_of_data(options.overrides)
    stored = Path(options.checkpoint) / "recipe.yaml"
    path = options.config or (stored if stored.exists() else None)
    data = []
    if options.data is not None:
        folder = place(options.data)
        folder = folder if folder.is_dir() else None
        if not folder and (options.data.count("/") > 1 or options.data.startswith((".", "/", "~"))):
            raise UserError(f"--data {options.data}: no such folder")
        # JSON is YAML in which nothing has a second meaning.
        where = {"data.path": str(folder)} if folder else {"data.path": None, "data.name": options.data}
        where["data.title"] = None  # that of the recipe's data
        data = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in where.items()]
    if (
        path is None
        and not data
        and not any(text.startswith(("data.path=", "data.name=")) for text in options.overrides)
    ):
        raise UserError(f"{options.checkpoint} has no recipe.yaml that names its data: add --data FOLDER_OR_NAME")
    # A checkpoint may be a stranger's: its recipe names the data, but no folder to write to.
    own = ["data.cache_dir=null"] if path == stored else []
    if path is None:
        own = [f"task={task_of(options.checkpoint)}"]
    return load_recipe(path, [*own, *data, *options.overrides])


def default_output(options: argparse.Namespace) -> Path:
    """Beside the weights, or in output/ for a name on the Hub."""
    folder = Path(options.checkpoint)
    return (folder if folder.is_dir() else "output" / folder) / "evaluation" / options.split


if __name__ == "__main__":
    run_command(main)
