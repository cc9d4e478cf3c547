"""A start from which heads look at spots of their own, instead of at everything alike.

With random weights of the usual size all attention is nearly uniform: every latent begins as the same mean over all
inputs, and must learn where to look before it can learn what is there. The lowest Fourier band alone can point
anywhere: with `(sin pi x_a, cos pi x_a)` of each axis in the key and the same of a centre `c` in the query, a logit is

    kappa * sum_a cos(pi (x_a - c_a))  =  const - |x - c|^2 / (2 w^2) + ..        kappa = 1 / (pi w)^2

so attention is a spot of standard deviation `w` around `c` (a von Mises density, which wraps around at the edges).

- In the first cross-attend each head of each latent has a centre, which is written in the latent: near those of its
  other heads in some latents, far from them in others. The LayerNorm leaves keys longest in the grid's middle, which
  draws spots that are near it. Values start with the pixels alone, since where a latent looks is already in its query.
- With `local_start_spread` a latent has one place, and each head looks at an offset of its own from it. The offsets are
  the same for all latents, so what mixes the heads finds one pattern of pixels wherever a latent looks, as the weights
  of a convolution or of a patch do.
- In the self-attends each head takes the centres of one of those heads, for queries moved by an offset of its own, and
  so looks at latents that have seen a place nearby. No layer writes where centres are before it has learned to.

Of several inputs each head has one to look at, in turn: its centres are places there, its keys and values read
channels of that input alone, and a channel of the learned padding, which says which input it is, keeps it from the
others.

Bytes have no Fourier positions: their learned ones begin with the lowest band in two channels, which embeddings leave
free (`byte_start.py`).

Centres are random, on any number of axes; all of it is learned from there on.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import nn

from .configuration_perceiver_study import PerceiverStudyConfig
from .position import split_position_columns

_SIGN = 2.0  # of the channel that says which input an element is of
_PREFERENCE = 8.0  # added to the logits of a head's own input, where others have numbers of any kind


def start_locally(
    config: PerceiverStudyConfig,
    latents: nn.Module,
    cross_attends: Iterable[nn.Module],
    blocks: Iterable[nn.Module],
    paddings: Mapping[str, nn.Module],
):
    """Give modules a `local_start`, a function from the usual random weight to the one to begin with.

    Functions of one weight each, as transformers initialises one module at a time.

    Args:
        paddings: the learned padding of each of several inputs, by name.
    """
    cross_attends, self_attends = list(cross_attends), [layer for block in blocks for layer in block]
    first = cross_attends[0].attention
    latents.local_start = partial(_centres, config)
    first.q_proj.local_start = partial(_cross_queries, config)
    first.k_proj.local_start = partial(_cross_keys, config)
    first.v_proj.local_start = partial(_pixel_values, config)
    if len(paddings) > 1:
        first.q_proj.local_start_bias = partial(_gate_queries, config)
        for number, name in enumerate(sorted(paddings)):
            paddings[name].local_start = partial(_gate_channels, config, number)
    if config.local_start_reach is None:
        return
    for layer in self_attends:
        layer.attention.q_proj.local_start = partial(_self_queries, config)
        layer.attention.k_proj.local_start = partial(_self_keys, config)
    for layer in [*cross_attends, *self_attends]:
        layer.attention.o_proj.local_start = layer.mlp.fc2.local_start = partial(_beside_centres, config)


def _centres(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(N, D)`: sines and cosines of the centres of all heads, then what was there.

    The heads of a latent are spread around a place of its own, with a standard deviation between half the width of a
    spot and a quarter of the grid, evenly in its logarithm: some see detail, others the whole.
    """
    if config.local_start_spread is not None:
        return _beside_codes(config, weight, [_places(config, own, weight) for _, own in config.located_inputs])
    owners = config.located_inputs_of_heads
    codes: list[torch.Tensor | None] = [None] * len(owners)
    for name, own in config.located_inputs:
        heads = [head for head, (owner, _) in enumerate(owners) if owner == name]
        place = 2 * torch.rand(len(weight), 1, own.num_local_axes) - 1
        distance = config.local_start_width ** torch.rand(len(weight), 1, 1) / 2
        offset = torch.randn(len(weight), len(heads), own.num_local_axes)
        centres = 1 - ((place + distance * offset + 1) % 4 - 2).abs()  # mirrored at the borders
        for head, code in zip(heads, _waves(centres).unbind(dim=1), strict=True):
            codes[head] = code
    return _beside_codes(config, weight, codes)


