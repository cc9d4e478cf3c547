"""A picture of a training run from its `metrics.jsonl`."""

import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers tell apart; markers differ as well.
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW)
MARKERS = "osv^Dx"
_TRAINING, _VALIDATION = BLUE, ORANGE


def read_metrics(path: Path) -> tuple[list[dict], list[dict]]:
    """The lines of logged steps, and those of epochs."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"], [line for line in lines if line["kind"] == "epoch"]


def draw_curves(metrics: Path, picture: Path, title: str):
    """Losses on the left, validation accuracy with its best epoch on the right, both against epochs, as a PNG."""
    steps, epochs = read_metrics(metrics)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot(left, steps, "loss", color=_TRAINING, label="training, as optimised")
    _plot(left, epochs, "validation_loss", color=_VALIDATION, marker="o", markersize=3, label="validation")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", title=title)
    left.legend(frameon=False)
    _plot(right, epochs, "validation_accuracy", scale=100, color=_VALIDATION, marker="o", markersize=3)
    best = max(epochs, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    right.axvline(best["epoch"], color="0.6", linestyle=":")
    accuracy = f"{100 * best['validation_accuracy']:.2f} %"
    right.set(xlabel="epoch", ylabel="validation accuracy (%)", title=f"best: {accuracy} after epoch {best['epoch']}")
    tidy(left, right)
    figure.savefig(picture, dpi=150)


def tidy(*panels: Axes):
    """A light grid behind what is drawn, and no lines at the top and on the right."""
    for axes in panels:
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _plot(axes, lines: list[dict], name: str, scale: float = 1, **style):
    axes.plot([line["epoch"] for line in lines], [scale * line[name] for line in lines], **style)
