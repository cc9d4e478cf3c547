"""A start from which heads look at spots of their own, instead of at everything alike.

With random weights of the usual size all attention is nearly uniform: every latent begins as the same mean over all
inputs, and must learn where to look before it can learn what is there. The lowest Fourier band alone can point
anywhere: with `(sin pi x_a, cos pi x_a)` of each axis in the key and the same of a centre `c` in the query, a logit is

    kappa * sum_a cos(pi (x_a - c_a))  =  const - |x - c|^2 / (2 w^2) + ..        kappa = 1 / (pi w)^2

so attention is a spot of standard deviation `w` around `c` (a von Mises density, which wraps around at the edges).

- In the first cross-attend each head of each latent has a centre, which is written in the latent: near those of its
  other heads in some latents, far from them in others. The LayerNorm leaves keys longest in the grid's middle, which
  draws spots that are near it. Values start with the pixels alone, since where a latent looks is already in its query.
- In the self-attends each head takes the centres of one of those heads, for queries moved by an offset of its own, and
  so looks at latents that have seen a place nearby. No layer writes where centres are before it has learned to.

Bytes have no Fourier positions: their learned ones begin with the lowest band in two channels, which embeddings leave
free. Output queries that are learned positions of bytes begin likewise, and look at latents whose centres are near.

Centres are random, on any number of axes; all of it is learned from there on.
"""

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from .configuration_perceiver_study import PerceiverStudyConfig
from .inputs import adapter_class
from .position import split_position_columns


def start_locally(
    config: PerceiverStudyConfig, latents: nn.Module, cross_attends: Iterable[nn.Module], blocks: Iterable[nn.Module]
):
    """Give modules a `local_start`, a function from the usual random weight to the one to begin with.

    Functions of one weight each, as transformers initialises one module at a time.
    """
    cross_attends, self_attends = list(cross_attends), [layer for block in blocks for layer in block]
    first = cross_attends[0].attention
    latents.local_start = partial(_centres, config)
    first.q_proj.local_start = partial(_cross_queries, config)
    first.k_proj.local_start = partial(_byte_keys if _has_bytes(config) else _cross_keys, config)
    first.v_proj.local_start = partial(_byte_values if _has_bytes(config) else _pixel_values, config)
    if config.local_start_reach is None:
        return
    for layer in self_attends:
        layer.attention.q_proj.local_start = partial(_self_queries, config)
        layer.attention.k_proj.local_start = partial(_self_keys, config)
    for layer in [*cross_attends, *self_attends]:
        layer.attention.o_proj.local_start = layer.mlp.fc2.local_start = partial(_beside_centres, config)


def start_bytes_locally(config: PerceiverStudyConfig, positions: nn.Embedding, contents: Iterable[nn.Embedding]):
    """The same for embeddings of the positions of bytes, and of bytes and runs of them."""
    positions.local_start = partial(_wave_of_rows, config.initializer_range)
    for content in contents:
        content.local_start = _beside_wave


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


def _beside_wave(weight: torch.Tensor) -> torch.Tensor:
    """`(vocabulary, d)`: nothing where positions have their sine and cosine."""
    return torch.cat([torch.zeros_like(weight[:, :2]), weight[:, 2:]], dim=1)


