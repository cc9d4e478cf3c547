"""How long this model and others take to an accuracy: trained by one loop on the same images, and judged as they go."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate.utils import set_seed
from matplotlib.figure import Figure
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from lab.data.splits import Splits
from lab.errors import UserError
from lab.judging.predictions import evaluate
from lab.looking.style import COLOURS, MARKERS, tidy
from lab.peers.contenders import OURS, Case, contenders
from lab.provenance import facts_of
from lab.recipe import Recipe
from lab.tasks.task import Task
from lab.training.checkpoint import Progress
from lab.training.learner import Learner
from lab.training.loop import build_accelerator, judging_loader, training_loader
from modeling_perceiver_study import PerceiverStudyConfig

TRANSFORMERS, PERCEIVER_PYTORCH = "transformers", "perceiver-pytorch"
RACERS = (OURS, TRANSFORMERS, PERCEIVER_PYTORCH)


class Answering(nn.Module):
    """`(B, C, H, W) -> (B, classes)`: a contender, called as a task calls its model."""

    def __init__(self, contender: nn.Module):
        super().__init__()
        self.contender = contender

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.contender(pixel_values))


def case_of(config: PerceiverStudyConfig, batch: int) -> Case:
    """The same widths and numbers of layers for the others, which keep their own heads, MLPs and decoders.

    Raises:
        UserError: the others have no such model.
    """
    height, width = config.grid
    if config.num_cross_attends != 1 or config.num_blocks != 1 or height != width or config.num_channels != 3:
        raise UserError(
            f"model: {config.num_cross_attends} cross-attends, {config.num_blocks} blocks and images of {height} × "
            f"{width} × {config.num_channels}; transformers and perceiver-pytorch are compared with 1 cross-attend, 1 "
            "block and square images with 3 channels"
        )
    for name, expected in (("patch_size", None), ("stem_type", "none"), ("position_encoding_type", "fourier")):
        if getattr(config, name) != expected:
            raise UserError(f"model.{name}={getattr(config, name)}: the others are compared with {expected} alone")
    return Case(
        name="race",
        part="model",
        image_size=height,
        batch=batch,
        num_latents=config.num_latents,
        d_latents=config.d_latents,
        num_self_attends_per_block=config.num_self_attends_per_block,
        widening_factor=config.self_attention_widening_factor,
        num_frequency_bands=config.num_frequency_bands,
        num_labels=config.num_labels,
    )


def racer(name: str, task: Task) -> Callable[[], nn.Module]:
    """What builds a racer: the model of the recipe, or another implementation of the same size.

    Raises:
        UserError: see `case_of`.
    """
    if name == OURS:
        return task.new_model
    build = contenders(case_of(task.config, task.recipe.optimization.batch_size))[name]
    return lambda: Answering(build())


def recipe_of(recipe: Recipe, name: str, rate: float | None) -> Recipe:
    """The recipe of a racer: the others have AdamW, which needs to know nothing of a model, and a rate of their own."""
    if name == OURS:
        changes = {} if rate is None else {"learning_rate": rate}
    else:
        changes = {"optimizer": "adamw", "learning_rate": rate}
    return dataclasses.replace(recipe, optimization=dataclasses.replace(recipe.optimization, **changes))


def race(
    task: Task,
    splits: Splits,
    build: Callable[[], nn.Module],
    target: float,
    most_seconds: float,
    every_seconds: float,
) -> dict:
    """Train until the accuracy on validation images reaches a target, or for so many seconds, or as the recipe says.

    Time to judge does not count. The first step, which prepares things, does.

    Args:
        every_seconds: of training, from one judgement to the next.

    Returns:
        `points` with `seconds`, `step`, `samples`, `accuracy` and `loss`; and the number of `parameters`.
    """
    settings = task.recipe.optimization
    accelerator = build_accelerator(task)
    loader = training_loader(accelerator, task.recipe, splits.train)
    validation = judging_loader(accelerator, task.recipe, splits.validation)
    set_seed(task.recipe.seed)
    model = build()
    parameters = sum(weight.numel() for weight in model.parameters())
    learner, progress = Learner(accelerator, task, model), Progress()
    points, clock, done = [], 0.0, 0

    def judge() -> float:
        scores = evaluate(accelerator, task, learner.judged, validation)
        found = {"seconds": round(clock, 2), "step": progress.step, "samples": progress.step * settings.batch_size}
        points.append({**found, "accuracy": scores[task.best], "loss": scores["loss"]})
        return scores[task.best]

    begin = time.perf_counter()
    while progress.epoch < settings.epochs:
        for _ in learner.steps(loader, progress):
            _wait(accelerator.device)
            clock = clock + time.perf_counter() - begin
            over = clock >= most_seconds
            if over or clock // every_seconds > done:
                done = clock // every_seconds
                if judge() >= target or over:
                    return {"parameters": parameters, "points": points}
            begin = time.perf_counter()
        progress.epoch, progress.samples = progress.epoch + 1, 0
    judge()
    return {"parameters": parameters, "points": points}


def _wait(device: torch.device):
    """A GPU works behind the program."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def seconds_to(points: Sequence[dict], accuracy: float) -> float | None:
    """Seconds of training up to the first judgement that reached an accuracy; None if none did."""
    return next((point["seconds"] for point in points if point["accuracy"] >= accuracy), None)


