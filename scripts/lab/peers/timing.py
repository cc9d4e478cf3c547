"""How long contenders take that work in turns, so that a machine whose speed drifts affects all of them alike."""

import statistics
import time
from collections.abc import Sequence

import torch


def now(device: torch.device | str = "cpu") -> float:
    """Seconds on a clock, once a device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def median_ratio(times: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as long as ours, the median over rounds: not the ratio of two medians."""
    return statistics.median(one / own for one, own in zip(times, ours, strict=True))
