"""One model for many budgets: fewer latents and fewer blocks as asked at the call, and leaving when it is sure."""

import copy

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, default_convert
from transformers import PreTrainedModel

from lab.looking.style import COLOURS, MARKERS, tidy
from lab.recipe import Recipe
from lab.study.comparison import Finding, gather, is_larger, percent, spread
from lab.study.complexity import count, seconds
from lab.study.pictures import ACCURACY
from lab.study.setting import Setting
from lab.study.training import Job, Samples, load_samples, run_all, train_small
from lab.tasks import build_task
from lab.training.cost import counted_config
from modeling_perceiver_study.elastic import classify_early

TITLE = "One model for many budgets"
CLAIM = (
    "One model that trains with a random number of latents and of blocks at each step, for as many epochs as a model "
    "for each budget takes together, answers at each budget within 2 points of the model that is trained for it. "
    "If each image leaves when the model is sure of its class, images take fewer blocks, at a cost of at most 1 point."
)
SOURCE = (
    "the guide that this repository follows, dynamic numbers of latents; for leaving early, BranchyNet "
    "(arXiv 1709.01686)"
)

BLOCKS = 4
# Shares of the recipe's latents, and blocks: from the least that the elastic model is trained with to all.
BUDGETS = ((0.25, 1), (0.5, 1), (0.5, 2), (1, 2), (1, BLOCKS))
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9)
JUDGED = 0.8  # of the confidences
WITHIN, AT_MOST = 0.02, 0.01
_BATCH = 100  # images, when a call is timed
ALL_AT_EACH_STEP = ("model.training_latents=null", "model.training_blocks=null")
ELASTIC, SHORT, FIXED = "one model for all budgets", "the same, trained as long as one", "a model for each budget"


def shape(blocks: int) -> tuple[str, ...]:
    """Blocks of a cross-attend and a self-attend, which share their weights."""
    return (
        f"model.num_blocks={blocks}",
        f"model.num_cross_attends={blocks}",
        "model.num_self_attends_per_block=1",
        "model.share_block_weights=true",
        "model.share_cross_attend_weights=true",
    )


def settings(setting: Setting) -> dict:
    return setting.for_training(*shape(BLOCKS))


def run(setting: Setting) -> dict:
    places = budgets(setting.recipe())
    (least, _), (most, _) = places[0], places[-1]
    drawn = (f"model.training_latents=[{least},{most}]", f"model.training_blocks=[1,{BLOCKS}]")
    jobs = []
    epochs = setting.recipe().optimization.epochs
    for seed in setting.seeds:
        arguments = {"places": [list(one) for one in places]}
        for trained, times in ((ELASTIC, len(places)), (SHORT, 1)):
            longer = f"optimization.epochs={times * epochs}"
            recipe = setting.recipe(*shape(BLOCKS), *drawn, longer, seed=seed)
            jobs.append(Job({"trained": trained, "seed": seed}, recipe, train_elastic, arguments))
        for latents, blocks in places:
            recipe = setting.recipe(*shape(blocks), *ALL_AT_EACH_STEP, f"model.num_latents={latents}", seed=seed)
            jobs.append(Job({"trained": FIXED, "latents": latents, "blocks": blocks, "seed": seed}, recipe))
    return {"runs": run_all(jobs, setting, TITLE)}


def budgets(recipe: Recipe) -> list[tuple[int, int]]:
    """Numbers of latents and of blocks, from few to all."""
    most = build_task(recipe).config.num_latents
    return list(dict.fromkeys((max(1, round(share * most)), blocks) for share, blocks in BUDGETS))


def train_elastic(recipe: Recipe, places: list[list[int]]) -> dict:
    """Return the scores of an elastic model, and its accuracy and cost at each budget and at each confidence."""
    trained, samples = train_small(recipe), load_samples(recipe)
    model = trained.model
    megaflops = {(latents, blocks): cost(model, samples, latents, blocks) for latents, blocks in places}
    at_budgets = []
    for latents, blocks in places:

        def answer(inputs, latents=latents, blocks=blocks):
            logits = model(**inputs, num_latents=latents, num_blocks=blocks).logits
            return logits, torch.full((len(logits),), blocks)

        accuracy, _, time = measure(answer, model, samples)
        found = {"accuracy": accuracy, "megaflops": megaflops[latents, blocks], "microseconds": time}
        at_budgets.append({"latents": latents, "blocks": blocks, **found})
    after = [cost(model, samples, model.config.num_latents, blocks) for blocks in range(1, BLOCKS + 1)]
    early = []
    for confidence in CONFIDENCES:
        accuracy, blocks, time = measure(
            lambda inputs, by=confidence: classify_early(model, by, **inputs), model, samples
        )
        found = {"accuracy": accuracy, "blocks": float(blocks.mean())}
        found |= {"megaflops": float(np.take(after, blocks - 1).mean()), "microseconds": time}
        early.append({"confidence": confidence, **found})
    return {**trained.scores(), "budgets": at_budgets, "early": early}


@torch.no_grad()
def measure(answer, model: PreTrainedModel, samples: Samples) -> tuple[float, np.ndarray, float]:
    """Return accuracy, the blocks `(n,)` that each validation image took, and CPU time of an image in microseconds.

    Args:
        answer: what the model is called with `-> (b, classes), (b,)`, logits and blocks.
    """
    model.cpu()
    right, blocks, first = [], [], None
    for batch in DataLoader(samples.validation, _BATCH, collate_fn=default_convert):
        inputs, labels = samples.task.inputs(batch)
        logits, taken = answer(inputs)
        right.append(logits.argmax(dim=-1) == labels)
        blocks.append(taken)
        first = inputs if first is None else first
    time = 1e6 * seconds(lambda: answer(first)) / len(right[0])
    return float(torch.cat(right).float().mean()), torch.cat(blocks).numpy(), time


