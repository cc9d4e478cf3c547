"""How texts, and attention on their bytes, are drawn: as words on lines, over the colours of their bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image
from transformers import PreTrainedConfig

from lab.errors import UserError
from lab.looking.view import COLOURS, View, as_image

FIRST_BYTE = 6  # id of the byte 0; an app on the Hub has no package beside it to ask

_EXAMPLE_BYTES = 32
_LINE, _MOST_LINES = 24, 6  # characters of a line, and lines that small pictures have room for


class TextView(View):
    """A text as the model sees it.

    Args:
        characters: of the text; `[` and `]` stand for the tokens before and behind it.
        owners: `(M,)`, which of the characters each id is a byte of.
    """

    task, sample, processor, examples = "text-classification", "text", "tokenizer", "*.txt"
    settings = {"truncation": True}

    def __init__(self, characters: list[str], owners: np.ndarray):
        self.characters, self.owners = characters, owners

    @classmethod
    def read(cls, path: Path, processor: Any) -> str:
        """The text, cut to what the model takes."""
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a readable text in UTF-8: {error}") from None
        text = text.removesuffix("\n")
        if not text:
            raise UserError(f"{path} is empty: expected a text")
        return text.encode()[: processor.model_max_length - 2].decode(errors="ignore")

    @classmethod
    def of(cls, processor: Any, config: PreTrainedConfig, sample: str) -> "TextView":
        found = processor(sample, return_offsets_mapping=True, truncation=True)
        characters, owners, last = ["["], [0], None
        for first, end in found["offset_mapping"][1:-1]:
            if (first, end) != last:
                characters.append(sample[first:end])
                last = (first, end)
            owners.append(len(characters) - 1)
        return cls([*characters, "]"], np.array([*owners, len(characters)]))

    @classmethod
    def example(cls, config: PreTrainedConfig, count: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(count)
        length = min(_EXAMPLE_BYTES, config.max_position_embeddings)
        ids = torch.randint(6, config.vocab_size, (count, length), generator=generator)
        lengths = torch.randint(1, length + 1, (count, 1), generator=generator)
        return {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths).long()}

    @property
    def count(self) -> int:
        return len(self.owners)

    def draw(self, axes: Any):
        self._write(axes, _LINE, None)

    def paint(self, axes: Any, weights: np.ndarray, lowest: float | None = 0.0):
        """Each character on the colour of its bytes' weights, which are added up."""
        self._write(axes, _LINE, self._of_characters(weights), lowest)

    def _of_characters(self, weights: np.ndarray) -> np.ndarray:
        """`(M,) -> (characters,)`"""
        return np.bincount(self.owners, np.ravel(weights), minlength=len(self.characters))

    def _write(self, axes: Any, width: int, values: np.ndarray | None, lowest: float | None = 0.0, size: float = 5.0):
        """Characters on a grid of lines of `width`; only as many lines as there is room for, where it is small."""
        lines = max(1, -(-len(self.characters) // width))
        lines = min(lines, _MOST_LINES) if width == _LINE else lines
        shown = self.characters[: lines * width]
        if values is not None:
            grid = np.full(lines * width, np.nan)
            grid[: len(shown)] = values[: len(shown)]
            low = np.nanmin(values) if lowest is None else lowest
            scale = Normalize(low, max(float(np.nanmax(values)), low + 1e-12))
            axes.imshow(
                grid.reshape(lines, width), cmap=COLOURS, norm=scale, aspect="auto", extent=(0, width, lines, 0)
            )
        for place, character in enumerate(shown):
            dark = values is not None and sum(colormaps[COLOURS](scale(values[place]))[:3]) < 1.5
            axes.text(
                place % width + 0.5,
                place // width + 0.5,
                character if character.isprintable() else " ",
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark else "black",
                parse_math=False,
            )
        axes.set(xlim=(0, width), ylim=(lines, 0))

    def overlay(self, weights: np.ndarray) -> Image.Image:
        """The whole text on the colours of its weights."""
        width = 48
        lines = -(-len(self.characters) // width)
        figure = Figure(figsize=(8, 0.4 + 0.3 * lines), layout="constrained")
        axes = figure.subplots()
        self._write(axes, width, self._of_characters(weights), size=9.0)
        axes.set_axis_off()
        return as_image(figure)


def _shown(token: int) -> str:
    """A byte as people read it; one that is no character by itself as a number."""
    byte = token - FIRST_BYTE
    return repr(chr(byte)) if 32 <= byte < 127 else f"{byte:#04x}" if byte >= 0 else f"token {token}"


class MaskedView(TextView):
    """A text some of whose bytes are `[MASK]`."""

    task = "fill-mask"
    settings = {"tokenizer_kwargs": {"truncation": True}}

    @classmethod
    def read(cls, path: Path, processor: Any) -> str:
        text = super().read(path, processor)
        if processor.mask_token not in text:
            raise UserError(f"{path} holds no {processor.mask_token}: expected a text with some bytes masked")
        return text

    @classmethod
    def named(cls, predictions: list) -> list[tuple[str, float]]:
        """The likeliest bytes for each masked one, in their order."""
        several = predictions if isinstance(predictions[0], list) else [predictions]
        return [
            (f"byte {number}: {_shown(prediction['token'])}", prediction["score"])
            for number, of_byte in enumerate(several, 1)
            for prediction in of_byte
        ]
