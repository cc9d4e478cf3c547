"""Samples of different lengths as one array."""

from collections.abc import Sequence

import numpy as np
import torch


def padded(samples: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """Samples `(l_i, ..)` as `values` `(b, longest, ..)`, padded with zeros, and `lengths` `(b,)`."""
    lengths = np.array([len(sample) for sample in samples])
    values = np.zeros((len(samples), lengths.max(), *samples[0].shape[1:]), samples[0].dtype)
    for row, sample in zip(values, samples, strict=True):
        row[: len(sample)] = sample
    return {"values": torch.from_numpy(values), "lengths": torch.from_numpy(lengths)}


def shown(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """`(n,) -> (n, longest)` bool: what is not padding."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]
