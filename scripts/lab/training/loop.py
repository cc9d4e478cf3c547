"""The training loop: epochs of steps, each epoch judged on the validation split, with checkpoints in between."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedType, is_tensorboard_available
from torch.utils.data import DataLoader, RandomSampler, default_convert
from tqdm.auto import tqdm

from lab.augment.images import Normalization, TrainingInputs
from lab.data.arrays import Splits
from lab.data.streams import StreamLoader
from lab.errors import UserError
from lab.judging.predictions import evaluate
from lab.machine import use_threads, without_gpu
from lab.recipe import Recipe, flatten
from lab.training.checkpoint import Progress, get_weights, load_checkpoint, save_checkpoint
from lab.training.learner import Learner
from lab.training.memory import find_parts
from lab.training.run_folder import LOG, TrainingLog
from modeling_perceiver_study import PerceiverStudyForImageClassification


def train(
    accelerator: Accelerator,
    recipe: Recipe,
    model: PerceiverStudyForImageClassification,
    splits: Splits,
    normalize: Normalization,
    start: Path | None,
):
    """Returns the prepared model and test loader (or None), the progress, and the weights of the best epoch on the CPU.

    Where a moving average of the weights is asked for, it is what each epoch is judged by and what is kept.
    """
    settings = recipe.optimization
    output_dir = Path(recipe.output_dir)
    steps_per_epoch = len(splits.train) // settings.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"optimization.batch_size={settings.batch_size} is more than the {len(splits.train)} images to train on"
        )
    total_steps = settings.epochs * steps_per_epoch
    if settings.find_parts:
        accelerator.gradient_accumulation_steps = find_parts(accelerator, recipe, model)
    num_labels = len(splits.class_names)
    inputs = TrainingInputs(recipe.augmentation, normalize, recipe.seed, settings.batch_size, num_labels)
    learner = Learner(accelerator, recipe, model, inputs, total_steps)
    average = learner.average
    train_loader, validation_loader, test_loader = accelerator.prepare(
        *build_loaders(accelerator, recipe, splits, steps_per_epoch)
    )
    progress, best_weights = Progress(), None
    if start is not None:
        progress, tensors = load_checkpoint(accelerator, start)
        best_weights = tensors.get("best")
        if average is not None and "average" in tensors:
            average.load_state_dict(tensors["average"])
        accelerator.print(f"continuing from {start}")
    if accelerator.log_with:
        accelerator.init_trackers("perceiver-study", config={key: str(value) for key, value in flatten(recipe).items()})
    log = TrainingLog(accelerator, output_dir / LOG, settings.batch_size, steps_per_epoch, progress)
    parts = accelerator.gradient_accumulation_steps
    begin = time.perf_counter() - progress.seconds
    bar = tqdm(
        total=total_steps,
        initial=progress.step,
        unit="step",
        disable=None if accelerator.is_main_process else True,  # None hides it when output is not a terminal
    )
    for epoch in range(progress.epoch, settings.epochs):
        learner.model.train()
        train_loader.set_epoch(epoch)
        done = (progress.step - epoch * steps_per_epoch) * parts
        for batch in batches_from(accelerator, train_loader, done):
            part = done % parts
            done += 1
            loss = learner.learn(batch, progress.step, part)
            log.add(loss / parts, progress.step)
            if not accelerator.sync_gradients:
                continue
            progress.step += 1
            bar.update()
            if progress.step % recipe.logging.every_steps == 0:
                bar.set_postfix_str(log.step(progress, learner.learning_rate))
            if recipe.checkpoint.every_steps and progress.step % recipe.checkpoint.every_steps == 0:
                log.check()
                progress.seconds = time.perf_counter() - begin
                tensors = {"best": best_weights, "average": average and average.state_dict()}
                save_checkpoint(accelerator, output_dir, progress, tensors, recipe.checkpoint.keep_last)

        log.check()
        scores = evaluate(accelerator, learner.judged, validation_loader, normalize)
        progress.epoch += 1
        if (scores["accuracy"], -scores["loss"]) > (progress.best_accuracy, -progress.best_loss):
            progress.best_epoch = progress.epoch
            progress.best_accuracy, progress.best_loss = scores["accuracy"], scores["loss"]
            best_weights = get_weights(accelerator, learner.judged)
        summary = log.epoch(progress, scores)
        if accelerator.is_main_process:
            bar.write(summary)
    bar.close()
    progress.seconds = time.perf_counter() - begin
    return learner.model, test_loader, progress, best_weights


def batches_from(accelerator: Accelerator, loader: DataLoader | StreamLoader, done: int) -> Iterable[dict]:
    """The batches of an epoch from number `done` on."""
    if isinstance(loader, StreamLoader):
        return loader.from_batch(done)
    return accelerator.skip_first_batches(loader, done) if done else loader


def build_accelerator(recipe: Recipe) -> Accelerator:
    settings = recipe.optimization
    tracker = recipe.logging.log_with
    if tracker == "auto":
        tracker = "tensorboard" if is_tensorboard_available() else None
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for on a GPU
    try:
        accelerator = Accelerator(
            cpu=without_gpu(),
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            dynamo_backend="inductor" if settings.compile else "no",
            log_with=tracker,
            project_dir=recipe.output_dir,
            # The recipe's batch is cut among processes, and its order comes from the seed.
            dataloader_config=DataLoaderConfiguration(
                split_batches=True, use_seedable_sampler=True, data_seed=recipe.seed
            ),
        )
    except (ValueError, ImportError) as error:
        raise UserError(
            f"optimization.mixed_precision={settings.mixed_precision} or logging.log_with={recipe.logging.log_with} "
            f"does not work here: {error}"
        ) from None
    if accelerator.distributed_type == DistributedType.FSDP:
        if settings.ema_decay is not None:
            raise UserError("optimization.ema_decay does not work with sharded weights (FSDP): set it to null")
        if settings.optimizer == "muon":  # it needs whole matrices
            raise UserError("optimization.optimizer=muon does not work with sharded weights (FSDP): set it to adamw")
    cut = accelerator.num_processes * settings.gradient_accumulation_steps
    pairs = " of whole pairs, which mixup and CutMix need," if recipe.augmentation.mixes else ""
    cut *= 2 if pairs else 1
    if settings.batch_size % cut:
        raise UserError(
            f"optimization.batch_size={settings.batch_size} cannot be cut into equal parts{pairs} for "
            f"{accelerator.num_processes} processes and {settings.gradient_accumulation_steps} accumulation steps: "
            f"choose a multiple of {cut}"
        )
    use_threads(accelerator, settings.cpu_threads)
    return accelerator


def build_loaders(
    accelerator: Accelerator, recipe: Recipe, splits: Splits, steps_per_epoch: int
) -> list[DataLoader | None]:
    """Loaders of training, validation and test images, if any, in parts of a batch over all processes."""
    settings = recipe.optimization
    size = settings.batch_size // accelerator.gradient_accumulation_steps
    pin = accelerator.device.type == "cuda"
    if recipe.data.streaming:
        processes = accelerator.num_processes
        parts = steps_per_epoch * accelerator.gradient_accumulation_steps
        share = (recipe.seed, accelerator.process_index, processes, accelerator.device)
        train_loader = StreamLoader(splits.train, size // processes, parts, *share)
    else:
        # Whole batches only, others each epoch: a smaller last step would weigh its images more.
        sampler = RandomSampler(splits.train, num_samples=steps_per_epoch * settings.batch_size)
        train_loader = DataLoader(splits.train, size, sampler=sampler, collate_fn=default_convert, pin_memory=pin)
    return [
        train_loader,
        DataLoader(splits.validation, size, collate_fn=default_convert, pin_memory=pin),
        splits.test and DataLoader(splits.test, size, collate_fn=default_convert, pin_memory=pin),
    ]
