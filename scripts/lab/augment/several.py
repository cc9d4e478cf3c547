"""What happens to training samples of several modalities beside the changes of each."""

import dataclasses
from typing import Any

import numpy as np
import torch

from lab.augment.mixing import blend
from lab.augment.seeds import fold_seed

_SEED = 1  # apart from the choices of the modalities


@dataclasses.dataclass
class MultimodalAugmentation:
    """The changes of each modality, and mixup of all at once."""

    modalities: dict[str, Any] = dataclasses.field(default_factory=dict)  # by name, as the task of each has them
    mixup_alpha: float = 0.0  # blend with another sample, its share, from Beta(alpha, alpha), the same of all; 0 is off


MULTIMODAL_RANGES = {"mixup_alpha": (0, None)}


def mix_all(
    inputs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    targets: torch.Tensor,
    alpha: float,
    seed: int,
    step: int,
    first: int,
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Each modality of each sample blended with that of its neighbour, by one share for all.

    Args:
        inputs: of each modality values on a grid `(n, ..)` and what of it is there.
        targets: `(n, classes)`, probabilities.
        first: these are rows `first` to `first + n` of the batch of `step`.
    """
    rows = range(first, first + len(targets))
    share = [np.random.default_rng(fold_seed(seed, step, row, _SEED)).beta(alpha, alpha) for row in rows]
    share = torch.tensor(share, dtype=torch.float32)
    mixed = {name: blend(values, mask, targets, share)[:2] for name, (values, mask) in inputs.items()}
    return mixed, blend(targets, targets.bool(), targets, share)[2]