def _byte_keys(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, d_model)`: each head reads sine and cosine, of what embeddings and the position add up to."""
    heads, parts = config.num_cross_attention_heads, 2 + len(config.ngram_sizes or ())
    columns = torch.arange(2).expand(heads, 1, 2)
    gain = _gain(config.local_start_width, weight.shape[0] // heads) * math.sqrt(parts / 2)
    return _point(weight, columns, gain)


def _byte_values(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h V, d_model)`: rows of about unit length, from all but sine and cosine."""
    return _beside_wave(torch.randn_like(weight) / math.sqrt(weight.shape[1]))


def _wave_queries(width: float, num_heads: int, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, d)`: each head of the decoder reads sine and cosine."""
    gain = _gain(width, weight.shape[0] // num_heads) / math.sqrt(2)
    return _point(weight, torch.arange(2).expand(num_heads, 1, 2), gain)


def _centre_keys(config: PerceiverStudyConfig, width: float, num_heads: int, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, D)`: each head of the decoder reads the centre of a head of the cross-attend."""
    gain = _gain(width, weight.shape[0] // num_heads) / math.sqrt(2)
    return _point(weight, _code_columns(config, num_heads), gain)


def _has_bytes(config: PerceiverStudyConfig) -> bool:
    return config.input_type == "bytes"


def _num_axes(config: PerceiverStudyConfig) -> int:
    return adapter_class(config.input_type).num_local_axes(config)


def _centres(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(N, D)`: sines and cosines of the centres of all heads, then what was there.

    The heads of a latent are spread around a place of its own, with a standard deviation between half the width of a
    spot and a quarter of the grid, evenly in its logarithm: some see detail, others the whole.
    """
    place = 2 * torch.rand(len(weight), 1, _num_axes(config)) - 1
    distance = config.local_start_width ** torch.rand(len(weight), 1, 1) / 2
    offset = torch.randn(len(weight), config.num_cross_attention_heads, _num_axes(config))
    centres = 1 - ((place + distance * offset + 1) % 4 - 2).abs()  # mirrored at the borders
    angles = torch.pi * centres.flatten(1)
    codes = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(weight) * math.sqrt(2)
    return torch.cat([codes * _code_deviation(config), weight[:, codes.shape[1] :]], dim=1)


def _cross_queries(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, D)`: each head reads its centre."""
    heads, share = config.num_cross_attention_heads, _num_codes(config) / config.d_latents
    code, noise = _code_deviation(config), config.initializer_range
    norm = math.sqrt(share * code**2 + (1 - share) * noise**2 + config.layer_norm_eps)
    gain = _gain(config.local_start_width, weight.shape[0] // heads) * norm / (math.sqrt(2) * code)
    return _point(weight, _code_columns(config, heads), gain)


def _cross_keys(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, C + P)`: each head reads the lowest band."""
    heads = config.num_cross_attention_heads
    columns = config.num_attended_channels + split_position_columns(
        torch.arange(config.num_position_channels), config.num_axes
    )
    lowest = columns[:, config.num_axis_features % 2 :: config.num_frequency_bands][:, :2]  # a sine and a cosine
    # Waves have a variance of 1/2, coordinates one of 1/3, and pixels are taken to have one of 1.
    coordinates = config.num_axes * (config.num_axis_features % 2) / 3
    waves = config.num_axes * config.num_frequency_bands
    norm = math.sqrt((config.num_attended_channels + coordinates + waves) / config.num_input_channels)
    gain = _gain(config.local_start_width, weight.shape[0] // heads) * norm
    return _point(weight, lowest.expand(heads, -1, -1), gain)


def _pixel_values(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h V, C + P)`: rows of about unit length, from pixels alone."""
    num_channels = config.num_attended_channels
    if num_channels == 0:  # points that are nothing but a place
        return weight
    pixels = torch.randn_like(weight[:, :num_channels]) / math.sqrt(num_channels)
    return torch.cat([pixels, torch.zeros_like(weight[:, num_channels:])], dim=1)


def _self_queries(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, D)`: each head reads the centre that its keys read, moved by a random offset."""
    turns = torch.pi * config.local_start_reach * torch.randn(config.num_self_attention_heads, _num_axes(config))
    return _self_keys(config, weight, turns)


def _self_keys(config: PerceiverStudyConfig, weight: torch.Tensor, turns: torch.Tensor | None = None) -> torch.Tensor:
    """`(h E, D)`: each head reads a centre. The gain is right where the LayerNorm after a layer divides by 1."""
    heads = config.num_self_attention_heads
    gain = _gain(config.local_start_reach, weight.shape[0] // heads) / math.sqrt(2)
    return _point(weight, _code_columns(config, heads), gain, turns)


def _beside_centres(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(D, ..)`: nothing is added where the centres are."""
    num_codes = _num_codes(config)
    return torch.cat([torch.zeros_like(weight[:num_codes]), weight[num_codes:]])


def _num_codes(config: PerceiverStudyConfig) -> int:
    """Channels of the latents that hold the centres."""
    return 2 * _num_axes(config) * config.num_cross_attention_heads


def _code_deviation(config: PerceiverStudyConfig) -> float:
    """Like noise; or as large as what the layers add to latents, where centres are to be found beside that."""
    return config.initializer_range if config.local_start_reach is None else 1.0


def _code_columns(config: PerceiverStudyConfig, num_heads: int) -> torch.Tensor:
    """`(num_heads, A, 2)`: channels of the latents with a centre for each head, in turn where they are more."""
    spots = torch.arange(_num_codes(config)).view(config.num_cross_attention_heads, _num_axes(config), 2)
    return spots[torch.arange(num_heads) % len(spots)]


def _gain(width: float, head_width: int) -> float:
    """Of queries and of keys, for spots of this width from sines and cosines of amplitude 1."""
    kappa = 1 / (math.pi * width) ** 2
    return math.sqrt(kappa * math.sqrt(head_width))


def _point(weight: torch.Tensor, columns: torch.Tensor, gain: float, turns: torch.Tensor | None = None) -> torch.Tensor:
    """`weight` whose first rows of each head read angles, given where their sines and cosines are.

    `columns` is `(h, A, 2)`; `turns`, `(h, A)`, are added to the angles.
    """
    turns = torch.zeros(columns.shape[:2]) if turns is None else turns
    sine, cosine = nn.functional.one_hot(columns, weight.shape[1]).unbind(2)
    ahead, across = turns.cos()[..., None], turns.sin()[..., None]
    reading = torch.stack([ahead * sine + across * cosine, ahead * cosine - across * sine], dim=2).flatten(1, 2)
    heads = weight.clone().unflatten(0, (len(columns), -1))
    heads[:, : reading.shape[1]] = gain * reading.to(heads)
    return heads.flatten(0, 1)