def best_run(runs: Sequence[dict], targets: Sequence[float]) -> dict:
    """The run that reached the highest target that any did, soonest; without one the one with the highest accuracy."""

    def order(run: dict) -> tuple:
        times = [seconds_to(run["points"], target) for target in sorted(targets, reverse=True)]
        best = max(point["accuracy"] for point in run["points"])
        return (*(np.inf if seconds is None else seconds for seconds in times), -best)

    return min(runs, key=order)


def races_table(result: dict) -> str:
    """Markdown: the best run of each racer and how many times longer it took than ours, then all runs and trials.

    What they ran on, and with what code, is listed of all of them.
    """
    targets, runs, trials = result["targets"], result["runs"], result["trials"]
    names = list(dict.fromkeys(run["name"] for run in runs))
    best = {name: best_run([run for run in runs if run["name"] == name], targets) for name in names}
    heads = " | ".join(f"seconds to {100 * target:g} %" for target in targets)
    heading = [
        f"| | parameters | optimiser, learning rate | {heads} | highest accuracy, after |",
        "|---|---:|---|" + "---:|" * (len(targets) + 1),
    ]
    lines = [*heading, *(_row(best[name], targets, best.get(OURS) if name != OURS else None) for name in names)]
    if len(runs) > len(names):
        lines += ["", "All learning rates:", "", *heading, *(_row(run, targets, None) for run in runs)]
    if trials:
        chosen = f"The learning rates were chosen by trials of at most {result['trial_seconds']:,.0f} s each:"
        lines += ["", chosen, "", *heading, *(_row(run, targets, None) for run in trials)]
    made = [*runs, *trials]
    torches = facts_of([run["versions"] for run in made], "torch")
    return (
        "\n".join(lines) + f"\n\n{result['data']}, {result['images']['train']:,} images to train on and "
        f"{result['images']['validation']:,} to validate, judged after each {result['every_seconds']:g} s of training, "
        f"which is what counts; at most {result['most_seconds']:,.0f} s for each run, seed {result['seed']}. "
        f"{facts_of(made, 'hardware')}, torch {torches}, commit {facts_of(made, 'git_commit')}.\n"
    )


def _row(run: dict, targets: Sequence[float], ours: dict | None) -> str:
    cells = []
    for target in targets:
        seconds, own = (one and seconds_to(one["points"], target) for one in (run, ours))
        times = f" ({seconds / own:.1f} ×)" if seconds and own else ""
        cells.append("not reached" if seconds is None else f"{seconds:,.0f}{times}")
    top = max(run["points"], key=lambda point: point["accuracy"])
    trained = f"{run['optimizer']}, {run['learning_rate']:g}"
    return (
        f"| {run['name']} | {run['parameters']:,} | {trained} | {' | '.join(cells)} | "
        f"{100 * top['accuracy']:.1f} %, {top['seconds']:,.0f} s |"
    )


def draw_races(result: dict) -> Figure:
    """Accuracy against seconds of training: the best run of each racer, and its others pale."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(run["name"] for run in result["runs"]))
    for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        runs = [run for run in result["runs"] if run["name"] == name]
        best = best_run(runs, result["targets"])
        for run in runs:
            style = {"marker": marker, "markersize": 4, "label": name} if run is best else {"alpha": 0.3}
            seconds, accuracies = zip(*((one["seconds"], 100 * one["accuracy"]) for one in run["points"]), strict=True)
            axes.plot(seconds, accuracies, color=colour, **style)
    for target in result["targets"]:
        axes.axhline(100 * target, color="0.6", linestyle="--")
    axes.set(xlabel="seconds of training", ylabel="accuracy on validation images in %", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False, loc="lower right")
    tidy(axes)
    return figure
