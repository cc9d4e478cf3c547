"""What all pictures share: colours, a grid behind what is drawn, and how they are written."""

import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers tell apart; markers differ as well.
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW)
MARKERS = "osv^Dx"


def save(figure: Figure, picture: Path, **options):
    """Write a figure as a PNG. Where the font lacks a character of some name there is a box, and no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        figure.savefig(picture, **options)


def tidy(*panels: Axes):
    """A light grid behind what is drawn, and no lines at the top and on the right."""
    for axes in panels:
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
