"""Muon in a dtype to choose: torch's own orthogonalises in bfloat16, whatever the hardware."""

import torch
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
            for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
                momentum.lerp_(gradient, 1 - group["momentum"])
                update = orthogonalize(gradient.lerp(momentum, group["momentum"]), self.dtype)
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
