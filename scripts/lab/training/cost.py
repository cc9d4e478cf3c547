"""What one training step of one sample costs, measured on the CPU: parameters, FLOPs and bytes."""

import contextlib
import copy
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from lab.tasks.task import Task
from modeling_perceiver_study.inputs import adapter_class

# Costs are those of a GPU to come, and `auto` is bf16 on every GPU that has it.
_AUTOCAST = {"auto": torch.bfloat16, "no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Cost:
    """Of one sample and one model; where latents or blocks of a step are drawn, of the mean number, but bytes of most.

    Attributes:
        parameters: of the model.
        forward_flops: of matrix products, a multiply-add counted as 2.
        step_flops: forward and backward.
        activation_bytes: kept from the forward for the backward pass, for each sample.
        fixed_bytes: kept likewise, however many samples: positions, and weights cast to half precision.
    """

    parameters: int
    forward_flops: int
    step_flops: int
    activation_bytes: int
    fixed_bytes: int


def measure(task: Task) -> Cost:
    """The cost of one sample, by doing a training step of it on the CPU."""
    model = task.model_class(counted_config(task.config))
    # The counter sees no fused attention; the kernel of plain products does the same ones.
    with (
        fixed_budget(model.config, statistics.mean),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        loss = _loss(model, task, samples=1)
        forward_flops = counter.get_total_flops()
        loss.backward()
        step_flops = counter.get_total_flops()
    # With the attention that training uses, which keeps less. What does not grow with the batch is the difference.
    with fixed_budget(model.config, max):
        one, two = (kept_bytes(model, lambda samples=samples: _loss(model, task, samples)) for samples in (1, 2))
    return Cost(model.num_parameters(), forward_flops, step_flops, two - one, 2 * one - two)


def counted_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy with which counters see the path that training takes: their hooks on layers would have these called.

    Cross-attends read weights where one of the inputs keeps its positions in separable form, unless the config says
    otherwise.
    """
    config = copy.deepcopy(config)
    if config.cross_attend_path == "auto":
        inputs = [config.modality_config(name) for name in config.modalities or ()] or [config]
        if any(adapter_class(own.input_type).is_separable(own) for own in inputs):
            config.cross_attend_path = "separable"
    return config


@contextlib.contextmanager
def fixed_budget(config: PreTrainedConfig, pick: Callable[[list[int]], float]) -> Iterator[None]:
    """Let each step compute the same latents and blocks, where the config has their number drawn anew for each.

    Args:
        pick: of the lowest and the highest number that are drawn, such as `max`.
    """
    drawn = {name: getattr(config, name, None) for name in ("training_latents", "training_blocks")}
    ranges = {name: value for name, value in drawn.items() if isinstance(value, (list, tuple))}
    try:
        for name, value in ranges.items():
            setattr(config, name, round(pick(value)))
        yield
    finally:
        for name, value in ranges.items():
            setattr(config, name, value)


def _loss(model: nn.Module, task: Task, samples: int) -> torch.Tensor:
    arguments, targets = task.example(samples, "cpu")
    dtype = _AUTOCAST[task.recipe.optimization.mixed_precision]
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        return task.loss(model(**arguments), targets)


def kept_bytes(model: nn.Module, compute: Callable[[], torch.Tensor]) -> int:
    """Bytes that `compute()` keeps for its backward pass, beside the weights of the model that it uses."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()  # what is kept twice takes memory once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    del result  # until here it holds on to all of them, so no address was used twice
    return sum(kept.values())
