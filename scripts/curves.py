"""A picture of a training run from its `metrics.jsonl`."""

import json
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (after the choice of a backend without a screen)


# Blue and orange of Okabe and Ito's palette, which colour-blind readers tell apart; markers differ as well.
_TRAIN, _VALIDATION = "#0072B2", "#D55E00"


def read_metrics(path: Path) -> tuple[list[dict], list[dict]]:
    """The lines of logged steps, and those of epochs."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"], [line for line in lines if line["kind"] == "epoch"]


def draw_curves(metrics: Path, picture: Path, title: str):
    """Losses on the left, validation accuracy with its best epoch on the right, both against epochs, as a PNG."""
    steps, epochs = read_metrics(metrics)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    number = [line["epoch"] for line in epochs]
    left.plot([line["epoch"] for line in steps], [line["loss"] for line in steps], color=_TRAIN, label="training")
    losses = [line["validation_loss"] for line in epochs]
    left.plot(number, losses, color=_VALIDATION, marker="o", markersize=3, label="validation")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    left.legend(frameon=False)
    accuracy = [100 * line["validation_accuracy"] for line in epochs]
    right.plot(number, accuracy, color=_VALIDATION, marker="o", markersize=3)
    best = max(epochs, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    right.axvline(best["epoch"], color="0.6", linestyle=":")
    label = f"best: {100 * best['validation_accuracy']:.2f} % after epoch {best['epoch']}"
    right.set(xlabel="epoch", ylabel="validation accuracy (%)", title=label)
    left.set_title(title)
    for axes in (left, right):
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=150)
    plt.close(figure)
