"""A picture of a training run from its `metrics.jsonl`."""

import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.looking.style import BLUE, ORANGE, save, tidy
from lab.scoring.measures import measure_of

_TRAINING, _VALIDATION = BLUE, ORANGE


def read_metrics(path: Path) -> tuple[list[dict], list[dict]]:
    """Return the lines of logged steps, and those of epochs."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "step"], [line for line in lines if line["kind"] == "epoch"]


def draw_curves(metrics: Path, picture: Path, title: str, best: str):
    """Draw losses on the left and the deciding score with its best epoch on the right, against epochs, as a PNG.

    Where nothing was validated there is the training loss alone.

    Args:
        best: the key of that score, such as `accuracy`.
    """
    steps, epochs = read_metrics(metrics)
    if not epochs:
        raise ValueError(f"{metrics} has no epoch that has ended.")
    validated = any(f"validation_{best}" in line for line in epochs)
    figure = Figure(figsize=(10 if validated else 5, 4), layout="constrained")
    left, *others = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    _plot(left, steps, "loss", color=_TRAINING, label="training, as optimised")
    left.set(xlabel="epoch", ylabel="loss")
    left.set_title(title, parse_math=False)  # a folder's name may contain dollars
    if validated:
        _plot(left, epochs, "validation_loss", color=_VALIDATION, marker="o", markersize=3, label="validation")
        left.legend(frameon=False)
        _draw_score(*others, epochs, best)
    tidy(left, *others)
    save(figure, picture, dpi=150)


def _draw_score(axes: Axes, epochs: list[dict], best: str):
    measure, key = measure_of(best), f"validation_{best}"
    scale = 100 if measure.percent else 1
    _plot(axes, epochs, key, scale=scale, color=_VALIDATION, marker="o", markersize=3)
    line = max(epochs, key=lambda line: measure.rank(line[key], line["validation_loss"]))
    axes.axvline(line["epoch"], color="0.6", linestyle=":")
    unit = " (%)" if measure.percent else ""
    found = f"best: {measure.write(line[key])} after epoch {line['epoch']}"
    axes.set(xlabel="epoch", ylabel=f"validation {measure.title}{unit}", title=found)


def _plot(axes, lines: list[dict], name: str, scale: float = 1, **style):
    axes.plot([line["epoch"] for line in lines], [scale * line[name] for line in lines], **style)
