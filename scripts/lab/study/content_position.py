"""Content and position: the parts of each logit that come from the pixel and from its position."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from lab.looking.logit_parts import logit_parts
from lab.looking.style import COLOURS, MARKERS, tidy
from lab.recipe import Recipe
from lab.study.comparison import (
    FAILS,
    HOLDS,
    Finding,
    accuracy_table,
    gather,
    is_above,
    is_larger,
    percent,
    spread,
)
from lab.study.pictures import ACCURACY, draw_accuracies
from lab.study.setting import Setting
from lab.study.training import Job, load_samples, run_all, train_small
from lab.tasks.task import Task
from modeling_perceiver_study import PerceiverStudyForImageClassification

TITLE = "Content and position"
CLAIM = (
    "There are two kinds of attention, one by what is at a pixel and one by where the pixel is; a block that keeps "
    "them apart is worth having."
)
SOURCE = "the blog post on content- and position-based attention in Perceivers"

NUM_CROSS_ATTENDS = 3
SHAPE = (
    f"model.num_blocks={NUM_CROSS_ATTENDS}",
    f"model.num_cross_attends={NUM_CROSS_ATTENDS}",
    # Several heads, to divide between the kinds; the width of the inputs is seldom divisible by their number.
    "model.num_cross_attention_heads=4",
    "model.cross_attention_shape_for_attention=q",
)
PARTS = ("content", "position", "scale")
# What the keys of the heads are made of. With APART the first half of the heads sees content and the rest position.
BOTH, APART, CONTENT, POSITION = "both", "one kind each", "content only", "position only"
_PURE = 0.9  # a query is of one kind if more than this share of its logits' variance comes from one part
_NOTABLE = 0.1  # a kind of attention is there if it has more than this share
_IMAGES = 128  # measured on


def settings(setting: Setting) -> dict:
    return setting.for_training(*SHAPE)


def run(setting: Setting) -> dict:
    jobs = [
        Job({"keys": keys, "seed": seed}, setting.recipe(*SHAPE, seed=seed), train_and_split, {"keys": keys})
        for keys in (BOTH, APART, CONTENT, POSITION)
        for seed in setting.seeds
    ]
    return {"runs": run_all(jobs, setting, TITLE)}


def train_and_split(recipe: Recipe, keys: str) -> dict:
    """Return scores, and the shares of `PARTS` at each cross-attend before, during and after training."""
    images = load_samples(recipe)
    pixels = images.validation.__getitems__(range(min(_IMAGES, len(images.validation))))["pixels"]
    history = []

    def build(task: Task) -> PerceiverStudyForImageClassification:
        model = task.build_model()
        keep_apart(model, keys)
        return model

    def watch(step: int, model: PerceiverStudyForImageClassification):
        inputs = images.task.normalize(pixels.to(model.device))
        parts = logit_parts(model, inputs)
        history.append({"step": step, "shares": [_rounded(of_one.shares()) for of_one in parts]})
        kinds[:] = [_count_kinds(of_one.shares(over=(0,))) for of_one in parts]

    kinds: list[dict] = []
    trained = train_small(recipe, watch=watch, build=build)
    return {**trained.scores(), "history": history, "kinds": kinds}


def keep_apart(model: PerceiverStudyForImageClassification, keys: str):
    """Restrict the keys of each head of the cross-attends to content or to position, as `keys` says.

    The other columns of the key projection are 0, and a hook sets their gradients to 0, so they stay 0 in training.
    A head then sees one of the two only, apart from the mean and deviation that the LayerNorm takes over both.
    """
    if keys == BOTH:
        return
    num_channels = model.config.num_attended_channels
    for layer in model.perceiver.cross_attends:
        projection, num_heads = layer.attention.k_proj, layer.attention.num_heads
        knows_content = torch.zeros(num_heads, dtype=torch.bool)
        knows_content[: {APART: num_heads // 2, CONTENT: num_heads, POSITION: 0}[keys]] = True
        is_content = torch.arange(projection.in_features) < num_channels
        known = (knows_content[:, None] == is_content).repeat_interleave(projection.out_features // num_heads, dim=0)
        _hold_at_zero(projection.weight, known)


def _hold_at_zero(weight: nn.Parameter, known: torch.Tensor):
    with torch.no_grad():
        weight.mul_(known)
    weight.register_hook(lambda gradient: gradient * known.to(gradient.device))


def _rounded(shares: torch.Tensor) -> list[float]:
    return [round(share, 4) for share in shares.tolist()]


def _count_kinds(shares: torch.Tensor) -> dict[str, float]:
    """Return the share of queries that are nearly all content, and the share that are nearly all position.

    Args:
        shares: `(3, h, N)`, of `PARTS`.
    """
    return {name: round((shares[PARTS.index(name)] > _PURE).double().mean().item(), 4) for name in PARTS[:2]}


def draw(result: dict) -> Figure:
    runs = [run for run in result["runs"] if run["keys"] == BOTH]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    tidy(left, middle, right)
    numbers = range(1, len(runs[0]["kinds"]) + 1)
    for index, (name, colour, marker) in enumerate(zip(PARTS, COLOURS, MARKERS, strict=False)):
        groups = {number: _final(runs, number, index) for number in numbers}
        draw_accuracies(left, groups, colour, marker, name, line=False)
    left.set(xlabel="cross-attend", ylabel="share of the logits' variance (%)", title="after training")
    steps = [moment["step"] for moment in runs[0]["history"]]
    for number, colour, marker in zip(numbers, COLOURS, MARKERS, strict=False):
        shares = 100 * np.array([[moment["shares"][number - 1][0] for moment in run["history"]] for run in runs])
        mean, error = shares.mean(axis=0), [spread(list(column)) for column in shares.T]
        middle.errorbar(steps, mean, error, fmt=f"{marker}-", color=colour, capsize=3, markersize=4, label=number)
    middle.set(xlabel="training step", ylabel="share of content (%)", title="during training")
    groups = gather(result["runs"], "keys", "validation_accuracy")
    draw_accuracies(right, {name.replace(" ", "\n"): values for name, values in groups.items()}, line=False)
    right.set(ylabel=ACCURACY, xlabel="what the keys of a head know", title="kept apart or not")
    top = max(max(moment["shares"][number - 1][0] for moment in run["history"]) for run in runs for number in numbers)
    middle.set_ylim(0, 130 * top)  # room for the legend
    left.legend(frameon=False)
    middle.legend(frameon=False, title="cross-attend", ncols=3, loc="upper left")
    return figure


def tabulate(result: dict) -> str:
    lines = [
        "Shares of the logits' variance over pixels, in percent, and of the queries (a head of a latent), in percent:",
        "",
        "| keys know | cross-attend | content before training | content | position | scale "
        f"| queries over {100 * _PURE:.0f} % content | over {100 * _PURE:.0f} % position |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for keys in gather(result["runs"], "keys", "seed"):
        runs = [run for run in result["runs"] if run["keys"] == keys]
        for number in range(1, len(runs[0]["kinds"]) + 1):
            shares = [percent([run["history"][0]["shares"][number - 1][0] for run in runs])]
            shares += [percent(_final(runs, number, index)) for index in range(len(PARTS))]
            kinds = [percent(_kinds(runs, number, name)) for name in PARTS[:2]]
            lines.append(f"| {keys} | {number} | {' | '.join([*shares, *kinds])} |")
    table = accuracy_table(result["runs"], "keys", "keys know")
    return "\n".join(lines) + f"\n\n{table}\n{verdict_on_block(result)}\n"


def verdict_on_block(result: dict) -> str:
    """Return Markdown that says whether the model needs a block for each kind of attention."""
    accuracies = gather(result["runs"], "keys", "validation_accuracy")
    found = is_larger("heads of one kind over heads of both", accuracies[APART], accuracies[BOTH])
    outcome = {
        HOLDS: "Heads of one kind are better here. A recipe can have them without a block of its own in the model.",
        FAILS: "Heads of one kind are worse here, so the model gets no such block.",
    }.get(found.verdict, "These seeds cannot tell the difference from zero, so the model gets no such block.")
    return (
        "**Separate blocks for content and for position?** Keys are linear in pixels beside positions, so the logit of "
        "a head is already the sum of a content part and a position part, each with its own weights, and its map is "
        "the normalised product of a content map and a position map. A block with two softmaxes takes their sum "
        "instead. A single head cannot do that, but two heads can, if their key projections are zero in the columns of "
        f'the other kind. The model needs no change: the rows "{APART}" hold those columns at zero from outside. '
        f"{found.text[0].upper()}{found.text[1:]}. {outcome}"
    )


def judge(result: dict) -> list[Finding]:
    runs = [run for run in result["runs"] if run["keys"] == BOTH]
    numbers = range(1, len(runs[0]["kinds"]) + 1)
    # Of each seed, the mean over cross-attends.
    parts = [np.mean([_final(runs, number, index) for number in numbers], axis=0) for index in (0, 1)]
    pure = [np.mean([_kinds(runs, number, name) for number in numbers], axis=0) for name in PARTS[:2]]
    accuracies = gather(result["runs"], "keys", "validation_accuracy")
    tenth, most = f"{100 * _NOTABLE:.0f} %", f"{100 * _PURE:.0f} %"
    return [
        *(
            is_above(f"the share of {name} in the logits' variance over {tenth}", list(values), _NOTABLE)
            for name, values in zip(PARTS, parts, strict=False)
        ),
        *(
            is_above(f"the share of queries with more than {most} {name} over {tenth}", list(values), _NOTABLE)
            for name, values in zip(PARTS, pure, strict=False)
        ),
        is_above("the share of queries that are of one of these kinds over 50 %", list(sum(pure)), 0.5),
        is_larger("heads of one kind each over heads of both kinds", accuracies[APART], accuracies[BOTH]),
    ]


def _final(runs: list[dict], number: int, part: int) -> list[float]:
    """Return shares at the end of training, with all seeds."""
    return [run["history"][-1]["shares"][number - 1][part] for run in runs]


def _kinds(runs: list[dict], number: int, name: str) -> list[float]:
    return [run["kinds"][number - 1][name] for run in runs]
