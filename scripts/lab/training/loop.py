"""The training loop: epochs of steps, each epoch judged on the validation split, with checkpoints in between."""

import os
import time
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, DistributedType
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from lab.checkpoint_names import LOG
from lab.data.identity import identity
from lab.data.loaders import EpochLoader, Place, evaluation_loader
from lab.data.splits import Splits
from lab.data.streams import Stream, StreamLoader
from lab.errors import UserError
from lab.judging.predictions import evaluate
from lab.machine import use_threads, without_gpu
from lab.recipe import Recipe
from lab.tasks.task import Task
from lab.training.checkpoint import Progress, get_weights, load_checkpoint, save_checkpoint
from lab.training.learner import Learner
from lab.training.memory import find_parts
from lab.training.run_folder import TrainingLog
from lab.training.trackers import chosen_tracker, start_trackers
from lab.training.utilization import Utilization


def train(
    accelerator: Accelerator, task: Task, model: nn.Module, splits: Splits, start: Path | None
) -> tuple[nn.Module, Progress, dict]:
    """The prepared model, the progress, and the weights of the best epoch on the CPU; of the last, if none is judged.

    Where a moving average of the weights is wanted, it is what each epoch is judged by and what is kept.

    Args:
        start: the checkpoint to go on from; None begins.
    """
    recipe, settings = task.recipe, task.recipe.optimization
    output_dir = Path(recipe.output_dir)
    if settings.find_parts:
        accelerator.gradient_accumulation_steps = find_parts(accelerator, task, model)
    learner = Learner(accelerator, task, model)
    train_loader = training_loader(accelerator, recipe, splits.train)
    validation_loader = splits.validation and judging_loader(accelerator, recipe, splits.validation)
    if start is None:
        progress, best_weights = Progress(data=identity(splits)), None
    else:
        progress, tensors = load_checkpoint(accelerator, start)
        best_weights = tensors.get("best")
        learner.restore(tensors.get("average"))
        accelerator.print(f"continuing from {start}")
    start_trackers(accelerator, recipe)
    steps_per_epoch = train_loader.steps_left(0)
    utilization = Utilization(accelerator, task, learner.raw_model)
    log = TrainingLog(accelerator, task, output_dir / LOG, steps_per_epoch, progress, utilization)
    log.start(progress)
    begin = time.perf_counter() - progress.seconds
    # Counted from here: what was done before may have been in batches of another size.
    to_do = train_loader.steps_left(progress.samples) + (settings.epochs - progress.epoch - 1) * steps_per_epoch
    bar = tqdm(
        total=progress.step + max(0, to_do),
        initial=progress.step,
        unit="step",
        disable=None if accelerator.is_main_process else True,  # None hides it when output is not a terminal
    )
    while progress.epoch < settings.epochs:
        for loss in learner.steps(train_loader, progress):
            log.add(loss, progress)
            bar.update()
            if progress.step % recipe.logging.every_steps == 0:
                bar.set_postfix_str(log.step(progress, learner.learning_rate))
            if recipe.checkpoint.every_steps and progress.step % recipe.checkpoint.every_steps == 0:
                log.check(progress)
                progress.seconds = time.perf_counter() - begin
                tensors = {"best": best_weights, "average": learner.average and learner.average.state_dict()}
                save_checkpoint(accelerator, output_dir, progress, tensors, recipe.checkpoint.keep_last)
        log.check(progress)
        learner.share_statistics()
        scores = validation_loader and evaluate(accelerator, task, learner.judged, validation_loader)
        progress.epoch, progress.samples = progress.epoch + 1, 0
        if scores is None or task.is_better(scores, progress.best_scores):
            progress.best_epoch, progress.best_scores = progress.epoch, scores
            best_weights = get_weights(accelerator, learner.judged)
        summary = log.epoch(progress, scores)
        if accelerator.is_main_process:
            bar.write(summary)
    bar.close()
    progress.seconds = time.perf_counter() - begin
    log.draw()
    return learner.model, progress, best_weights


def training_loader(accelerator: Accelerator, recipe: Recipe, samples: Dataset | Stream) -> EpochLoader | StreamLoader:
    """Batches to train on.

    Raises:
        UserError: there are fewer samples than a batch has.
    """
    size = recipe.optimization.batch_size
    if len(samples) < size:
        raise UserError(f"optimization.batch_size={size} is more than the {len(samples)} samples to train on")
    parts, place = accelerator.gradient_accumulation_steps, Place.of(accelerator)
    if isinstance(samples, Stream):
        return StreamLoader(samples, size, parts, recipe.seed, place, recipe.data.workers)
    return EpochLoader(samples, size, parts, recipe.seed, place, recipe.data.workers)


def judging_loader(accelerator: Accelerator, recipe: Recipe, samples: Dataset):
    """All samples in order, in batches as large as the parts that training takes."""
    size = recipe.optimization.batch_size // accelerator.gradient_accumulation_steps
    return evaluation_loader(accelerator, samples, size, recipe.data.workers)


def build_accelerator(task: Task) -> Accelerator:
    """The accelerator that a recipe asks for.

    Raises:
        UserError: something of the recipe does not work on this machine or with these processes.
    """
    recipe, settings = task.recipe, task.recipe.optimization
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for on a GPU
    # Blocks that a step leaves out have no gradients, which processes otherwise wait for.
    some_blocks = getattr(task.config, "training_blocks", None) is not None
    try:
        accelerator = Accelerator(
            cpu=without_gpu(),
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            dynamo_backend="inductor" if settings.compile else "no",
            log_with=chosen_tracker(recipe.logging),
            project_dir=recipe.output_dir,
            # A batch of an evaluation is cut among processes.
            dataloader_config=DataLoaderConfiguration(split_batches=True),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)] if some_blocks else None,
        )
    except (ValueError, ImportError) as error:
        raise UserError(
            f"optimization.mixed_precision={settings.mixed_precision} or logging.log_with={recipe.logging.log_with} "
            f"does not work here: {error}"
        ) from None
    if accelerator.distributed_type == DistributedType.FSDP:
        if isinstance(getattr(task.config, "training_blocks", None), (list, tuple)):  # all gather each layer together
            raise UserError("model.training_blocks cannot be drawn with sharded weights (FSDP): set it to one number")
        if settings.ema_decay is not None:
            raise UserError("optimization.ema_decay does not work with sharded weights (FSDP): set it to null")
        if settings.optimizer == "muon":  # it needs whole matrices
            raise UserError("optimization.optimizer=muon does not work with sharded weights (FSDP): set it to adamw")
    cut = accelerator.num_processes * settings.gradient_accumulation_steps
    pairs = " of whole pairs, which mixup and CutMix need," if task.in_pairs else ""
    cut *= 2 if pairs else 1
    if settings.batch_size % cut:
        raise UserError(
            f"optimization.batch_size={settings.batch_size} cannot be cut into equal parts{pairs} for "
            f"{accelerator.num_processes} processes and {settings.gradient_accumulation_steps} accumulation steps: "
            f"choose a multiple of {cut}"
        )
    use_threads(accelerator, settings.cpu_threads)
    return accelerator
