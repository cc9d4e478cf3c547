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

from lab.errors import UserError, require_file
from lab.looking.view import COLOURS, View, as_image

FIRST_BYTE = 6  # id of the byte 0; an app on the Hub has no package beside it to ask

_MASKED = "\N{WHITE SQUARE}"
_LINE, _MOST_LINES = 24, 6  # characters of a line, and lines that small pictures have room for


class TextView(View):
    """A text as the model sees it.

    Args:
        characters: of the text; `[` and `]` stand for the tokens before and behind it, a box for a masked byte.
        owners: `(M,)`, which of the characters each id is a byte of.
    """

    task, sample, processor, examples = "text-classification", "text", "tokenizer", "*.txt"
    models, processors = ("PerceiverStudyForSequenceClassification",), ("PerceiverStudyTokenizer",)
    settings = {"truncation": True}
    given_as = "text"

    def __init__(self, characters: list[str], owners: np.ndarray):
        self.characters, self.owners = characters, owners

    @classmethod
    def read(cls, path: Path, processor: Any) -> str:
        """The text, cut to what the model takes."""
        require_file(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a readable text in UTF-8: {error}") from None
        return cls._checked(text.removesuffix("\n"), processor, str(path))

    @classmethod
    def take(cls, given: dict[str, str], processor: Any) -> str:
        return cls._checked(given[cls.sample], processor, "The text")

    @classmethod
    def give(cls, path: Path) -> str:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n")

    @classmethod
    def _checked(cls, text: str, processor: Any, name: str) -> str:
        """The text, cut between characters to what the model takes."""
        if not text:
            raise UserError(f"{name} is empty: expected a text")
        most = processor.model_max_length
        if len(processor(text)["input_ids"]) <= most:
            return text
        offsets = processor(text, truncation=True, return_offsets_mapping=True)["offset_mapping"]
        text = text[: offsets[-2][1]]  # before [SEP]
        # Of the last character there may have been room for some bytes only.
        return text if len(processor(text)["input_ids"]) <= most else text[: offsets[-2][0]]

    @classmethod
    def of(cls, processor: Any, config: PreTrainedConfig, sample: str) -> "TextView":
        found = processor(sample, return_offsets_mapping=True, truncation=True)
        characters, owners, last = ["["], [0], None
        for first, end in found["offset_mapping"][1:-1]:
            if (first, end) != last:
                character = sample[first:end]
                characters.append(_MASKED if character == processor.mask_token else character)
                last = (first, end)
            owners.append(len(characters) - 1)
        return cls([*characters, "]"], np.array([*owners, len(characters)]))

    @classmethod
    def fits(cls, config: PreTrainedConfig) -> bool:
        return config.input_type == "bytes"

    @classmethod
    def example(cls, config: PreTrainedConfig, count: int, length: int | None = None) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(count)
        length = length or config.max_position_embeddings
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
        width = 40
        lines = -(-len(self.characters) // width)
        figure = Figure(figsize=(6, 0.2 + 0.3 * lines), layout="constrained")
        axes = figure.subplots()
        self._write(axes, width, self._of_characters(weights), size=11.0)
        axes.set_axis_off()
        return as_image(figure)


def _shown(token: int) -> str:
    """A byte as people read it; one that is no character by itself as a number."""
    byte = token - FIRST_BYTE
    return repr(chr(byte)) if 32 <= byte < 127 else f"{byte:#04x}" if byte >= 0 else f"token {token}"


class MaskedView(TextView):
    """A text some of whose bytes are `[MASK]`."""

    task, models = "fill-mask", ("PerceiverStudyForMaskedLM",)
    settings = {"tokenizer_kwargs": {"truncation": True}}

    @classmethod
    def _checked(cls, text: str, processor: Any, name: str) -> str:
        mask = processor.mask_token
        if mask not in text:
            raise UserError(f"{name} holds no {mask}: expected a text with some bytes masked")
        text = super()._checked(text, processor, name)
        if mask not in text:
            raise UserError(
                f"{name} has its first {mask} behind what the model takes, {processor.model_max_length - 2} bytes: "
                "expected one within"
            )
        return text

    @classmethod
    def named(cls, predictions: list) -> list[tuple[str, float]]:
        """The likeliest bytes for each masked one, in their order."""
        return [
            (f"byte {number}: {_shown(prediction['token'])}", prediction["score"])
            for number, of_byte in enumerate(_of_each(predictions), 1)
            for prediction in of_byte
        ]

    @classmethod
    def purpose(cls, config: PreTrainedConfig) -> str:
        return "Give a text with [MASK] in place of some bytes, one for each, and see which they are."

    @classmethod
    def told(cls, processor: Any, sample: str, predictions: list) -> str:
        """The text with the likeliest bytes in place of those that were masked."""
        first, *others = sample.split(processor.mask_token)
        likeliest = [answers[0]["token"] for answers in _of_each(predictions)]
        filled = first.encode()
        for token, text in zip(likeliest, others, strict=True):
            filled += bytes([token - FIRST_BYTE] if token >= FIRST_BYTE else b"?") + text.encode()
        return filled.decode(errors="replace")


def _of_each(predictions: list) -> list[list[dict[str, Any]]]:
    """Answers for each masked byte, which are not a list of lists where there is one."""
    return predictions if isinstance(predictions[0], list) else [predictions]
