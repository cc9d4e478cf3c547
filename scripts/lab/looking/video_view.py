"""How clips, and attention on them, are drawn: as strips of pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from transformers import PreTrainedConfig

from lab.looking.image_view import displayed
from lab.looking.view import COLOURS, View, as_image, read_with

_SHOWN, _COLUMNS = 6, 3  # frames in a small picture
_STRIP = 8  # frames on the page


class VideoView(View):
    """A clip as the model sees it.

    Args:
        frames: `(T, C, H, W)` from 0 to 255.
        grid: `[T', H', W']` of what latents attend to.
        steps: frames and pixels from one point of it to the next.
    """

    task, sample, processor, examples = "video-classification", "clip", "image_processor", "*.gif"
    models, processors = ("PerceiverStudyForVideoClassification",), ("PerceiverStudyVideoProcessor",)

    def __init__(self, frames: np.ndarray, grid: list[int], steps: list[int]):
        self.frames, self.grid, self.steps = frames, grid, steps

    @classmethod
    def read(cls, path: Path, processor: Any) -> np.ndarray:
        """`(T, H, W, C)`: the frames that are looked at, as they are in the file."""
        return np.stack(read_with(processor, path, "clip"))

    @classmethod
    def of(cls, processor: Any, config: PreTrainedConfig, sample: np.ndarray) -> "VideoView":
        frames = processor.process_clip(sample)
        return cls(frames, config.attended_sizes([len(frames), *frames.shape[2:]]), config.attended_steps)

    @classmethod
    def fits(cls, config: PreTrainedConfig) -> bool:
        return config.input_type == "grid" and config.num_axes == 3

    @classmethod
    def example(cls, config: PreTrainedConfig, count: int, length: int | None = None) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(count)
        frames, height, width = config.grid
        values = torch.randn(count, frames, config.num_channels, height, width, generator=generator)
        lengths = torch.randint(1, frames + 1, (count, 1), generator=generator)
        return {"pixel_values": values, "attention_mask": (torch.arange(frames) < lengths).long()}

    @property
    def count(self) -> int:
        return int(np.prod(self.grid))

    def draw(self, axes: Any):
        axes.imshow(_joined(self._pictures(_SHOWN), _COLUMNS), cmap="gray", vmin=0, vmax=255)

    def paint(self, axes: Any, weights: np.ndarray, lowest: float | None = 0.0):
        axes.imshow(_joined(self._maps(weights, _SHOWN), _COLUMNS), cmap=COLOURS, vmin=lowest)

    def overlay(self, weights: np.ndarray) -> Image.Image:
        """Some frames in a row above, and the weights in colour over them below."""
        maps = np.stack(self._maps(weights, _STRIP))
        colours = colormaps["viridis"](maps / max(maps.max(), 1e-12))[..., :3]
        pictures = np.stack(self._pictures(_STRIP))
        grey = pictures if pictures.ndim == 3 else pictures.mean(axis=-1)
        blended = 0.4 * grey[..., None] / 255 + 0.6 * colours
        figure = Figure(figsize=(1.4 * len(maps), 2.6), layout="constrained")
        upper, lower = figure.subplots(2, 1)
        upper.imshow(_joined(list(pictures), len(maps)), cmap="gray", vmin=0, vmax=255)
        lower.imshow(_joined(list(blended), len(maps)))
        for axes in (upper, lower):
            axes.set_axis_off()
        return as_image(figure)

    def _chosen(self, count: int) -> np.ndarray:
        return np.unique(np.linspace(0, len(self.frames) - 1, count).round().astype(int))

    def _pictures(self, count: int) -> list[np.ndarray]:
        return [displayed(self.frames[index]).round().astype(np.uint8) for index in self._chosen(count)]

    def _maps(self, weights: np.ndarray, count: int) -> list[np.ndarray]:
        """`(H, W)` for each of some frames: the weights of the patches, or points behind a stem, that they are in."""
        weights, sizes = weights.reshape(self.grid), (len(self.frames), *self.frames.shape[2:])
        places = [
            np.minimum(np.arange(size) // step, points - 1)
            for size, step, points in zip(sizes, self.steps, self.grid, strict=True)
        ]
        whole = weights[np.ix_(*places)]
        return [whole[index] for index in self._chosen(count)]


def _joined(pictures: list[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size as one, in lines of so many; what is missing in the last line is black, or 0."""
    lines = []
    for start in range(0, len(pictures), columns):
        line = pictures[start : start + columns]
        line += [np.zeros_like(pictures[0])] * (min(columns, len(pictures)) - len(line))
        lines.append(np.concatenate(line, axis=1))
    return np.concatenate(lines, axis=0)
