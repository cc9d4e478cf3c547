"""How clouds of points, and attention on them, are drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from transformers import PreTrainedConfig

from lab.errors import UserError
from lab.looking.style import ORANGE, YELLOW
from lab.looking.view import View, as_image, read_with

# Points lie on white, so the lowest colour is a light one.
_COLOURS = LinearSegmentedColormap.from_list("attention to points", ["0.87", YELLOW, ORANGE, "#4d1a00"])
_GROWTH = 6  # how many times larger the point of the highest weight is

# From where clouds of three coordinates are seen, in degrees: around the third axis, and above the plane of the others.
_AROUND, _ABOVE = -50.0, 25.0
_EXAMPLE_POINTS = 1024


class PointsView(View):
    """A cloud as the model sees it.

    Args:
        points: `(M, A)`.
    """

    task, sample, examples = "point-cloud-classification", "cloud", "*.npy"
    models, processors = ("PerceiverStudyForPointCloudClassification",), ("PerceiverStudyPointCloudProcessor",)
    legend = "of points, pale is nowhere, brown most of all"

    def __init__(self, points: np.ndarray):
        self.points = points
        self.places, self.depths = projected(points)

    @classmethod
    def read(cls, path: Path, processor: Any) -> np.ndarray:
        """`(m, A + C)`"""
        cloud = read_with(processor, path, "cloud of points")
        if cloud.ndim != 2:  # which a pipeline may take for several clouds
            raise UserError(f"{path} has shape {cloud.shape}: expected one cloud, (points, {processor.num_columns})")
        return cloud

    @classmethod
    def of(cls, processor: Any, config: PreTrainedConfig, sample: np.ndarray) -> "PointsView":
        return cls(processor(sample[None], return_tensors="np")["points"][0])

    @classmethod
    def fits(cls, config: PreTrainedConfig) -> bool:
        return config.input_type == "points"

    @classmethod
    def example(cls, config: PreTrainedConfig, count: int, length: int | None = None) -> dict[str, torch.Tensor]:
        length = length or _EXAMPLE_POINTS
        generator = torch.Generator().manual_seed(count)
        points = torch.randn(count, length, config.num_axes, generator=generator) / 2
        arguments = {"points": points}
        if config.num_channels:
            shape = (count, length, config.num_channels)
            arguments["point_features"] = torch.randn(shape, generator=generator)
        lengths = torch.randint(1, length + 1, (count, 1), generator=generator)
        return arguments | {"attention_mask": (torch.arange(length) < lengths).long()}

    @property
    def count(self) -> int:
        return len(self.points)

    def draw(self, axes: Any):
        """Nearer points are darker."""
        order = np.argsort(self.depths, kind="stable")
        lowest = self.depths.min() - 0.5 * np.ptp(self.depths) - 1e-6  # so that the farthest is not white
        self._scatter(axes, order, self.depths, self._size, cmap="Greys", vmin=lowest)

    def paint(self, axes: Any, weights: np.ndarray, lowest: float | None = 0.0):
        """Each point in the colour of its weight; those of large weights are larger, and on top."""
        order = np.argsort(weights, kind="stable")
        low = weights.min() if lowest is None else lowest
        share = (weights - low) / max(weights.max() - low, 1e-12)
        sizes = self._size * (1 + (_GROWTH - 1) * share.clip(0, 1))
        self._scatter(axes, order, weights, sizes[order], cmap=_COLOURS, vmin=lowest)

    @property
    def _size(self) -> float:
        return max(2.0, 1500 / len(self.points))

    def _scatter(self, axes: Any, order: np.ndarray, values: np.ndarray, sizes: Any, **colours):
        x, y = self.places[order].T
        axes.scatter(x, y, c=values[order], s=sizes, linewidths=0, **colours)
        axes.set_aspect("equal", adjustable="datalim")

    def overlay(self, weights: np.ndarray) -> Image.Image:
        """The cloud in the colours of its weights."""
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.subplots()
        self.paint(axes, weights)
        axes.set_axis_off()
        return as_image(figure)


def projected(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(M, A) -> (M, 2), (M,)`: where points are in a picture, and how near; of more than 3 coordinates the first 3."""
    flat = np.zeros(len(points))
    if points.shape[1] < 3:
        return np.stack([points[:, 0], points[:, 1] if points.shape[1] == 2 else flat], axis=1), flat
    x, y, z = points[:, :3].T
    around, above = np.deg2rad(_AROUND), np.deg2rad(_ABOVE)
    across, towards = -np.sin(around) * x + np.cos(around) * y, np.cos(around) * x + np.sin(around) * y
    up, near = np.cos(above) * z - np.sin(above) * towards, np.cos(above) * towards + np.sin(above) * z
    return np.stack([across, up], axis=1), near
