"""A model's weights by their plain names, whatever wraps or shards the model."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict


def get_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy on the CPU; of a sharded model on the first process, and nothing on the others. All call it together."""
    model = accelerator.unwrap_model(model, keep_torch_compile=False)
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: tensor.clone() for name, tensor in weights.items()}


def set_weights(accelerator: Accelerator, model: nn.Module, weights: dict[str, torch.Tensor]):
    """Give a model what `get_weights` returned, from the first process to all. All call it together."""
    model = accelerator.unwrap_model(model, keep_torch_compile=False)
    several = accelerator.num_processes > 1
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=several)
    set_model_state_dict(model, weights, options=options)
