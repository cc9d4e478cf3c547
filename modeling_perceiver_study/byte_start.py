"""A local start for bytes: their positions, and the output queries that ask for them one by one.

Bytes have no Fourier positions. Their learned ones begin with the lowest band in two channels, which the embeddings of
bytes leave free, so that heads can begin at spots of their own as on a grid (`local_start.py`). Output queries that are
learned positions of bytes begin likewise, and look at latents whose centres are near.
"""

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from .configuration_perceiver_study import PerceiverStudyConfig
from .local_start import beside_wave, code_columns, gain_of, point


def start_bytes_locally(config: PerceiverStudyConfig, positions: nn.Embedding, contents: Iterable[nn.Embedding]):
    """Give embeddings of the positions of bytes, and of bytes and runs of them, a `local_start`."""
    positions.local_start = partial(_wave_of_rows, config.initializer_range)
    for content in contents:
        content.local_start = beside_wave


def start_queries_locally(config: PerceiverStudyConfig, query: nn.Module, attention: nn.Module, num_heads: int):
    """The same for learned output queries, one for each position of bytes, and the attention that answers them.

    Spots are as wide as the latents' own, or as far as these are from each other.
    """
    width = max(config.local_start_width, min(0.5, 2 / config.num_latents))
    query.local_start = partial(_wave_of_rows, config.initializer_range)
    attention.q_proj.local_start = partial(_wave_queries, width, num_heads)
    attention.k_proj.local_start = partial(_centre_keys, config, width, num_heads)


def _wave_of_rows(deviation: float, weight: torch.Tensor) -> torch.Tensor:
    """`(M, d)`: sine and cosine of the place of each row, as large as what is beside them."""
    angles = torch.pi * torch.linspace(-1, 1, len(weight))
    wave = math.sqrt(2) * deviation * torch.stack([angles.sin(), angles.cos()], dim=1)
    return torch.cat([wave.to(weight), weight[:, 2:]], dim=1)


def _wave_queries(width: float, num_heads: int, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, d)`: each head of the decoder reads sine and cosine."""
    amount = gain_of(width, weight.shape[0] // num_heads) / math.sqrt(2)
    return point(weight, [torch.arange(2)[None]] * num_heads, [amount] * num_heads)


def _centre_keys(config: PerceiverStudyConfig, width: float, num_heads: int, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, D)`: each head of the decoder reads the centre of a head of the cross-attend."""
    amount = gain_of(width, weight.shape[0] // num_heads) / math.sqrt(2)
    return point(weight, code_columns(config, num_heads), [amount] * num_heads)
