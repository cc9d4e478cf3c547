"""Samples of different lengths in memory, such as recordings and clouds of points; a batch is padded to its longest."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from lab.augment.padding import padded
from lab.data.decoding import SampleDecoder
from lab.data.splits import Rows


class RaggedDataset(Dataset):
    """Samples `(l_i, ..)`, one behind the other, with labels `(n,)` int64 or `(n, L)` float32.

    Args:
        samples: at least one.
    """

    in_memory = True  # so that no processes read ahead

    def __init__(self, samples: Sequence[np.ndarray], labels: np.ndarray):
        self.values = np.concatenate(samples)
        self.lengths = np.array([len(sample) for sample in samples])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, row: int) -> np.ndarray:
        """`(l, ..)`: one sample as it is."""
        return self.values[self.starts[row] : self.starts[row] + self.lengths[row]]

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch: `values` `(b, longest, ..)`, padded with zeros, `lengths` `(b,)`, and `labels`."""
        return {**padded([self.sample(row) for row in rows]), "labels": torch.from_numpy(self.labels[rows])}


class RaggedDecoder(SampleDecoder):
    """What a row holds `-> (l, ..)`, all of one dtype and of one shape but for their lengths."""

    def decode(self, of: Rows) -> RaggedDataset:
        """The samples of some rows. Errors as those of `usable`."""
        return self.joined(*self.usable(of))

    def joined(self, samples: Sequence[np.ndarray], labels: np.ndarray) -> RaggedDataset:
        return RaggedDataset(samples, labels)

    def batch(self, samples: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        return padded(samples)
