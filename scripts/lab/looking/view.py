"""What the commands that look at one sample need to know of its kind: how to read a file, and how to draw on it.

A kind of input has a view of its own beside this file, and its name in `MultimodalView.kinds`. Nothing here needs
`datasets`, so that a Space on the Hub gets by with a few files.
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

from lab.errors import UserError, counted, require_file

COLOURS = "cividis"  # of attention


def read_with(processor: Any, path: Path, what: str) -> Any:
    """What a processor reads of a file; a `UserError` that calls it `what` where there is none, or it is another."""
    require_file(path)
    try:
        return processor.read(path)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{path} is not a readable {what}: {error}") from None


def answers_of(config: PreTrainedConfig) -> str:
    """What a model says of a sample."""
    if config.tasks is not None:
        asked = counted(len(config.tasks), "task asks", "tasks ask")
        return f"what {asked} of it: {', '.join(config.tasks)}"
    if config.problem_type == "regression":
        return "what its number is" if config.num_labels == 1 else f"what its {config.num_labels} numbers are"
    return f"which of {counted(config.num_labels, 'class', 'classes')} it is"


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
        models, processors: names of the classes of this package whose samples these are.
        examples: endings of the files that publish.py puts beside the weights.
        settings: further arguments of the pipeline.
        legend: what the colours of `overlay` mean.
        given_as: what a visitor of the page gives: an `image`, a `recording`, a `text`, or any other `file`.
    """

    task: ClassVar[str]
    sample: ClassVar[str]
    processor: ClassVar[str] = "feature_extractor"
    models: ClassVar[tuple[str, ...]] = ()
    processors: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    legend: ClassVar[str] = "dark is nowhere, yellow most of all"
    given_as: ClassVar[str] = "file"

    @classmethod
    @abstractmethod
    def read(cls, path: Path, processor: Any) -> Any:
        """What pipeline, processor and `of` take, from a file; a missing or unreadable one is a `UserError`."""

    @classmethod
    def files(cls, processor: Any) -> str:
        """What to name a command as a sample."""
        return "FILE"

    @classmethod
    @abstractmethod
    def of(cls, processor: Any, config: PreTrainedConfig, sample: Any) -> "View":
        """The view of what `read` returned."""

    @classmethod
    def part(cls, processor: Any, sample: Any) -> tuple[Any, str]:
        """What of a sample attention is drawn on, and its name: all, unless the model looks at it part by part."""
        return sample, cls.sample

    @classmethod
    @abstractmethod
    def example(cls, config: PreTrainedConfig, count: int, length: int | None = None) -> dict[str, torch.Tensor]:
        """Random arguments of a model for `count` samples, always the same, to compare programs with.

        Args:
            length: bytes of a text, or points of a cloud, of which the model does not say how many it takes; None is
                the most that it takes, and 1,024 points.
        """

    @classmethod
    def fits(cls, config: PreTrainedConfig) -> bool:
        """Whether the only input of this config is of this kind."""
        return False

    @classmethod
    def named(cls, predictions: list) -> list[tuple[str, float]]:
        """Names and scores, of what the pipeline answers to a sample."""
        return [(prediction["label"], prediction["score"]) for prediction in predictions]

    # On the page

    @classmethod
    def purpose(cls, config: PreTrainedConfig) -> str:
        """What visitors are to give, and what they see, in a sentence."""
        article = "an" if cls.sample[0] in "aeiou" else "a"
        return f"Give {article} {cls.sample} and see {answers_of(config)}."

    @classmethod
    def parts(cls, processor: Any) -> dict[str, "type[View]"]:
        """The views of what may be given for a sample, by what it is called: one thing, or several modalities."""
        return {cls.sample: cls}

    @classmethod
    def take(cls, given: dict[str, str], processor: Any) -> Any:
        """What `read` returns, of what was given for at least one of the `parts`: paths of files, or texts."""
        (path,) = given.values()
        return cls.read(Path(path), processor)

    @classmethod
    def give(cls, path: Path) -> str:
        """What a visitor would give in place of a file: its path, or the text in it."""
        return str(path)

    @classmethod
    def told(cls, processor: Any, sample: Any, predictions: list) -> str:
        """The answer in words, where it is more than names and scores."""
        return ""

    # As pictures

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
