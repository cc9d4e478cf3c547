"""The files that an evaluation leaves: JSON, Markdown, a table of confusions and two pictures."""

import csv
import json
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lab.judging.scores import BINS, Calibration
from lab.looking.curves import BLUE, ORANGE

_MOST_NAMES = 40  # classes whose names fit beside the matrix
_MOST_NUMBERS = 15  # classes whose shares fit into its cells
_DEFINITION = (
    f"{BINS} bins of equal width, a confidence c in bin m if (m - 1)/{BINS} < c <= m/{BINS}; mean over images of the "
    "distance between accuracy and mean confidence of their bin (Guo et al. 2017, https://arxiv.org/abs/1706.04599)"
)


def write_report(
    folder: Path, results: dict, classes: list[dict], matrix: np.ndarray, calibration: Calibration, flip: dict | None
):
    """Write everything into `folder`, evaluation.json last.

    Args:
        results: scores and provenance.
        classes: rows of `class_table`.
        matrix: `(classes, classes)` counts, rows are what images show.
        flip: scores with test-time flip, if it was asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [row["name"] for row in classes]
    with (folder / "confusion_matrix.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *names])
        writer.writerows([name, *row.tolist()] for name, row in zip(names, matrix, strict=True))
    draw_confusions(matrix, names, folder / "confusion_matrix.png")
    draw_reliability(calibration, folder / "reliability.png")
    (folder / "evaluation.md").write_text(markdown(results, classes, flip))
    content = {
        **results,
        **({"flip": flip} if flip else {}),
        "calibration": {
            "definition": _DEFINITION,
            "bins": [
                {"up_to": (bin + 1) / BINS, "images": int(images)}
                | ({"confidence": float(confidence), "accuracy": float(accuracy)} if images else {})
                for bin, (images, confidence, accuracy) in enumerate(
                    zip(calibration.counts, calibration.confidences, calibration.accuracies, strict=True)
                )
            ],
        },
        "classes": classes,
    }
    (folder / "evaluation.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def markdown(results: dict, classes: list[dict], flip: dict | None) -> str:
    """The scores and a row for each class, in per cent."""
    columns = {"": results} | ({"mean with the mirror image": flip} if flip else {})
    lines = [
        f"# {results['checkpoint']} on {results['data']}, {results['split']}",
        "",
        f"{results['images']:,} images, {results['dtype']}, {results['hardware']}.",
        "",
        "| |" + "".join(f" {name} |" for name in columns),
        "|---|" + "---:|" * len(columns),
    ]
    for key in results:
        if key == "loss":
            lines.append("| cross-entropy, nats |" + "".join(f" {column[key]:.4f} |" for column in columns.values()))
        elif key.endswith("accuracy") or key == "expected_calibration_error":
            name = key.replace("_", " ").replace("top ", "top-")
            lines.append(f"| {name} |" + "".join(f" {_percent(column[key])} |" for column in columns.values()))
    lines += [
        "",
        f"Calibration error: {_DEFINITION}.",
        "",
        "![confusion matrix](confusion_matrix.png) ![reliability](reliability.png)",
        "",
        "| class | precision | recall | F1 | images |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in classes:
        cells = [row["name"].replace("|", "\\|"), *(_percent(row[score]) for score in ("precision", "recall", "f1"))]
        lines.append(f"| {' | '.join(cells)} | {row['images']:,} |")
    return "\n".join(lines) + "\n"


def draw_confusions(matrix: np.ndarray, names: list[str], picture: Path):
    """The matrix with every row scaled to its number of images, as a PNG; numbers and names where they fit."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(names)
    side = max(5.0, min(10.0, 0.45 * count))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    # The square root of the share: in a good model confusions are rare, and are what one looks for.
    image = axes.imshow(shares, norm=PowerNorm(0.5, vmin=0, vmax=1), cmap="cividis")
    bar = figure.colorbar(image, ax=axes, label="share of the images of the true class", shrink=0.8)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set(xlabel="predicted class", ylabel="true class")
    if count <= _MOST_NAMES:
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
    if count <= _MOST_NUMBERS:
        for row, column in np.argwhere(matrix):
            share = shares[row, column]
            colour = "black" if share > 0.25 else "white"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(picture, dpi=150, bbox_inches="tight")


def draw_reliability(calibration: Calibration, picture: Path):
    """Accuracy against confidence above, where images are below, as a PNG."""
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
    upper.set(ylabel="accuracy", title=f"expected calibration error {_percent(calibration.error)}")
    upper.legend(frameon=False, loc="upper left")
    lower.bar(edges, calibration.counts / calibration.counts.sum(), **style)
    lower.set(xlabel=f"confidence, in {BINS} bins", ylabel="images", xlim=(0, 1))
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=150)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"
