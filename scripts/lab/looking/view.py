"""What the commands that look at one sample need to know of its kind: how to read a file, and how to draw on it.

A kind of input has a view of its own beside this file, and a line in views.py. Nothing here needs `datasets`, so that a
Space on the Hub gets by with a few files.
"""

import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from transformers import PreTrainedConfig

from lab.errors import UserError

COLOURS = "cividis"  # of attention


def read_with(processor: Any, path: Path, what: str) -> Any:
    """What a processor reads of a file; a `UserError` that calls it `what` where there is none, or it is another."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return processor.read(path)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{path} is not a readable {what}: {error}") from None


def as_image(figure: Figure) -> Image.Image:
    """A figure as pixels."""
    file = io.BytesIO()
    figure.savefig(file, dpi=100)
    return Image.open(file).convert("RGB")


class View(ABC):
    """One sample as a model sees it.

    Attributes:
        task: name of the pipeline.
        sample: what a sample is called.
        processor: attribute of the pipeline that holds what makes the model's arguments.
        examples: endings of the files that publish.py puts beside the weights.
        settings: further arguments of the pipeline.
    """

    task: ClassVar[str]
    sample: ClassVar[str]
    processor: ClassVar[str] = "feature_extractor"
    examples: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}

    @classmethod
    @abstractmethod
    def read(cls, path: Path, processor: Any) -> Any:
        """What pipeline, processor and `of` take, from a file; a missing or unreadable one is a `UserError`."""

    @classmethod
    @abstractmethod
    def of(cls, processor: Any, config: PreTrainedConfig, sample: Any) -> "View":
        """The view of what `read` returned."""

    @classmethod
    @abstractmethod
    def example(cls, config: PreTrainedConfig, count: int) -> dict[str, torch.Tensor]:
        """Random arguments of a model for `count` samples, always the same, to compare programs with."""

    @classmethod
    def named(cls, predictions: list) -> list[tuple[str, float]]:
        """Names and scores, of what the pipeline answers to a sample."""
        return [(prediction["label"], prediction["score"]) for prediction in predictions]

    @property
    @abstractmethod
    def count(self) -> int:
        """`M`, elements that the model attends to."""

    @abstractmethod
    def draw(self, axes: Any):
        """Draw the sample on matplotlib axes."""

    @abstractmethod
    def paint(self, axes: Any, weights: np.ndarray, lowest: float | None = 0.0):
        """Draw attention weights, or logits, `(M,)` or in the shape of the grid that latents attend to.

        Args:
            lowest: what the darkest colour is; None is the lowest of them.
        """

    @abstractmethod
    def overlay(self, weights: np.ndarray) -> Image.Image:
        """A picture of the weights `(M,)` on the sample, for the page."""
