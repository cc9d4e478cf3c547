"""Train a Perceiver image classifier as a recipe says.

    accelerate launch scripts/train.py                                   # handwritten digits, on a CPU in two minutes
    accelerate launch scripts/train.py --config configuration/cifar10-study.yaml data.path=/data/cifar10 seed=1

`output_dir` ends as a complete checkpoint that `from_pretrained` loads: the weights of the best epoch by validation
accuracy, the image processor, the code, and beside them recipe.yaml, metrics.json, metrics.jsonl and curves.png.
`--push_to_hub OWNER/NAME` publishes it, as scripts/publish.py does.
"""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import transformers
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedType, is_tensorboard_available, set_seed
from torch.utils.data import DataLoader, RandomSampler, default_convert
from tqdm.auto import tqdm

from augmentation import Normalization, TrainingInputs
from checkpoint import Progress, load_checkpoint, save_checkpoint
from data import Splits, load_splits, name_classes
from errors import UserError, run_command
from hub import require_repo_id, require_token
from learner import Learner
from memory import explain_out_of_memory, find_parts
from modeling_perceiver_study import PerceiverStudyForImageClassification
from predictions import evaluate
from provenance import describe_run
from publish import publish
from recipe import Recipe, flatten, image_processor, model_config, parse_command_line
from run_folder import LOG, RESULTS, TrainingLog, claim_output, find_start, write_atomically
from streams import StreamLoader, load_streams
from threads import finish, use_threads, without_gpu
from weights import get_weights, set_weights


def main(arguments: list[str] | None = None):
    transformers.utils.logging.disable_progress_bar()  # the one of training is enough
    recipe, options = parse_command_line("Train a Perceiver image classifier.", arguments)
    config = model_config(recipe)
    processor = image_processor(recipe, config)
    accelerator = build_accelerator(recipe)
    output_dir = Path(recipe.output_dir)
    if options.push_to_hub and accelerator.is_main_process:
        require_repo_id(options.push_to_hub)
        require_token()
    start, finished = find_start(output_dir, recipe, options.resume, options.accept_changes, accelerator.print)
    if finished:
        accelerator.print(f"{output_dir} holds the finished run of this recipe; nothing to do")
        if options.push_to_hub and accelerator.is_main_process:
            publish(output_dir, options.push_to_hub, options.private)
        return
    accelerator.wait_for_everyone()  # every process has looked at output_dir before one changes it
    if accelerator.is_main_process:
        claim_output(output_dir, recipe, start)

    with accelerator.main_process_first():  # it fills the caches that the others read
        splits = (load_streams if recipe.data.streaming else load_splits)(recipe.data, config, processor)
    name_classes(config, splits.class_names)
    set_seed(recipe.seed, deterministic=recipe.optimization.deterministic)
    model = PerceiverStudyForImageClassification(config)
    if recipe.optimization.gradient_checkpointing:
        model.activation_checkpointing_enable()
    normalize = Normalization(processor, accelerator.device)

    with explain_out_of_memory(recipe):
        model, test_loader, progress, best_weights = train(accelerator, recipe, model, splits, normalize, start)
        set_weights(accelerator, model, best_weights)
        test_scores = evaluate(accelerator, model, test_loader, normalize) if splits.test else {}  # the only look

    if accelerator.is_main_process:
        best_model = accelerator.unwrap_model(model, keep_torch_compile=False)
        best_model.save_pretrained(output_dir, state_dict=best_weights)
        processor.save_pretrained(output_dir)
        results = {
            "data": recipe.data.called,
            **({"test_images": len(splits.test)} if splits.test else {}),
            **{f"test_{name}": score for name, score in test_scores.items()},
            "validation_accuracy": progress.best_accuracy,
            "best_epoch": progress.best_epoch,
            "epochs": progress.epoch,
            "steps": progress.step,
            "seed": recipe.seed,
            "parameters": best_model.num_parameters(),
            "train_images": len(splits.train),
            "validation_images": len(splits.validation),
            "train_seconds": round(progress.seconds, 1),
            **describe_run(accelerator),
        }
        write_atomically(output_dir / RESULTS, json.dumps(results, indent=2) + "\n")
        accuracy, images = progress.best_accuracy, f"{len(splits.validation)} validation"
        if splits.test:
            accuracy, images = test_scores["accuracy"], f"{len(splits.test)} test"
        print(
            f"\n{output_dir}: {100 * accuracy:.2f} % of {images} images of {recipe.data.called} right "
            f"(best epoch {progress.best_epoch}, {progress.seconds:.0f} s of training)\n"
            f"  python scripts/predict.py {output_dir} IMAGE...\n"
            f'  AutoModelForImageClassification.from_pretrained("{output_dir}", trust_remote_code=True)'
        )
    finish(accelerator)
    if options.push_to_hub and accelerator.is_main_process:
        publish(output_dir, options.push_to_hub, options.private)


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


if __name__ == "__main__":
    run_command(main)
