"""Pictures of images with answers, and of attention maps on them, for model cards."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from lab.looking.image_view import ImageView
from lab.looking.maps import cross_attention_maps, draw_map_lines, evenly_chosen, mean_and_single
from lab.looking.style import BLUE, ORANGE, save

_RIGHT, _WRONG = BLUE, ORANGE
_COLUMNS = 8


def draw_predictions(pixels: np.ndarray, answers: Sequence[tuple[str, bool]], picture: Path):
    """Draw a grid of images, each below its answer.

    Args:
        pixels: `(n, C, H, W)` uint8.
        answers: the text above each image, and whether the answer is right.
    """
    rows = -(-len(pixels) // _COLUMNS)
    figure = Figure(figsize=(1.5 * _COLUMNS, 1.75 * rows), layout="constrained")
    grid = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, image, (text, right) in zip(grid, pixels, answers, strict=False):
        ImageView(image).draw(axes)
        axes.set_title(text, color=_RIGHT if right else _WRONG, fontsize=9, parse_math=False)
    save(figure, picture, dpi=100)


def draw_attention(
    model: PreTrainedModel, normalize: Callable[[torch.Tensor], torch.Tensor], pixels: np.ndarray, picture: Path
):
    """Draw maps of the last cross-attend on images `(n, C, H, W)`: the mean over latents, then some, heads averaged."""
    maps = cross_attention_maps(model, normalize(torch.from_numpy(pixels).to(model.device)))
    last = maps[-1].mean(dim=1).numpy()
    latents = evenly_chosen(last.shape[1])
    grid = list(last.shape[-2:])
    lines = [
        ("", ImageView(image, grid), mean_and_single(of_image, latents))
        for image, of_image in zip(pixels, last, strict=True)
    ]
    figure = draw_map_lines(lines, latents)
    figure.suptitle(f"attention weights, cross-attend {len(maps)} of {len(maps)}", fontsize=10)
    save(figure, picture, dpi=100)
