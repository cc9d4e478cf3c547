"""A picture of a training run from its `metrics.jsonl`."""

import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.scoring.measures import measure_of

# Okabe and Ito's palette, which colour-blind readers can distinguish; markers differ as well.
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW)
MARKERS = "osv^Dx"
_TRAINING, _VALIDATION = BLUE, ORANGE


def read_metrics(path: Path) -> tuple[list[dict], list[dict]]:
    """Return the lines of logged steps, and those of epochs."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"], [line for line in lines if line["kind"] == "epoch"]


def draw_curves(metrics: Path, picture: Path, title: str, best: str):
    """Draw losses on the left and the deciding score with its best epoch on the right, against epochs, as a PNG.

    Args:
        best: the key of that score, such as `accuracy`.
    """
    steps, epochs = read_metrics(metrics)
    measure, key = measure_of(best), f"validation_{best}"
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot(left, steps, "loss", color=_TRAINING, label="training, as optimised")
    _plot(left, epochs, "validation_loss", color=_VALIDATION, marker="o", markersize=3, label="validation")
    left.set(xlabel="epoch", ylabel="loss", title=title)
    left.legend(frameon=False)
    scale = 100 if measure.percent else 1
    _plot(right, epochs, key, scale=scale, color=_VALIDATION, marker="o", markersize=3)
    sign = 1 if measure.higher_is_better else -1
    line = max(epochs, key=lambda line: (sign * line[key], -line["validation_loss"]))
    right.axvline(line["epoch"], color="0.6", linestyle=":")
    unit = " (%)" if measure.percent else ""
    found = f"best: {measure.write(line[key])} after epoch {line['epoch']}"
    right.set(xlabel="epoch", ylabel=f"validation {measure.title}{unit}", title=found)
    tidy(left, right)
    figure.savefig(picture, dpi=150)


def tidy(*panels: Axes):
    """Draw a light grid behind the data, and remove the lines at the top and on the right."""
    for axes in panels:
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _plot(axes, lines: list[dict], name: str, scale: float = 1, **style):
    axes.plot([line["epoch"] for line in lines], [scale * line[name] for line in lines], **style)
