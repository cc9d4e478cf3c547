"""Samples of any kind with answers to them, in one picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lab.looking.style import BLUE, ORANGE, save
from lab.looking.view import View

_RIGHT, _WRONG = BLUE, ORANGE


def draw_samples(
    views: Sequence[View], answers: Sequence[tuple[str, bool]], picture: Path, columns: int = 6, width: float = 2.0
):
    """Draw a grid of samples, each below its answer.

    Args:
        answers: the text above each sample, and whether the answer is right.
        width: of each sample, in inches.
    """
    columns = min(columns, len(views))
    rows = -(-len(views) // columns)
    lines = max(text.count("\n") + 1 for text, _ in answers)
    figure = Figure(figsize=(width * columns, (width + 0.125 * lines) * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, view, (text, right) in zip(grid, views, answers, strict=False):
        view.draw(axes)
        axes.set_title(text, color=_RIGHT if right else _WRONG, fontsize=9, parse_math=False)
    save(figure, picture, dpi=100)
