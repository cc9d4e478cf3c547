"""The picture of the architecture in the README."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lab.looking.style import BLUE, GREEN, ORANGE, SKY, YELLOW

_WIDTH, _HEIGHT = 12.0, 4.6


def draw_architecture(picture: Path):
    """Draw inputs, cross-attends, latents, self-attends and answer from left to right, as a PNG."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(0, _HEIGHT))
    axes.set_axis_off()

    def box(x, y, width, height, colour, text, size=11):
        style = "round,pad=0.02,rounding_size=0.08"
        patch = FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="none", alpha=0.25)
        axes.add_patch(patch)
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)

    def arrow(start, end):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color="0.3"))

    box(0.3, 2.95, 11.4, 1.3, YELLOW, "")
    axes.text(6, 3.87, "inputs: any array of M elements, each with its position", ha="center", va="center", fontsize=12)
    axes.text(
        6,
        3.35,
        "pixels · sound samples · points in space · bytes, alone or several at once",
        ha="center",
        va="center",
        fontsize=11,
        color="0.25",
    )
    box(0.3, 0.45, 1.5, 1.1, SKY, "N latents\n(learned)")
    attends = ((2.5, "1"), (6.1, "2 … T"))
    for x, number in attends:
        box(x, 0.45, 1.35, 1.1, ORANGE, f"cross-attend\n{number}")
        box(x + 1.65, 0.45, 1.55, 1.1, BLUE, "self-attends\n× L")
        arrow((x + 0.68, 2.9), (x + 0.68, 1.62))
        arrow((x + 1.38, 1.0), (x + 1.63, 1.0))
        axes.text(x + 0.78, 2.25, "keys,\nvalues", fontsize=9, color="0.3", va="center")
    arrow((1.85, 1.0), (2.46, 1.0))
    axes.text(2.15, 1.13, "queries", fontsize=9, color="0.3", ha="center")
    arrow((5.74, 1.0), (6.06, 1.0))
    box(9.9, 0.45, 1.8, 1.1, GREEN, "mean, or\noutput queries")
    arrow((9.34, 1.0), (9.86, 1.0))
    arrow((10.8, 0.4), (10.8, 0.08))
    axes.text(10.95, 0.2, "answers", fontsize=10, va="center")
    axes.text(
        4.1,
        0.16,
        "cost: N·M for each cross-attend, N² for each self-attend; N is a few hundred, M may be a million",
        ha="center",
        va="center",
        fontsize=9.5,
        color="0.3",
    )
    figure.savefig(picture, dpi=110)
