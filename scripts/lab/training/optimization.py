"""AdamW or Muon with decay on matrices only, weights that stay, and a moving average of the weights."""

import fnmatch

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lab.errors import UserError
from lab.recipe import Optimization
from lab.training.muon import Muon


def freeze(model: nn.Module, patterns: list[str]):
    """Exempt weights from training whose names match one of the patterns, in which `*` is anything.

    Raises:
        UserError: a pattern matches no name, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        found = fnmatch.filter(parameters, pattern)
        if not found:
            some = ", ".join(list(parameters)[:: max(1, len(parameters) // 4)])
            raise UserError(f"optimization.freeze: no weight is called {pattern!r}; names are such as {some}")
        for name in found:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"optimization.freeze={patterns} leaves nothing to train")


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Batch norms whose weights are frozen, and whose running statistics therefore are to stay as well."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [norm for norm in norms if not any(parameter.requires_grad for parameter in norm.parameters())]


def depths(model: nn.Module) -> dict[str, int]:
    """How far each weight is from the head, in layers: 0 for the head, most for what comes before the first layer.

    Layers that share their weights are one, and it counts where it is used last.
    """
    perceiver, config = model.base_model, model.config
    used = []
    for index in range(config.num_blocks):
        if index < config.num_cross_attends:
            used.append(perceiver.cross_attends[min(index, len(perceiver.cross_attends) - 1)])
        used += perceiver.blocks[min(index, len(perceiver.blocks) - 1)]
    layers = list(dict.fromkeys(reversed(used)))
    of_parameter = dict.fromkeys(map(id, perceiver.parameters()), len(layers) + 1)
    for depth, layer in enumerate(layers, start=1):
        of_parameter |= dict.fromkeys(map(id, layer.parameters()), depth)
    return {name: of_parameter.get(id(parameter), 0) for name, parameter in model.named_parameters()}


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
    bfloat16 where the model does, and in float32 otherwise. With a layer decay, each group is for one depth and has a
    rate of its own.
    """
    matrices, others = parameter_groups(model, settings.weight_decay)
    optimizers = []
    if settings.optimizer == "muon":
        head = {id(parameter) for parameter in model.get_submodule(head).parameters()}
        hidden = [parameter for parameter in matrices["params"] if id(parameter) not in head]
        matrices["params"] = [parameter for parameter in matrices["params"] if id(parameter) in head]
        dtype = torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float32
        if hidden:
            groups = _split_by_depth([{"params": hidden}], model, settings)
            optimizers.append(Muon(groups, settings.learning_rate, settings.weight_decay, dtype))
    groups = _split_by_depth([matrices, others], model, settings)
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True))
    return optimizers


def _split_by_depth(groups: list[dict], model: nn.Module, settings: Optimization) -> list[dict]:
    """The groups that are not empty, with a layer decay as one for each depth, at its learning rate."""
    groups = [group for group in groups if group["params"]]
    if settings.layer_decay is None:
        return groups
    found = depths(model)
    of_parameter = {id(parameter): found[name] for name, parameter in model.named_parameters()}
    split = []
    for group in groups:
        for depth in sorted({of_parameter[id(parameter)] for parameter in group["params"]}):
            parameters = [parameter for parameter in group["params"] if of_parameter[id(parameter)] == depth]
            rate = settings.learning_rate * settings.layer_decay**depth
            split.append(group | {"params": parameters, "lr": rate})
    return split


def moving_average(model: nn.Module, decay: float | None, device: torch.device) -> AveragedModel | None:
    """An exponential moving average of the weights, a copy of the model on `device`; None without a decay."""
    if decay is None:
        return None
    average = AveragedModel(model, device=device, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return average.requires_grad_(False)
