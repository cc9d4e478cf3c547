"""Muon in a dtype to choose, whose work processes share: torch's own does all of it in each, and in bfloat16."""

from collections.abc import Iterable, Sequence

import torch
from torch import distributed
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, _adjust_lr


class Muon(torch.optim.Muon):
    """torch's Muon, whose steps are as large as AdamW's, with its products in `dtype`.

    Args:
        dtype: of the orthogonalisation. Five iterations converge roughly, so bfloat16 does no harm; but without units
            for it a product takes many times as long as in float32.
    """

    def __init__(self, params, lr: float, weight_decay: float, dtype: torch.dtype):
        super().__init__(params, lr, weight_decay, adjust_lr_fn="match_rms_adamw")
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):
        """Change each parameter that has a gradient, as `torch.optim.Muon` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters, gradients, momenta = [], [], []
            self._init_group(group, parameters, gradients, momenta)
            ahead = (
                gradient.lerp(momentum.lerp_(gradient, 1 - group["momentum"]), group["momentum"])
                for gradient, momentum in zip(gradients, momenta, strict=True)
            )
            for parameter, update in zip(parameters, orthogonalize_shared(ahead, self.dtype), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape))
        return loss


def orthogonalize(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`(m, n) -> (m, n)` in `dtype`: the same singular vectors, with singular values of about 0.7 to 1.2.

    Newton-Schulz iterations of degree 5 with the coefficients of torch's Muon (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/).
    """
    wide = matrix.to(dtype, copy=True)
    tall = matrix.shape[0] > matrix.shape[1]
    if tall:
        wide = wide.T
    wide.div_(wide.norm().clamp(min=EPS))
    for _ in range(DEFAULT_NS_STEPS):
        gram = wide @ wide.T
        step = torch.addmm(gram, gram, gram, beta=DEFAULT_B, alpha=DEFAULT_C)
        wide = torch.addmm(wide, step, wide, beta=DEFAULT_A)
    return wide.T if tall else wide


def orthogonalize_shared(matrices: Iterable[torch.Tensor], dtype: torch.dtype) -> Iterable[torch.Tensor]:
    """`orthogonalize` each of some matrices; of processes that train one model together, each does a share of them.

    They must have the same matrices, as replicas have once gradients are averaged. A single process has one in memory
    at a time.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return (orthogonalize(matrix, dtype) for matrix in matrices)
    matrices = list(matrices)
    if not matrices:  # of a group whose weights have no gradient
        return []
    found = torch.zeros(sum(matrix.numel() for matrix in matrices), dtype=dtype, device=matrices[0].device)
    parts = [part.view(m.shape) for part, m in zip(found.split([m.numel() for m in matrices]), matrices, strict=True)]
    mine = shares([matrix.shape for matrix in matrices], distributed.get_world_size())[distributed.get_rank()]
    for number in mine:
        parts[number].copy_(orthogonalize(matrices[number], dtype))
    distributed.all_reduce(found)  # the others' parts are zeros, so sums are exact
    return parts


def shares(shapes: Sequence[tuple[int, int]], count: int) -> list[list[int]]:
    """Divide matrices of some shapes, by their numbers, into `count` shares of about as much work each."""
    costs = {number: min(shape) ** 2 * (2 * max(shape) + min(shape)) for number, shape in enumerate(shapes)}
    found, loads = [[] for _ in range(count)], [0] * count
    for number in sorted(costs, key=costs.get, reverse=True):
        least = loads.index(min(loads))
        found[least].append(number)
        loads[least] += costs[number]
    return found
