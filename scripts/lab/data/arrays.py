"""Samples that are arrays in memory."""

import numpy as np
import torch
from torch.utils.data import Dataset


class ArrayDataset(Dataset):
    """Arrays with a row a sample, `labels` among them.

    Args:
        labels: `(n,)` or `(n, L)`.
        arrays: what else a batch has, by name.
    """

    in_memory = True  # so that no processes read ahead

    def __init__(self, labels: np.ndarray, **arrays: np.ndarray):
        self.labels, self.arrays = labels, arrays

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch, assembled, so that a data loader takes `default_convert` to collate."""
        arrays = {**self.arrays, "labels": self.labels}
        return {name: torch.from_numpy(array[rows]) for name, array in arrays.items()}
