"""Pictures of accuracies with error bars, the same for all experiments."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.looking.style import BLUE, tidy
from lab.study.comparison import spread

ACCURACY = "validation accuracy (%)"


def new_figure(columns: int, width: float = 3.6, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of panels that share their vertical axis, each `width` by `height` inches."""
    figure = Figure(figsize=(max(width * columns, 5.0), height), layout="constrained")
    panels = list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])
    tidy(*panels)
    return figure, panels


def draw_accuracies(
    axes: Axes, groups: dict, colour: str = BLUE, marker: str = "o", label: str | None = None, line: bool = True
):
    """Draw mean and standard deviation over seeds for each of the groups, evenly spaced, and the seeds as pale dots.

    Args:
        groups: accuracies from 0 to 1 by name.
        line: join the means with a line, if the names are steps of a quantity.
    """
    places = np.arange(len(groups))
    for place, values in zip(places, groups.values(), strict=True):
        axes.plot([place] * len(values), 100 * np.array(values), ".", color=colour, alpha=0.35, zorder=1)
    means = [100 * np.mean(values) for values in groups.values()]
    errors = [100 * spread(values) for values in groups.values()]
    style = f"{marker}-" if line else marker
    axes.errorbar(places, means, errors, fmt=style, color=colour, capsize=3, markersize=5, label=label, zorder=2)
    axes.set_xticks(places, [str(name) for name in groups])
    axes.set_xlim(-0.5, len(groups) - 0.5)