def _places(config: PerceiverStudyConfig, own: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(N, 2 A)`: waves of a place for each latent, spread evenly over the grid, from whose edges offsets stay away."""
    return _waves((1 - config.local_start_spread) * (2 * _evenly_random(len(weight), own.num_local_axes) - 1))


def _evenly_random(count: int, axes: int) -> torch.Tensor:
    """`(count, A)`, each in [0, 1): a lattice with a random origin, which leaves no holes as independent numbers do.

    Its steps are powers of `1 / x` with `x^(A + 1) = x + 1`, the golden ratio for one axis; so every beginning of it is
    even too.
    """
    ratio = 2.0
    for _ in range(50):
        ratio = (1 + ratio) ** (1 / (axes + 1))
    steps = ratio ** -torch.arange(1, axes + 1, dtype=torch.float64)
    return (torch.rand(axes) + steps * torch.arange(count)[:, None]).frac().float()


def _waves(places: torch.Tensor) -> torch.Tensor:
    """`(.., A) -> (.., 2 A)`: a sine and a cosine for each axis."""
    return torch.stack([(torch.pi * places).sin(), (torch.pi * places).cos()], dim=-1).flatten(-2)


def _beside_codes(config: PerceiverStudyConfig, weight: torch.Tensor, codes: list[torch.Tensor]) -> torch.Tensor:
    """`(N, D)`: these waves, with the deviation that they are to have, and beside them what was there."""
    joined = torch.cat(codes, dim=1).to(weight) * math.sqrt(2)
    return torch.cat([joined * _code_deviation(config), weight[:, joined.shape[1] :]], dim=1)


def _cross_queries(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, D)`: each head reads its centre, or the latent's place; nothing in the row that `_gate_queries` biases."""
    heads, share = config.num_cross_attention_heads, config.num_place_channels / config.d_latents
    code, noise = _code_deviation(config), config.initializer_range
    norm = math.sqrt(share * code**2 + (1 - share) * noise**2 + config.layer_norm_eps)
    gain = gain_of(config.local_start_width, weight.shape[0] // heads) * norm / (math.sqrt(2) * code)
    turns = None
    if config.local_start_spread is not None:
        offsets = torch.special.ndtri(_evenly_random(heads, _most_axes(config)).clamp(0.01, 0.99))
        turns = torch.pi * config.local_start_spread * offsets
    return _without_gates(config, point(weight, code_columns(config, heads), [gain] * heads, turns))


def _cross_keys(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, C + P)`: each head reads the lowest band, and the channel that says which input it is."""
    owners = config.located_inputs_of_heads
    gain = gain_of(config.local_start_width, weight.shape[0] // len(owners))
    columns, gains = [], []
    for _, own in owners:
        columns.append(_lowest_band(own))
        gains.append(gain * _norm(config, own))
    weight = _without_gates(config, point(weight, columns, gains))
    heads = weight.unflatten(0, (len(owners), -1))
    for head, (name, own) in enumerate(owners):
        if name is not None and len(config.modalities) > 1:
            row, column = 2 * own.num_local_axes, _gate_column(config, sorted(config.modalities).index(name))
            heads[head, row, column] = _gate(weight.shape[0] // len(owners)) * _norm(config, own) / _SIGN
    return heads.flatten(0, 1)


def _lowest_band(own: PerceiverStudyConfig) -> torch.Tensor:
    """`(A, 2)`: where elements of this input have a sine and a cosine of the lowest band of each axis."""
    if _has_bytes(own):
        return torch.arange(2)[None]
    places = split_position_columns(torch.arange(own.num_position_channels), own.num_axes)
    return own.num_attended_channels + places[:, own.num_axis_features % 2 :: own.num_frequency_bands][:, :2]


def _pixel_values(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h V, C + P)`: rows of about unit length, from pixels alone."""
    owners = config.located_inputs_of_heads
    rows = []
    for (_, own), part in zip(owners, weight.unflatten(0, (len(owners), -1)), strict=True):
        if _has_bytes(own):
            rows.append(beside_wave(torch.randn_like(part) / math.sqrt(part.shape[1])))
            continue
        num_channels = own.num_attended_channels
        if num_channels == 0:  # points that are nothing but a place
            rows.append(part)
            continue
        pixels = torch.randn_like(part[:, :num_channels]) / math.sqrt(num_channels)
        rows.append(torch.cat([pixels, torch.zeros_like(part[:, num_channels:])], dim=1))
    return torch.cat(rows)


def _gate_channels(config: PerceiverStudyConfig, number: int, weight: torch.Tensor) -> torch.Tensor:
    """`(count,)`: learned padding of which one channel, of the last that all inputs have, says which input it is."""
    weight = weight.clone()
    column = _gate_column(config, number) - config.num_input_channels  # from the end
    weight[-config.modality_channels :] = 0
    weight[column] = _SIGN
    return weight


def _gate_queries(config: PerceiverStudyConfig, bias: torch.Tensor) -> torch.Tensor:
    """`(h E,)`: what turns the sign of its input into a logit, whatever the latent is."""
    owners = config.located_inputs_of_heads
    heads = bias.clone().unflatten(0, (len(owners), -1))
    for head, (_, own) in enumerate(owners):
        heads[head, 2 * own.num_local_axes] = _gate(heads.shape[1])
    return heads.flatten()


def _self_queries(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(h E, D)`: each head reads the centre that its keys read, moved by a random offset."""
    turns = torch.pi * config.local_start_reach * torch.randn(config.num_self_attention_heads, _most_axes(config))
    return _self_keys(config, weight, turns)


def _self_keys(config: PerceiverStudyConfig, weight: torch.Tensor, turns: torch.Tensor | None = None) -> torch.Tensor:
    """`(h E, D)`: each head reads a centre. The gain is right where the LayerNorm after a layer divides by 1."""
    heads = config.num_self_attention_heads
    gain = gain_of(config.local_start_reach, weight.shape[0] // heads) / math.sqrt(2)
    return point(weight, code_columns(config, heads), [gain] * heads, turns)


def _beside_centres(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """`(D, ..)`: nothing is added where the centres are."""
    num_codes = config.num_place_channels
    return torch.cat([torch.zeros_like(weight[:num_codes]), weight[num_codes:]])


def _norm(config: PerceiverStudyConfig, own: PerceiverStudyConfig) -> float:
    """What the LayerNorm divides elements of an input by.

    Waves have a variance of 1/2, coordinates one of 1/3, and pixels are taken to have one of 1.
    """
    if _has_bytes(own):  # the sum of embeddings of bytes, of runs of them and of positions
        return math.sqrt((2 + len(own.ngram_sizes or ())) / 2)
    coordinates = own.num_axes * (own.num_axis_features % 2) / 3
    waves = own.num_axes * own.num_frequency_bands
    sign = _SIGN**2 if config.modalities is not None and len(config.modalities) > 1 else 0
    return math.sqrt((own.num_attended_channels + coordinates + waves + sign) / config.num_input_channels)


def _most_axes(config: PerceiverStudyConfig) -> int:
    """Axes of the input that has most of them: what offsets are drawn for, whichever input a head looks at."""
    return max(own.num_local_axes for _, own in config.located_inputs)


def _has_bytes(own: PerceiverStudyConfig) -> bool:
    return own.input_type == "bytes"


def beside_wave(weight: torch.Tensor) -> torch.Tensor:
    """`(.., d)`: nothing where positions of bytes have their sine and cosine."""
    return torch.cat([torch.zeros_like(weight[:, :2]), weight[:, 2:]], dim=1)


def _code_deviation(config: PerceiverStudyConfig) -> float:
    """Like noise; or as large as what the layers add to latents, where centres are to be found beside that."""
    return config.initializer_range if config.local_start_reach is None else 1.0


def code_columns(config: PerceiverStudyConfig, num_heads: int) -> list[torch.Tensor]:
    """`[(A, 2), ..]`: channels of the latents with a centre for each head, in turn where they are more."""
    spots, first = [], 0
    for _, own in config.places_in_latents:
        spots.append(torch.arange(first, first + 2 * own.num_local_axes).view(own.num_local_axes, 2))
        first += 2 * own.num_local_axes
    return [spots[head % len(spots)] for head in range(num_heads)]


def _gate_column(config: PerceiverStudyConfig, number: int) -> int:
    """The channel of an element that says that it is of this modality, among the last, which all have for padding."""
    return config.num_input_channels - 1 - number


def _gate(head_width: int) -> float:
    """Of the query and of the key: together they add `_PREFERENCE` to the logits of a head's own input."""
    return math.sqrt(_PREFERENCE * math.sqrt(head_width))


def _without_gates(config: PerceiverStudyConfig, weight: torch.Tensor) -> torch.Tensor:
    """Rows that are to hold nothing but the gate of each head, of several inputs, as zeros."""
    if config.modalities is None or len(config.modalities) == 1:
        return weight
    owners = config.located_inputs_of_heads
    heads = weight.unflatten(0, (len(owners), -1)).clone()
    for head, (_, own) in enumerate(owners):
        heads[head, 2 * own.num_local_axes] = 0
    return heads.flatten(0, 1)


def gain_of(width: float, head_width: int) -> float:
    """Of queries and of keys, for spots of this width from sines and cosines of amplitude 1."""
    kappa = 1 / (math.pi * width) ** 2
    return math.sqrt(kappa * math.sqrt(head_width))


def point(
    weight: torch.Tensor, columns: list[torch.Tensor], gains: list[float], turns: torch.Tensor | None = None
) -> torch.Tensor:
    """`weight` whose first rows of each head read angles, given where their sines and cosines are.

    `columns` are `(A, 2)` for each head; `turns`, `(h, A)` or with more axes, are added to the angles.
    """
    heads = weight.clone().unflatten(0, (len(columns), -1))
    for head, (places, gain) in enumerate(zip(columns, gains, strict=True)):
        own = torch.zeros(len(places)) if turns is None else turns[head, : len(places)]
        sine, cosine = nn.functional.one_hot(places, weight.shape[1]).unbind(1)
        ahead, across = own.cos()[:, None], own.sin()[:, None]
        reading = torch.stack([ahead * sine + across * cosine, ahead * cosine - across * sine], dim=1).flatten(0, 1)
        heads[head, : len(reading)] = gain * reading.to(heads)
    return heads.flatten(0, 1)
