"""Texts as ids of bytes: rows of tables, lines of files, or pieces of one long text."""

import hashlib
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch

from lab.data.columns import Column
from lab.data.held_out import VALIDATION
from lab.data.ragged import RaggedDataset, RaggedDecoder
from lab.data.sources import Reading, Source, load_named_sources, load_sources
from lab.data.splits import all_rows
from lab.data.stratified import stratified_order
from lab.errors import UserError
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyTokenizer


def _is_text(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


TEXT = Column("text", "text", _is_text, _is_text)


class TextDataset(RaggedDataset):
    """Ids `(l_i,)` int16 of texts, without `[CLS]` and `[SEP]`; a batch says too which rows it holds."""

    in_buckets = True  # batches are of texts of about the same length

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        return {**super().__getitems__(rows), "rows": torch.tensor(rows)}

    def fingerprint(self) -> str:
        """A checksum of all texts, in order."""
        checksum = hashlib.sha256(self.lengths.tobytes())
        checksum.update(self.values.tobytes())
        return checksum.hexdigest()


class TextDecoder(RaggedDecoder):
    """A text `-> (l,)` int16. No text at all is not a sample, unless `may_be_empty`."""

    role, sample, unusable = TEXT.role, "text", (ValueError,)

    def __init__(self, settings: Data, tokenizer: PerceiverStudyTokenizer, may_be_empty: bool = False):
        super().__init__(settings)
        self.tokenizer, self.may_be_empty = tokenizer, may_be_empty

    def decode_one(self, encoded: Any) -> np.ndarray:
        if not isinstance(encoded, str):
            raise ValueError(f"it is {type(encoded).__name__}, expected a text")
        if not encoded and not self.may_be_empty:
            raise ValueError("it is empty")
        (ids,) = self.tokenizer([encoded], add_special_tokens=False, verbose=False)["input_ids"]
        return np.array(ids, np.int16)

    def joined(self, samples: Sequence[np.ndarray], labels: np.ndarray) -> TextDataset:
        return TextDataset(samples, labels)


def pieces_of(texts: Sequence[np.ndarray], newline: int, length: int) -> TextDataset:
    """Texts with a newline behind each, one after the other, cut into pieces of this length, but for the last."""
    joined = np.concatenate([part for text in texts for part in (text, np.array([newline], np.int16))])
    pieces = [joined[first : first + length] for first in range(0, len(joined), length)]
    return TextDataset(pieces, np.zeros(len(pieces), np.int64))


def choose_pieces(
    reading: Reading, decoder: TextDecoder, newline: int, length: int
) -> tuple[TextDataset, TextDataset | None, TextDataset | None]:
    """Pieces to train on, and to validate and to test on where wanted: the train split's less some, these, the rest.

    Raises:
        UserError: there are too few.
    """
    settings = reading.settings

    def pieces(source: Source) -> TextDataset:
        return pieces_of(decoder.usable(all_rows(source))[0], newline, length)

    train, *tests = map(pieces, load_sources(reading))
    held, wanted = 0 if settings.validate_on else settings.validation_samples, settings.train_samples
    wanted = len(train) - held if wanted is None else wanted
    if not 1 <= wanted <= len(train) - held:
        raise UserError(
            f"{reading.describe(settings.train_split)} makes {len(train)} pieces of {length} bytes: "
            f"data.validation_samples={held} leaves {max(0, len(train) - held)} to train on, but {max(wanted, 1)} are "
            "needed"
        )
    order = stratified_order(train.labels, settings.split_seed)
    validation = _some(train, np.sort(order[:held])) if held else None
    if settings.validate_on:
        validation = pieces(*load_named_sources(reading, {"data.validate_on": VALIDATION}))
    return _some(train, np.sort(order[held : held + wanted])), validation, tests[0] if tests else None


def _some(dataset: TextDataset, rows: np.ndarray) -> TextDataset:
    return TextDataset([dataset.sample(row) for row in rows], dataset.labels[rows])
