"""How images, and attention on them, are drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from transformers import PreTrainedConfig

from lab.data.images import open_image, seen_pixels
from lab.looking.view import COLOURS, View

_SHOWN_SIZE = 384  # pixels of the shorter side of an overlay


class ImageView(View):
    """`(C, H, W)` uint8, and the grid `[H', W']` of what latents attend to.

    Args:
        grid: None is that of the pixels.
    """

    task, sample, processor, examples = "image-classification", "image", "image_processor", "*.png"
    models, processors = ("PerceiverStudyForImageClassification",), ("PerceiverStudyImageProcessor",)
    given_as = "image"

    def __init__(self, pixels: np.ndarray, grid: list[int] | None = None):
        self.pixels = pixels
        self.grid = list(pixels.shape[1:]) if grid is None else grid

    @classmethod
    def read(cls, path: Path, processor: Any) -> Image.Image:
        return open_image(path)

    @classmethod
    def of(cls, processor: Any, config: PreTrainedConfig, sample: Image.Image) -> "ImageView":
        pixels = seen_pixels(processor, sample)
        return cls(pixels, config.attended_sizes(pixels.shape[1:]))

    @classmethod
    def fits(cls, config: PreTrainedConfig) -> bool:
        return config.input_type == "grid" and config.num_axes == 2 and config.input_name != "input_values"

    @classmethod
    def example(cls, config: PreTrainedConfig, count: int, length: int | None = None) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(count)
        return {"pixel_values": torch.randn(count, config.num_channels, *config.grid, generator=generator)}

    @property
    def count(self) -> int:
        return int(np.prod(self.grid))

    def draw(self, axes: Any):
        axes.imshow(displayed(self.pixels), cmap="gray", vmin=0, vmax=255)

    def paint(self, axes: Any, weights: np.ndarray, lowest: float | None = 0.0):
        axes.imshow(weights.reshape(self.grid), cmap=COLOURS, vmin=lowest)

    def overlay(self, weights: np.ndarray) -> Image.Image:
        """The weights in colour over the image in grey."""
        pixels, weights = self.pixels, weights.reshape(self.grid)
        grey = Image.fromarray(displayed(pixels)).convert("L")
        scale = max(1, _SHOWN_SIZE // min(grey.size))
        size = (scale * grey.width, scale * grey.height)
        colours = Image.fromarray(colormaps["viridis"](weights / weights.max(), bytes=True)).convert("RGB")
        nearest = Image.Resampling.NEAREST
        return Image.blend(grey.convert("RGB").resize(size, nearest), colours.resize(size, nearest), 0.6)


def displayed(pixels: np.ndarray) -> np.ndarray:
    """`(C, H, W) -> (H, W)` or `(H, W, 3)`: arrange pixels for a picture; without 3 channels take the first."""
    return pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
