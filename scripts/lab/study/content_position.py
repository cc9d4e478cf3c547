"""Content and position: how much of each logit comes from the pixel, and how much from where it is."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from lab.looking.curves import COLOURS, MARKERS, tidy
from lab.looking.logit_parts import logit_parts
from lab.recipe import Recipe
from lab.study.comparison import (
    FAILS,
    HOLDS,
    IN_PART,
    Finding,
    accuracy_table,
    conclude,
    gather,
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
    # Several heads, to be shared out between the kinds; the width of the inputs seldom has room for them.
    "model.num_cross_attention_heads=4",
    "model.cross_attention_shape_for_attention=q",
)
PARTS = ("content", "position", "scale")
# What the keys of the heads are made of; of `apart`, the first half of the heads knows content and the rest position.
BOTH, APART, CONTENT, POSITION = "both", "one kind each", "content only", "position only"
_PURE = 0.9  # share of one part from which on a query is of one kind
_IMAGES = 128  # to measure on


def run(setting: Setting) -> dict:
    jobs = [
        Job({"keys": keys, "seed": seed}, setting.recipe(*SHAPE, seed=seed), train_and_split, {"keys": keys})
        for keys in (BOTH, APART, CONTENT, POSITION)
        for seed in setting.seeds
    ]
    return {"runs": run_all(jobs, setting, TITLE)}


def train_and_split(recipe: Recipe, keys: str) -> dict:
    """Scores, and the shares of `PARTS` at each cross-attend: of all queries before, in and after training."""
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
    """Let heads of the cross-attends look for content alone or for position alone, as `keys` says.

    Their other columns of the key projection are 0, and so are the gradients there, so that training leaves them so.
    A head is then blind to one of the two, but for what the LayerNorm's mean and deviation of a whole point tell.
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
    """`(3, h, N) ->` the share of queries that are nearly all content, and of those that are nearly all position."""
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
    """Whether the model needs a block for each kind of attention, as Markdown."""
    accuracies = gather(result["runs"], "keys", "validation_accuracy")
    found = is_larger("heads of one kind over heads of both", accuracies[APART], accuracies[BOTH])
    outcome = {
        HOLDS: "Heads kept apart are better here, so the recipe may want them; the core still needs no block for it.",
        FAILS: "Heads kept apart are worse here, so the core gets no such block.",
    }.get(found.verdict, "That is no gain that these seeds can tell from none, so the core gets no such block.")
    return (
        "**A block of its own for content and for position?** Keys are linear in pixels beside positions, so the logit "
        "of a head already is a sum of a content and a position part with weights of their own, and its map is the "
        "normalised product of a content map and a position map. A block with two softmaxes takes their sum instead. "
        "No single head does that, but two heads do whose key projections are zero in the columns of the other kind. "
        f'That needs nothing of the core: the rows "{APART}" hold those columns at zero from outside. '
        f"{found.text[0].upper()}{found.text[1:]}. {outcome}"
    )


def judge(result: dict) -> tuple[str, str]:
    runs = [run for run in result["runs"] if run["keys"] == BOTH]
    numbers = range(1, len(runs[0]["kinds"]) + 1)
    content, position = (np.mean([_final(runs, number, index) for number in numbers]) for index in (0, 1))
    pure = [np.mean([_kinds(runs, number, name) for number in numbers]) for name in PARTS[:2]]
    both = HOLDS if min(content, position) >= 0.1 else FAILS
    apart = HOLDS if sum(pure) > 0.5 and min(pure) >= 0.1 else FAILS if sum(pure) < 0.1 else IN_PART
    accuracies = gather(result["runs"], "keys", "validation_accuracy")
    return conclude(
        [
            Finding(
                f"content makes {100 * content:.0f} % and position {100 * position:.0f} % of the logits' variance, "
                f"each at least a tenth ({both})",
                both,
            ),
            Finding(
                f"queries are of two kinds: {100 * pure[0]:.0f} % have over {100 * _PURE:.0f} % of it from content and "
                f"{100 * pure[1]:.0f} % from position ({apart})",
                apart,
            ),
            is_larger("a kind to each head over both in each", accuracies[APART], accuracies[BOTH]),
        ]
    )


def _final(runs: list[dict], number: int, part: int) -> list[float]:
    """Shares at the end of training, over seeds."""
    return [run["history"][-1]["shares"][number - 1][part] for run in runs]


def _kinds(runs: list[dict], number: int, name: str) -> list[float]:
    return [run["kinds"][number - 1][name] for run in runs]
