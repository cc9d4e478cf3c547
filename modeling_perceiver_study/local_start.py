"""A start from which each head of each latent looks at a spot of its own, instead of at everything alike.

With random weights of the usual size all attention is nearly uniform: every latent begins as the same mean over all
inputs, and must learn where to look before it can learn what is there. The lowest Fourier band alone can point
anywhere: with `(sin pi x_a, cos pi x_a)` of each axis in the key and the same of a centre `c` in the query, a logit is

    kappa * sum_a cos(pi (x_a - c_a))  =  const - |x - c|^2 / (2 w^2) + ..        kappa = 1 / (pi w)^2

so attention is a spot of standard deviation `w` around `c` (a von Mises density, which wraps around at the edges), only
drawn towards the grid's middle where it is near, as there the LayerNorm leaves keys longest. The centres are random: no
neighbourhood, patch or order of the grid enters, and all of it is learned from there on. Values start with the pixels
alone, since where a latent looks is already in its query.
"""

import math
from functools import partial

import torch
from torch import nn

from .configuration_perceiver_study import PerceiverStudyConfig
from .position import split_position_columns


def start_locally(latents: nn.Module, attention: nn.Module, config: PerceiverStudyConfig):
    """Give the latents and the projections of the first cross-attend a `local_start`: initial weights from random ones.

    Four functions of one weight each, as transformers initialises one module at a time.
    """
    latents.local_start = partial(_centres, config)
    attention.q_proj.local_start = partial(_queries, config)
    attention.k_proj.local_start = partial(_keys, config)
    attention.v_proj.local_start = partial(_values, config)


def _centres(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(N, D)`: sines and cosines of the centres of all heads, then noise; the norm before queries undoes the scale."""
    num_angles = config.num_cross_attention_heads * config.num_axes
    angles = torch.pi * (2 * torch.rand_like(weight[:, :num_angles]) - 1)
    codes = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1) * math.sqrt(2)
    latents = torch.cat([codes, torch.randn_like(weight[:, 2 * num_angles :])], dim=1)
    return latents * config.initializer_range


def _queries(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, D)`: the first channels of each head read its centre."""
    return _point(config, weight, torch.arange(weight.shape[1]))


def _keys(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, C + P)`: the first channels of each head read the lowest band."""
    columns = config.num_attended_channels + split_position_columns(
        torch.arange(config.num_position_channels), config.num_axes
    )
    lowest = columns[:, config.num_axis_features % 2 :: config.num_frequency_bands][:, :2]  # a sine and a cosine
    return _point(config, weight, lowest.flatten().repeat(config.num_cross_attention_heads))


def _values(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h V, C + P)`: rows of about unit length, from pixels alone."""
    num_channels = config.num_attended_channels
    pixels = torch.randn_like(weight[:, :num_channels]) / math.sqrt(num_channels)
    return torch.cat([pixels, torch.zeros_like(weight[:, num_channels:])], dim=1)


def _point(config: PerceiverStudyConfig, weight: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """`weight` with the first `2 A` rows of each head reading one of `columns` each, in turn."""
    heads = weight.clone().unflatten(0, (config.num_cross_attention_heads, -1))
    num_angles = 2 * config.num_axes
    per_head = columns[: num_angles * len(heads)].view(len(heads), num_angles, 1).to(weight.device)
    # What the LayerNorm divides an input by, for pixels of unit variance.
    coordinates = config.num_axes * (config.num_axis_features % 2) / 3
    waves = config.num_axes * config.num_frequency_bands
    deviation = math.sqrt((config.num_attended_channels + coordinates + waves) / config.num_input_channels)
    kappa = 1 / (math.pi * config.local_start_width) ** 2
    gain = math.sqrt(kappa * deviation * math.sqrt(heads.shape[1] / 2))  # queries and keys share it
    heads[:, :num_angles] = torch.zeros_like(heads[:, :num_angles]).scatter(-1, per_head, gain)
    return heads.flatten(0, 1)
