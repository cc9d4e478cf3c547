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
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader, RandomSampler
from tqdm.auto import tqdm

from augmentation import Normalization, TrainingInputs, fold_seed
from checkpoint import Progress, load_checkpoint, save_checkpoint
from curves import draw_curves
from data import Splits, identity, load_splits
from errors import UserError, run_command
from hub import require_repo_id, require_token
from metrics import TopKAccuracy
from modeling_perceiver_study import PerceiverStudyForImageClassification
from optimization import build_optimizer
from provenance import describe_run
from publish import publish
from recipe import Recipe, flatten, image_processor, model_config, parse_command_line
from run_folder import LOG, RESULTS, TrainingLog, claim_output, find_start


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
    start, finished = find_start(output_dir, recipe, options.resume)
    if finished:
        accelerator.print(f"{output_dir} holds the finished run of this recipe; nothing to do")
        return
    accelerator.wait_for_everyone()  # every process has looked at output_dir before one changes it
    if accelerator.is_main_process:
        claim_output(output_dir, recipe, start)

    with accelerator.main_process_first():  # it fills the caches that the others read
        splits = load_splits(recipe.data, config, processor)
    if config.num_labels != len(splits.class_names):
        found = len(splits.class_names)
        raise UserError(f"model.num_labels={config.num_labels}, but the data has {found} classes: set it to {found}")
    config.id2label = dict(enumerate(splits.class_names))
    config.label2id = {name: label for label, name in config.id2label.items()}
    set_seed(recipe.seed)
    model = PerceiverStudyForImageClassification(config)
    normalize = Normalization(processor, accelerator.device)

    model, test_loader, progress, best_weights = train(accelerator, recipe, model, splits, normalize, start)
    best_model = accelerator.unwrap_model(model)
    best_model.load_state_dict(best_weights)
    test_scores = evaluate(accelerator, model, test_loader, normalize)  # the only look at the test images

    if accelerator.is_main_process:
        best_model.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)
        results = {
            "data": recipe.data.path or recipe.data.name,
            "test_images": len(splits.test),
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
        draw_curves(output_dir / LOG, output_dir / "curves.png", title=output_dir.name)
        (output_dir / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
        print(
            f"\n{output_dir}: {100 * test_scores['accuracy']:.2f} % of {len(splits.test)} test images right "
            f"(best epoch {progress.best_epoch}, {progress.seconds:.0f} s of training)\n"
            f"  python scripts/predict.py {output_dir} IMAGE...\n"
            f'  AutoModelForImageClassification.from_pretrained("{output_dir}", trust_remote_code=True)'
        )
    accelerator.end_training()
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
    """Returns the prepared model and test loader, the progress, and the weights of the best epoch on the CPU."""
    settings = recipe.optimization
    output_dir = Path(recipe.output_dir)
    steps_per_epoch = len(splits.train) // settings.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"optimization.batch_size={settings.batch_size} is more than the {len(splits.train)} images to train on"
        )
    total_steps = settings.epochs * steps_per_epoch
    optimizer, schedule = build_optimizer(model, settings, total_steps)
    model, optimizer, schedule, train_loader, validation_loader, test_loader = accelerator.prepare(
        model, optimizer, schedule, *build_loaders(accelerator, recipe, splits, steps_per_epoch)
    )
    progress, best_weights = Progress(), None
    if start is not None:
        progress, best_weights = load_checkpoint(accelerator, start)
        accelerator.print(f"continuing from {start}")
    if recipe.logging.log_with:
        accelerator.init_trackers("perceiver-study", config={key: str(value) for key, value in flatten(recipe).items()})
    log = TrainingLog(accelerator, output_dir / LOG, settings.batch_size, steps_per_epoch, progress)
    inputs = TrainingInputs(recipe.augmentation, normalize, recipe.seed, settings.batch_size)
    parts = settings.gradient_accumulation_steps
    begin = time.perf_counter() - progress.seconds
    bar = tqdm(
        total=total_steps,
        initial=progress.step,
        unit="step",
        disable=None if accelerator.is_main_process else True,  # None hides it when output is not a terminal
    )
    for epoch in range(progress.epoch, settings.epochs):
        model.train()
        train_loader.set_epoch(epoch)
        done = (progress.step - epoch * steps_per_epoch) * parts
        for batch in accelerator.skip_first_batches(train_loader, done) if done else train_loader:
            part = done % parts
            done += 1
            labels = batch["labels"]
            first = (part * accelerator.num_processes + accelerator.process_index) * len(labels)
            torch.manual_seed(fold_seed(recipe.seed, progress.step, first))  # dropout, too, is the same after a resume
            with accelerator.accumulate(model):
                logits = model(pixel_values=inputs(batch["pixels"], progress.step, first)).logits
                loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
                accelerator.backward(loss)
                if accelerator.sync_gradients and settings.max_gradient_norm is not None:
                    accelerator.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
                learning_rate = schedule.get_last_lr()[0]
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            log.add(loss / parts)
            if not accelerator.sync_gradients:
                continue
            progress.step += 1
            bar.update()
            if progress.step % recipe.logging.every_steps == 0:
                bar.set_postfix_str(log.step(progress, learning_rate))
            if recipe.checkpoint.every_steps and progress.step % recipe.checkpoint.every_steps == 0:
                progress.seconds = time.perf_counter() - begin
                save_checkpoint(accelerator, output_dir, progress, best_weights, recipe.checkpoint.keep_last)

        scores = evaluate(accelerator, model, validation_loader, normalize)
        progress.epoch += 1
        if (scores["accuracy"], -scores["loss"]) > (progress.best_accuracy, -progress.best_loss):
            progress.best_epoch = progress.epoch
            progress.best_accuracy, progress.best_loss = scores["accuracy"], scores["loss"]
            weights = accelerator.get_state_dict(model)
            best_weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
        log.epoch(progress, scores)
        if accelerator.is_main_process:
            bar.write(
                f"epoch {progress.epoch}/{settings.epochs}: validation accuracy {100 * scores['accuracy']:.2f} % "
                f"(best {100 * progress.best_accuracy:.2f} %, epoch {progress.best_epoch}), loss {scores['loss']:.4f}"
            )
    bar.close()
    progress.seconds = time.perf_counter() - begin
    return model, test_loader, progress, best_weights


@torch.no_grad()
def evaluate(accelerator: Accelerator, model, loader: DataLoader, normalize: Normalization) -> dict[str, float]:
    """`accuracy`, `top_k_accuracy` (5, or fewer where there are fewer classes) and `loss`, each image counted once."""
    model.eval()
    metric, losses = None, []
    for batch in loader:
        logits = model(pixel_values=normalize(batch["pixels"])).logits.float()
        metric = metric or TopKAccuracy(k=min(5, logits.shape[-1]))
        loss = F.cross_entropy(logits, batch["labels"], reduction="none")
        top = logits.topk(metric.k).indices
        top, labels, loss = accelerator.gather_for_metrics((top, batch["labels"], loss))
        metric.add_batch(predictions=top.cpu(), references=labels.cpu())
        losses.append(loss.cpu())
    return {**metric.compute(), "loss": torch.cat(losses).double().mean().item()}


def build_accelerator(recipe: Recipe) -> Accelerator:
    settings = recipe.optimization
    try:
        accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            log_with=recipe.logging.log_with,
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
    cut = accelerator.num_processes * settings.gradient_accumulation_steps
    if settings.batch_size % cut:
        raise UserError(
            f"optimization.batch_size={settings.batch_size} cannot be cut into equal parts for "
            f"{accelerator.num_processes} processes and {settings.gradient_accumulation_steps} accumulation steps: "
            f"choose a multiple of {cut}"
        )
    if accelerator.device.type == "cpu":
        # `accelerate launch` asks for a single thread unless told otherwise.
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(settings.cpu_threads or max(1, cores // local_processes))
    return accelerator


def build_loaders(accelerator: Accelerator, recipe: Recipe, splits: Splits, steps_per_epoch: int) -> list[DataLoader]:
    """Loaders of training, validation and test images, in parts of a batch over all processes."""
    settings = recipe.optimization
    size = settings.batch_size // settings.gradient_accumulation_steps
    # Whole batches only, others each epoch: a smaller last step would weigh its images more.
    sampler = RandomSampler(splits.train, num_samples=steps_per_epoch * settings.batch_size)
    pin = accelerator.device.type == "cuda"
    return [
        DataLoader(splits.train, size, sampler=sampler, collate_fn=identity, pin_memory=pin),
        DataLoader(splits.validation, size, collate_fn=identity, pin_memory=pin),
        DataLoader(splits.test, size, collate_fn=identity, pin_memory=pin),
    ]


if __name__ == "__main__":
    run_command(main)
