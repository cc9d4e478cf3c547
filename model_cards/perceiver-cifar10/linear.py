"""Linear layers, and what computes float32 products on a CPU."""

import functools
import platform
from pathlib import Path

import torch
from torch import nn

# Below these a convolution takes longer: multiply-adds (rows x I x O), and channels I or O.
_FEWEST_PRODUCTS = 2**24
_FEWEST_CHANNELS = 64
# torch gives smaller batches of images to a slow kernel where it has a single thread.
_IMAGES = 16


class Linear(nn.Linear):
    """`(.., I) -> (.., O)`: `nn.Linear`, at twice the rate in float32 on AMD's CPUs with AVX-512.

    torch computes float32 products with MKL, which there uses half of each vector, and convolutions with oneDNN, which
    uses all of it. So where that pays off rows become the pixels of images, and a convolution of 1 x 1 projects them:
    the same sums, in another order (docs/performance.md). Elsewhere, and for other dtypes, this is `nn.Linear`.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.weight  # once, as it may be computed
        if not _convolution_is_faster(inputs, weight):
            return nn.functional.linear(inputs, weight, self.bias)
        rows = inputs.flatten(0, -2)
        # In memory images are (number, height, 1, channels): rows as they are.
        images = rows.unflatten(0, (_IMAGES if len(rows) % _IMAGES == 0 else 1, -1, 1)).permute(0, 3, 1, 2)
        outputs = nn.functional.conv2d(images, weight[..., None, None], self.bias)
        return outputs.permute(0, 2, 3, 1).flatten(0, 2).unflatten(0, inputs.shape[:-1])


def is_plain(weight: torch.Tensor) -> bool:
    """Whether it is numbers and no more: weights that are quantized or sharded have products of their own."""
    return type(weight) in (nn.Parameter, torch.Tensor)


def _convolution_is_faster(inputs: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and is_plain(weight)
        and not torch.is_autocast_enabled("cpu")
        # An exported program runs elsewhere, and on other numbers of rows.
        and not (torch.compiler.is_exporting() or torch.jit.is_tracing())
        and _only_convolutions_use_the_whole_cpu()
        and min(weight.shape) >= _FEWEST_CHANNELS
        and inputs.numel() * weight.shape[0] >= _FEWEST_PRODUCTS
    )


@torch.compiler.assume_constant_result  # the compiler cannot look inside
def float32_products_go_through_onednn() -> bool:
    """By `torch.set_float32_matmul_precision`, on a CPU: "high" asks for TF32, which few CPUs have."""
    return torch.get_float32_matmul_precision() == "medium"


@torch.compiler.assume_constant_result
def _only_convolutions_use_the_whole_cpu() -> bool:
    """Whether oneDNN, which torch uses for convolutions, is on and much faster than what it uses for products."""
    return torch.backends.mkldnn.enabled and not float32_products_go_through_onednn() and _mkl_is_slow()


@functools.cache
def _mkl_is_slow() -> bool:
    """On AMD's CPUs MKL uses vectors of 256 bits, also where there are 512."""
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.is_available():
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    cpuinfo = Path("/proc/cpuinfo")  # of Linux, where `platform` does not know
    return "AuthenticAMD" in (cpuinfo.read_text() if cpuinfo.exists() else platform.processor())
