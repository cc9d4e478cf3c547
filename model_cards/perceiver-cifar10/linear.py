"""Linear layers, and what computes float32 products on a CPU."""

import functools
import platform
from pathlib import Path

import torch
from torch import nn

# With fewer rows or channels a convolution is no faster.
_FEWEST_ROWS = 128
_FEWEST_CHANNELS = 32
# torch gives smaller batches of images to a slow kernel where it has a single thread.
_IMAGES = 16


class Linear(nn.Linear):
    """`(.., I) -> (.., O)`: `nn.Linear`, at twice the rate in float32 on AMD's CPUs with AVX-512.

    torch computes float32 products with MKL, which there uses half of each vector, and convolutions with oneDNN, which
    uses all of it. So rows become the pixels of images, and a convolution of 1 x 1 projects them: the same sums, in
    another order (docs/performance.md). Elsewhere, and for other dtypes, this is `nn.Linear`.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self._convolution_is_faster(inputs):
            return super().forward(inputs)
        rows = inputs.flatten(0, -2)
        # In memory images are (number, height, 1, channels): rows as they are.
        images = rows.unflatten(0, (_IMAGES if len(rows) % _IMAGES == 0 else 1, -1, 1)).permute(0, 3, 1, 2)
        outputs = nn.functional.conv2d(images, self.weight[..., None, None], self.bias)
        return outputs.permute(0, 2, 3, 1).flatten(0, 2).unflatten(0, inputs.shape[:-1])

    def _convolution_is_faster(self, inputs: torch.Tensor) -> bool:
        return (
            inputs.device.type == "cpu"
            and inputs.dtype == self.weight.dtype == torch.float32
            and min(self.in_features, self.out_features) >= _FEWEST_CHANNELS
            # Weights that are quantized or sharded have products of their own.
            and type(self.weight) in (nn.Parameter, torch.Tensor)
            and not torch.is_autocast_enabled("cpu")
            # An exported program runs elsewhere.
            and not torch.compiler.is_exporting()
            and _only_convolutions_go_through_onednn()
            and inputs.numel() // self.in_features >= _FEWEST_ROWS
        )


@torch.compiler.assume_constant_result  # the compiler cannot look inside
def float32_products_go_through_onednn() -> bool:
    """Whether torch may do so on a CPU."""
    return torch.get_float32_matmul_precision() != "highest"


@torch.compiler.assume_constant_result
def _only_convolutions_go_through_onednn() -> bool:
    """And that pays off."""
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
