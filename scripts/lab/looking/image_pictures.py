"""Pictures of attention maps on images, for model cards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from lab.looking.image_view import ImageView
from lab.looking.maps import cross_attention_maps, draw_map_lines, evenly_chosen, mean_and_single
from lab.looking.style import save


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
