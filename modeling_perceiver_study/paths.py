"""Which path a cross-attend to a grid takes: the one place that decides.

The *separable* path reads the weights of a LayerNorm and two linear layers and computes with them in another order
(separable.py). The *general* path builds the byte array and calls those layers. Both give the same numbers, but only a
call runs a hook, moves an offloaded weight, gathers a sharded one, or does what an adapter adds to a layer.
"""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

PATHS = ("auto", "separable", "general")

# The last stands for one of the others while `torch.export` looks on.
_PLAIN_TENSORS = (nn.Parameter, torch.Tensor, FakeTensor)


def takes_separable_path(path: str, **layers: nn.Module) -> bool:
    """Whether to read the weights of `layers` rather than to call them.

    Args:
        path: `"auto"` reads them wherever a call would do no more; `"separable"` insists; `"general"` calls them.
        layers: by name, for the message.

    Raises:
        ValueError: `path` is `"separable"` and the weights cannot be read; says why.
    """
    if path == "general":
        return False
    reason = _why_nothing_can_be_read()
    for name, layer in layers.items():
        reason = reason or _why_it_must_be_called(name, layer)
    if path == "separable" and reason is not None:
        raise ValueError(
            f"cross_attend_path='separable' reads weights, which cannot be done here: {reason}. Expected 'auto' or "
            "'general', which call the layers."
        )
    # Hooks of the whole process mostly only watch, so whoever insists may read beside them.
    return reason is None and (path == "separable" or not nn.modules.module._has_any_global_hook())


def is_transformed() -> bool:
    """Whether `torch.func` or forward-mode differentiation is at work, which fused kernels do not know."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_batched(tensor: torch.Tensor) -> bool:
    """Whether a gradient stands for many, as with `is_grads_batched=True` or under `torch.func.vmap`."""
    return torch._C._functorch.is_batchedtensor(tensor) or torch._C._functorch.is_legacy_batchedtensor(tensor)


def keeps_nothing() -> bool:
    """Whether tensors made now belong to a program that is being compiled or traced, to a transform, or are fake."""
    if torch.compiler.is_compiling() or is_traced() or is_transformed():
        return True
    return type(torch.empty(0)) is not torch.Tensor


def has_values(tensor: torch.Tensor) -> bool:
    """Whether a decision may depend on what a tensor holds: not in a program, a transform or on the meta device.

    Nor while a CUDA graph is captured, as nothing is computed yet.
    """
    if keeps_nothing() or isinstance(tensor, FakeTensor) or tensor.is_meta:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def is_traced() -> bool:
    """Whether `torch.jit.trace` looks on, also for `torch.onnx.export(dynamo=False)`."""
    return torch.jit.is_tracing()


def _why_nothing_can_be_read() -> str | None:
    if is_traced():
        return "torch.jit.trace, or torch.onnx.export with dynamo=False, is at work"
    if is_transformed():
        return "a transform of torch.func or forward-mode differentiation is at work"
    return None


def _why_it_must_be_called(name: str, layer: nn.Module) -> str | None:
    if type(layer) not in (nn.Linear, nn.LayerNorm):  # an adapter, a quantized or a parametrized layer
        return f"{name} is a {type(layer).__name__}"
    if "forward" in vars(layer):  # as accelerate does for offloading
        return f"forward of {name} is replaced"
    if layer._forward_pre_hooks or layer._forward_hooks or layer._backward_pre_hooks or layer._backward_hooks:
        return f"{name} has hooks"
    for part, tensor in (("weight", layer.weight), ("bias", layer.bias)):
        if type(tensor) not in _PLAIN_TENSORS:
            return f"{part} of {name} is a {type(tensor).__name__}"
        if tensor.is_meta:
            return f"{part} of {name} is on the meta device"
    return None
