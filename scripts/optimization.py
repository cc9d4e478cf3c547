"""AdamW with decay on matrices only, warm-up and cosine, and a moving average of the weights."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import get_cosine_schedule_with_warmup

from recipe import Optimization


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimiser: weights of linear layers decay; biases, norms, latents and positions do not."""
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, settings: Optimization, total_steps: int):
    """The optimiser, and the schedule that takes the learning rate up to its peak and down to 0 at `total_steps`."""
    groups = parameter_groups(model, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, round(settings.warmup * total_steps), total_steps)


def moving_average(model: nn.Module, decay: float | None, device: torch.device) -> AveragedModel | None:
    """An exponential moving average of the weights, a copy of the model on `device`; None without a decay."""
    if decay is None:
        return None
    average = AveragedModel(model, device=device, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return average.requires_grad_(False)
