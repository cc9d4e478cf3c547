"""Samples of several modalities, each decoded by its own decoder, any of which may be missing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lab.data.columns import is_missing
from lab.data.decoded_images import ImageDataset
from lab.data.decoding import BadInput, SampleDecoder
from lab.data.ragged import RaggedDataset
from lab.data.splits import Rows
from lab.recipe import Data
from modeling_perceiver_study.video_reading import MissingStream

Sample = dict[str, np.ndarray]  # what a sample has, by modality


class SeveralDataset(Dataset):
    """Samples in memory, with labels `(n,)` int64 or `(n, L)` float32.

    Args:
        parts: of each modality the samples, with a stand-in where it is missing.
        there: `(n,)` bool for each, where it is not.
    """

    in_memory = True

    def __init__(
        self, parts: Mapping[str, RaggedDataset | ImageDataset], there: Mapping[str, np.ndarray], labels: np.ndarray
    ):
        self.parts, self.there, self.labels = dict(parts), dict(there), labels

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, row: int) -> Sample:
        """One sample as it is."""
        return {
            name: part.sample(row) if hasattr(part, "sample") else part.pixels[row]
            for name, part in self.parts.items()
            if self.there[name][row]
        }

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch: what the dataset of each modality gives, its name before it; `NAME.there`; and `labels`."""
        batch = {}
        for name, part in self.parts.items():
            batch |= _named(name, part.__getitems__(rows), self.there[name][rows])
        return {**batch, "labels": torch.from_numpy(self.labels[rows])}


class SeveralDecoder(SampleDecoder):
    """A row `-> {modality: its array}`, without those that it lacks.

    Args:
        decoders: of each modality.
        blanks: of each what stands in where it is missing; masks hide it.
        withheld: modalities that are left out of all samples.
    """

    sample, unusable = "sample", (ValueError,)  # a `BadInput`, or nothing at all

    def __init__(
        self,
        settings: Data,
        decoders: Mapping[str, SampleDecoder],
        blanks: Mapping[str, np.ndarray],
        withheld: Sequence[str] = (),
    ):
        super().__init__(settings)
        self.decoders, self.blanks, self.withheld = dict(decoders), dict(blanks), tuple(withheld)
        self.role = next(iter(decoders))  # whose path messages tell where no input is at fault by itself

    def look_at(self, inputs: dict[str, Sequence[Any]]):
        for name, decoder in self.decoders.items():
            decoder.look_at({decoder.role: [value for value in inputs[name] if not _is_empty(value)]})

    def decode_one(self, encoded: Any) -> Sample:
        raise NotImplementedError("a row holds several inputs: call decode_row")

    def decode_row(self, inputs: dict[str, Any], *place: int) -> Sample:
        sample = {}
        for name, decoder in self.decoders.items():
            if name not in self.withheld and not _is_empty(inputs[name]):
                try:
                    sample[name] = decoder.decode_row({decoder.role: inputs[name]}, *place)
                except MissingStream:  # one file may be that of several modalities
                    continue
                except decoder.unusable as error:
                    raise BadInput(name, inputs[name], error) from error
        if not sample:
            raise ValueError(f"it has none of {', '.join(self.decoders)}")
        return sample

    def decode(self, of: Rows) -> SeveralDataset:
        """The samples of some rows. Errors as those of `usable`."""
        return self.joined(*self.usable(of))

    def joined(self, samples: Sequence[Sample], labels: np.ndarray) -> SeveralDataset:
        parts = {
            name: self.decoders[name].joined([sample.get(name, blank) for sample in samples], labels)
            for name, blank in self.blanks.items()
        }
        there = {name: np.array([name in sample for sample in samples]) for name in parts}
        return SeveralDataset(parts, there, labels)

    def batch(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        batch = {}
        for name, blank in self.blanks.items():
            made = self.decoders[name].batch([sample.get(name, blank) for sample in samples])
            batch |= _named(name, made, np.array([name in sample for sample in samples]))
        return batch


def part_of(batch: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """What a batch holds of one modality, as its own dataset gives it, labels included."""
    prefix = f"{name}."
    own = {key.removeprefix(prefix): value for key, value in batch.items() if key.startswith(prefix)}
    return {**own, "labels": batch["labels"]}


def _is_empty(value: Any) -> bool:
    """Whether a row holds nothing, or a list or a text without anything in it."""
    return is_missing(value) or (hasattr(value, "__len__") and len(value) == 0)


def _named(name: str, made: dict[str, torch.Tensor], there: np.ndarray) -> dict[str, torch.Tensor]:
    own = {f"{name}.{key}": value for key, value in made.items() if key != "labels"}
    return {**own, f"{name}.there": torch.from_numpy(there)}
