"""Pictures of how answers and labels agree."""

from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import precision_recall_curve

from lab.looking.style import BLUE, COLOURS, ORANGE, save, tidy
from lab.scoring.scores import BINS, Calibration

_MOST_NAMES = 40  # classes whose names fit beside the matrix
_MOST_NUMBERS = 15  # classes whose shares fit into its cells
_MOST_CURVES = 6  # classes that are told apart by colour


def draw_confusions(matrix: np.ndarray, names: list[str], picture: Path):
    """The matrix with every row scaled to its number of samples, as a PNG; numbers and names where they fit."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(names)
    side = max(5.0, min(10.0, 0.45 * count))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    # The square root of the share: in a good model confusions are rare, and are what one looks for.
    image = axes.imshow(shares, norm=PowerNorm(0.5, vmin=0, vmax=1), cmap="cividis")
    bar = figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set(xlabel="predicted class", ylabel="true class")
    if count <= _MOST_NAMES:
        axes.set_xticks(range(count), names, rotation=90, parse_math=False)
        axes.set_yticks(range(count), names, parse_math=False)
    if count <= _MOST_NUMBERS:
        for row, column in np.argwhere(matrix):
            share = shares[row, column]
            colour = "black" if share > 0.25 else "white"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    save(figure, picture, dpi=150, bbox_inches="tight")


def draw_reliability(calibration: Calibration, picture: Path):
    """Accuracy against confidence above, where samples are below, as a PNG."""
    edges = np.arange(BINS) / BINS
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    style = {"width": 1 / BINS, "align": "edge", "edgecolor": "white", "color": BLUE, "alpha": 0.6}
    upper.bar(edges, np.nan_to_num(calibration.accuracies), label="accuracy of the bin", **style)
    upper.plot([0, 1], [0, 1], color="black", linestyle="--", label="perfect calibration")
    upper.plot(
        calibration.confidences,
        calibration.accuracies,
        color=ORANGE,
        marker="o",
        markersize=4,
        linestyle="none",
        label="at the mean confidence",
    )
    upper.set(ylabel="accuracy", title=f"expected calibration error {100 * calibration.error:.2f} %")
    upper.legend(frameon=False, loc="upper left")
    lower.bar(edges, calibration.counts / calibration.counts.sum(), **style)
    lower.set(xlabel=f"confidence, in {BINS} bins", ylabel="samples", xlim=(0, 1))
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, picture, dpi=150)


def draw_precision_recall(labels: np.ndarray, logits: np.ndarray, names: list[str], picture: Path):
    """Precision against recall of the first classes that some sample has, as a PNG.

    Args:
        labels: `(n, L)` of 0 and 1.
        logits: `(n, L)`.
    """
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    there = np.flatnonzero(labels.any(axis=0))[:_MOST_CURVES]
    for colour, index in zip(COLOURS, there, strict=False):
        precision, recall, _ = precision_recall_curve(labels[:, index], logits[:, index])
        axes.plot(recall, precision, color=colour, label=names[index])
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)  # names may contain dollars
    tidy(axes)
    save(figure, picture, dpi=150)


def draw_answers(labels: np.ndarray, answers: np.ndarray, names: list[str], picture: Path):
    """Answers against labels, a panel for each of the first numbers, as a PNG.

    Args:
        labels: `(n, L)`.
        answers: `(n, L)`, in the same units.
    """
    shown = names[:_MOST_CURVES]
    figure = Figure(figsize=(4 * len(shown), 4), layout="constrained")
    for index, (axes, name) in enumerate(zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True)):
        both = np.concatenate([labels[:, index], answers[:, index]])
        axes.plot([both.min(), both.max()], [both.min(), both.max()], color="0.6", linestyle="--")
        axes.plot(labels[:, index], answers[:, index], ".", color=BLUE, markersize=4)
        axes.set(xlabel="label", ylabel="answer")
        axes.set_title(name, parse_math=False)
        tidy(axes)
    save(figure, picture, dpi=150)
