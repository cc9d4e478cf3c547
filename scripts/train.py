"""Train a Perceiver as a recipe says.

    accelerate launch scripts/train.py                                   # handwritten digits, on a CPU in two minutes
    accelerate launch scripts/train.py --config configuration/cifar10-study.yaml data.path=/data/cifar10 seed=1

`output_dir` ends as a complete checkpoint that `from_pretrained` loads: the weights of the best epoch by validation
accuracy, the processor, the code, and beside them recipe.yaml, metrics.json, metrics.jsonl and curves.png.
`--push_to_hub OWNER/NAME` publishes it, as scripts/publish.py does.
"""

import argparse
import shlex
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

import transformers
from accelerate import Accelerator
from accelerate.utils import set_seed

from lab.checkpoint_names import VALIDATED
from lab.data.identity import identity
from lab.errors import UserError, run_command
from lab.judging.predictions import evaluate
from lab.looking.views import VIEWS
from lab.machine import finish
from lab.provenance import describe_run
from lab.recipe import parse_command_line
from lab.release.hub import require_repo_id, require_token
from lab.release.staging import publish
from lab.tasks import build_task
from lab.tasks.pretrained import PRETRAINED
from lab.tasks.task import Task
from lab.training.checkpoint import set_weights
from lab.training.loop import build_accelerator, judging_loader, train
from lab.training.memory import explain_out_of_memory
from lab.training.precision import settle_precision
from lab.training.result import explain_full_disk, save_result
from lab.training.run_folder import (
    claim_output,
    find_start,
    logged_changes,
    open_output,
    require_same_data,
)
from lab.writing import write_atomically


def main(arguments: list[str] | None = None):
    transformers.utils.logging.disable_progress_bar()  # the one of training is enough
    recipe, options = parse_command_line("Train a Perceiver.", arguments)
    task = build_task(settle_precision(recipe, Path(recipe.output_dir), print), options.resume)
    recipe = task.recipe
    accelerator = build_accelerator(task)
    output_dir = Path(recipe.output_dir)
    if options.push_to_hub and accelerator.is_main_process:
        require_repo_id(options.push_to_hub)
        if recipe.data.test_split is None:
            raise UserError("--push_to_hub: data.test_split=null leaves no figure to publish; name a test split")
        require_token()
    with open_output(accelerator, output_dir), explain_full_disk(output_dir):
        run(accelerator, task, output_dir, options)
    if options.push_to_hub and accelerator.is_main_process:
        publish(output_dir, options.push_to_hub, options.private)


def run(accelerator: Accelerator, task: Task, output_dir: Path, options: argparse.Namespace):
    """Train, test and save, or go on with what the folder holds."""
    recipe = task.recipe
    start, finished = find_start(output_dir, recipe, options.resume, options.accept_changes, accelerator.print)
    if start is not None or not finished:
        if recipe.data.path and recipe.data.title:  # it stands in the card, whatever the path leads to
            title = recipe.data.title
            accelerator.print(f"data.path={recipe.data.path} is called {title!r}: if it is not, set data.title")
        with accelerator.local_main_process_first():  # it fills the caches that the others of its machine read
            splits = task.load_splits()
        if start is not None:
            require_same_data(start, identity(splits))
    if finished:
        accelerator.print(f"{output_dir} holds the finished run of this recipe; nothing to do")
        finish(accelerator)
        return
    accelerator.wait_for_everyone()  # every process has looked at output_dir before one changes it
    if accelerator.is_main_process:
        claim_output(output_dir, recipe, start)
    set_seed(recipe.seed, deterministic=recipe.optimization.deterministic)
    model = task.build_model() if start is None else task.new_model()  # a run that goes on has its own weights
    if task.pretrained is not None and start is None and accelerator.is_main_process:
        print(task.pretrained.describe(task.config))
        write_atomically(output_dir / PRETRAINED, task.pretrained.to_json())
    if recipe.optimization.gradient_checkpointing:
        model.activation_checkpointing_enable()

    with explain_out_of_memory(accelerator, task):
        model, progress, best_weights = train(accelerator, task, model, splits, start)
        set_weights(accelerator, model, best_weights)
        test_scores = {}
        if splits.test:  # the only look
            test_scores = evaluate(accelerator, task, model, judging_loader(accelerator, recipe, splits.test))
    best_model = accelerator.unwrap_model(model, keep_torch_compile=False)
    del model  # as `finish` asks

    if accelerator.is_main_process:
        results = {
            "task": task.name,
            "data": recipe.data.called,
            **({"pretrained": task.pretrained.origin} if task.pretrained else {}),
            **({"test_samples": len(splits.test)} if splits.test else {}),
            **{f"test_{name}": score for name, score in test_scores.items()},
            **{f"validation_{name}": score for name, score in (progress.best_scores or {}).items()},
            "best_epoch": progress.best_epoch,
            "epochs": progress.epoch,
            "steps": progress.step,
            "seed": recipe.seed,
            "parameters": best_model.num_parameters(),
            "train_samples": len(splits.train),
            "validation_samples": len(splits.validation or []),
            **({VALIDATED: splits.validated} if splits.validated else {}),
            "train_seconds": round(progress.seconds, 1),
            "mixed_precision": accelerator.mixed_precision,
            **({"changes": changes} if (changes := logged_changes(output_dir)) else {}),
            **describe_run(accelerator),
        }
        save_result(output_dir, best_model, task.finish(best_weights), task.processor, results)
        kind, judged, scores = "validation", splits.validation, progress.best_scores
        if splits.test:
            kind, judged, scores = "test", splits.test, test_scores
        view = task.view or VIEWS.get(type(best_model).__name__)
        files = view.files(task.processor) if view else "FILE"
        chosen = f"best epoch {progress.best_epoch}" if splits.validation else "last epoch"
        print(
            f"\n{output_dir}: {task.summarize(scores)} on {len(judged)} {kind} {task.samples} of {recipe.data.called} "
            f"({chosen}, {progress.seconds:.0f} s of training)\n"
            f"  python scripts/predict.py {shlex.quote(recipe.output_dir)} {files}...\n"
            f'  {type(best_model).__name__}.from_pretrained("{output_dir}")'
        )
    finish(accelerator)


if __name__ == "__main__":
    run_command(main)
