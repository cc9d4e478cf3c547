"""AdamW or Muon with decay on matrices only, and a moving average of the weights."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lab.recipe import Optimization
from lab.training.muon import Muon


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimiser: weights of linear layers decay; biases, norms, latents and positions do not."""
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]


def build_optimizers(model: nn.Module, settings: Optimization, head: str) -> list[torch.optim.Optimizer]:
    """Optimisers at the peak of their learning rates.

    AdamW for all parameters; or Muon for the matrices between layers, whose steps it makes as large as AdamW's (Liu et
    al. 2025, arXiv 2502.16982, section 2.2), and AdamW for the rest, which Muon is not meant for. Muon computes in
    bfloat16 where the model does, and in float32 otherwise.
    """
    matrices, others = parameter_groups(model, settings.weight_decay)
    optimizers = []
    if settings.optimizer == "muon":
        head = {id(parameter) for parameter in model.get_submodule(head).parameters()}
        hidden = [parameter for parameter in matrices["params"] if id(parameter) not in head]
        matrices["params"] = [parameter for parameter in matrices["params"] if id(parameter) in head]
        dtype = torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float32
        optimizers.append(Muon(hidden, settings.learning_rate, settings.weight_decay, dtype))
    optimizers.append(torch.optim.AdamW([matrices, others], lr=settings.learning_rate, fused=True))
    return optimizers


def moving_average(model: nn.Module, decay: float | None, device: torch.device) -> AveragedModel | None:
    """An exponential moving average of the weights, a copy of the model on `device`; None without a decay."""
    if decay is None:
        return None
    average = AveragedModel(model, device=device, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return average.requires_grad_(False)