def cost(model: PreTrainedModel, samples: Samples, latents: int, blocks: int) -> float:
    """Return millions of floating-point operations in the matrix products of one image."""
    counted = copy.deepcopy(model)
    counted.config = counted.perceiver.config = counted_config(model.config)
    inputs, _ = samples.task.example(1, model.device)
    return 1e3 * count(counted, lambda: counted(**inputs, num_latents=latents, num_blocks=blocks).logits)["gflop"]


def _elastic(result: dict, what: str, trained: str = ELASTIC) -> list[dict[str, list[float]]]:
    """Return for each budget, or for each confidence, all measures with all seeds."""
    runs = [run[what] for run in result["runs"] if run["trained"] == trained]
    return [{name: [one[name] for one in of_place] for name in of_place[0]} for of_place in zip(*runs, strict=True)]


def _fixed(result: dict) -> list[list[float]]:
    """Return for each budget the accuracies of models trained for it."""
    runs = [{**run, "place": (run["latents"], run["blocks"])} for run in result["runs"] if run["trained"] == FIXED]
    return list(gather(runs, "place", "validation_accuracy").values())


def draw(result: dict) -> Figure:
    at_budgets, early = _elastic(result, "budgets"), _elastic(result, "early")
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, measured, label in zip(
        panels,
        ("megaflops", "microseconds"),
        ("millions of operations for an image", "microseconds of one thread for an image"),
        strict=True,
    ):
        at = [np.mean(place[measured]) for place in at_budgets]
        lines = {FIXED: (at, _fixed(result)), ELASTIC: (at, [place["accuracy"] for place in at_budgets])}
        lines[SHORT] = (at, [place["accuracy"] for place in _elastic(result, "budgets", SHORT)])
        lines[f"{ELASTIC}, leaving when sure"] = (
            [np.mean(place[measured]) for place in early],
            [place["accuracy"] for place in early],
        )
        for (name, (places, accuracies)), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
            means, errors = ([100 * of(values) for values in accuracies] for of in (np.mean, spread))
            panel.errorbar(places, means, errors, fmt=f"{marker}-", color=colour, capsize=3, markersize=5, label=name)
        panel.set_xlabel(label)
    panels[0].set_ylabel(ACCURACY)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    tidy(*panels)
    return figure


def tabulate(result: dict) -> str:
    lines = [
        f"| latents | blocks | MFLOP | µs | {FIXED}, % | {ELASTIC}, % | {SHORT}, % |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for place, shorter, fixed in zip(
        _elastic(result, "budgets"), _elastic(result, "budgets", SHORT), _fixed(result), strict=True
    ):
        lines.append(
            f"| {place['latents'][0]} | {place['blocks'][0]} | {np.mean(place['megaflops']):.2f} | "
            f"{np.mean(place['microseconds']):.0f} | {percent(fixed)} | {percent(place['accuracy'])} | "
            f"{percent(shorter['accuracy'])} |"
        )
    lines += ["", "| leaves at a confidence of | blocks | MFLOP | µs | accuracy % |", "|---:|---:|---:|---:|---:|"]
    for place in _elastic(result, "early"):
        lines.append(
            f"| {place['confidence'][0]:g} | {np.mean(place['blocks']):.2f} | {np.mean(place['megaflops']):.2f} | "
            f"{np.mean(place['microseconds']):.0f} | {percent(place['accuracy'])} |"
        )
    return (
        "\n".join(lines)
        + "\n\nA block is a cross-attend and a self-attend; blocks share their weights, but for the first "
        f"cross-attend. {ELASTIC.capitalize()} trains for as many epochs as all models for one budget together, except "
        "in the last column; no model for one budget was trained as long, so where it is ahead that may be the longer "
        "training. MFLOP are those of matrix products for one image, µs CPU time of one image in a batch of "
        f"{_BATCH}. The second table is of the model for all budgets, with all its latents; blocks are means over "
        "images.\n"
    )


def judge(result: dict) -> list[Finding]:
    at_budgets, early = _elastic(result, "budgets"), _elastic(result, "early")
    findings = []
    for place, fixed in zip(at_budgets, _fixed(result), strict=True):
        latents, blocks = place["latents"][0], place["blocks"][0]
        allowed = [accuracy + WITHIN for accuracy in place["accuracy"]]
        where = f"{latents} latent{'s' if latents > 1 else ''} and {blocks} block{'s' if blocks > 1 else ''}"
        findings.append(is_larger(f"{ELASTIC}, with 2 points added, over one for {where}", allowed, fixed))
    (sure,) = (place for place in early if place["confidence"][0] == JUDGED)
    allowed = [accuracy + AT_MOST for accuracy in sure["accuracy"]]
    every = [BLOCKS] * len(sure["blocks"])
    return [
        *findings,
        is_larger(f"all blocks over those of leaving at {JUDGED}", every, sure["blocks"], unit="blocks", scale=1),
        is_larger(f"leaving at {JUDGED}, with 1 point added, over all blocks", allowed, at_budgets[-1]["accuracy"]),
    ]
