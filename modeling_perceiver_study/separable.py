"""Cross-attention to a grid without ever building the `(M, C + P)` array of pixels and positions.

Others concatenate `z_i = [x_i, f(row_i), f(col_i)]`, normalise it, project it to keys and values, and attend. On a grid
all of that separates exactly, since the features of a point are those of its coordinates. Fold the gain of the
LayerNorm into the projection and subtract from each row of it its mean, `W' = W diag(g) (1 - 1 1^T / (C + P))`: then
`W' z_i` needs no centring, and

    key_i = W'_k z_i / s_i + const        logit_ni = (u_n . x_i + Y_n[row_i] + X_n[col_i]) / s_i + const_n
    u_n = q_n W'_k                        Y_n = f(rows) (q_n W'_k)_rows   X_n = f(cols) (q_n W'_k)_cols

where `s_i` is the standard deviation that the LayerNorm divides by. The constant cancels in the softmax. Values need
only sums over the grid: with `a` the attention weights and `b_ni = a_ni / s_i`,

    out_n = W'_v [ sum_i b_ni x_i , sum_row f(row) b_n[row, :] , sum_col f(col) b_n[:, col] ] + const

A cross-attend then costs `C + A` multiply-adds and one exponential for each latent and point, instead of about
`2 (C + P)` multiply-adds; it holds for any number of axes and heads.
"""

from typing import NamedTuple

import torch
from torch import nn

from .position import split_position_columns


class GridInputs(NamedTuple):
    """Inputs on a grid of `M = S_1 * .. * S_A` points, with positions left in separable form.

    Attributes:
        pixels: `(B, C, M)`.
        axis_features: for each axis `(1 or B, S_a, F)`.
        variance: `(B, M)`, over the `C + P` channels of each point; what a LayerNorm of the byte array would see.
    """

    pixels: torch.Tensor
    axis_features: tuple[torch.Tensor, ...]
    variance: torch.Tensor

    @property
    def grid(self) -> list[int]:
        return [features.shape[-2] for features in self.axis_features]


def grid_inputs(pixels: torch.Tensor, axis_features: list[torch.Tensor]) -> GridInputs:
    """`(B, C, S_1, .., S_A), [(1 or B, S_a, F)] -> GridInputs`, in float32 or better."""
    dtype = torch.promote_types(torch.float32, pixels.dtype)
    pixels = pixels.to(dtype)
    axis_features = tuple(features.to(dtype) for features in axis_features)
    num_channels, num_axes = pixels.shape[1], len(axis_features)
    # Each part of z_i (pixels, features of each axis) as its size, its mean and its sum of squares about that mean.
    parts = [(num_channels, *_mean_and_scatter(pixels, dim=1))]
    for axis, features in enumerate(axis_features):
        shape = [-1, *(features.shape[-2] if other == axis else 1 for other in range(num_axes))]
        mean, scatter = _mean_and_scatter(features, dim=-1)
        parts.append((features.shape[-1], mean.reshape(shape), scatter.reshape(shape)))
    width = sum(size for size, _, _ in parts)
    overall = sum(size * mean for size, mean, _ in parts) / width
    # A sum of squares of differences: unlike E[z^2] - E[z]^2 it loses nothing when the mean is large.
    scatter = sum(scatter + size * (mean - overall).square() for size, mean, scatter in parts)
    return GridInputs(pixels.flatten(2), axis_features, (scatter / width).flatten(1))


def _mean_and_scatter(values: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    mean = values.mean(dim, keepdim=True)
    return mean.squeeze(dim), (values - mean).square().sum(dim)


def fold_layer_norm(norm: nn.LayerNorm, projection: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """`(E, C + P), (E,)`: `W'` and `const` such that `projection(norm(z)) = W' z / s + const`, in float32 or better."""
    dtype = torch.promote_types(torch.float32, projection.weight.dtype)
    weight = projection.weight.to(dtype)
    bias = projection.bias.to(dtype) + weight @ norm.bias.to(dtype)
    weight = weight * norm.weight.to(dtype)
    return weight - weight.mean(dim=-1, keepdim=True), bias


def separable_attention(
    query: torch.Tensor,
    grid_inputs: GridInputs,
    norm: nn.LayerNorm,
    key_projection: nn.Linear,
    value_projection: nn.Linear,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(1 or B, h, N, E / h), GridInputs -> (B, N, V), (B, h, N, M)`: attended values and attention weights.

    Equal to projecting and attending to the normalised byte array, for weights of width `E` and `V`; computed in float32
    or better also under autocast.

    Args:
        query: projected queries; a batch of 1 says that all samples ask the same, and saves work.
        norm: the LayerNorm of the byte array; its eps is read at each call.
        attention_mask: `(B, M)`, True where attended; None attends everywhere.
        dropout: probability with which an attention weight is dropped.
    """
    with torch.autocast(query.device.type, enabled=False):
        num_heads, channels_per_head = query.shape[1], query.shape[-1]
        pixels, axis_features, variance = grid_inputs
        num_channels, num_axes, grid = pixels.shape[1], len(axis_features), grid_inputs.grid
        inverse_deviation = (variance + norm.eps).rsqrt()[:, None, None]

        key_weight, _ = fold_layer_norm(norm, key_projection)
        query = query.to(key_weight.dtype) * channels_per_head**-0.5
        asked = query @ key_weight.unflatten(0, (num_heads, channels_per_head))
        asked_positions = split_position_columns(asked[..., num_channels:], num_axes)
        logits = asked[..., :num_channels] @ pixels[:, None]
        logits = logits.unflatten(-1, grid)
        for axis, features in enumerate(axis_features):
            axis_logits = asked_positions[..., axis, :] @ features[:, None].mT
            logits = logits + _along(axis_logits, axis, num_axes)
        logits = logits.flatten(-num_axes) * inverse_deviation
        if attention_mask is not None:
            logits = logits.masked_fill(~attention_mask[:, None, None], torch.finfo(logits.dtype).min)
        weights = nn.functional.dropout(logits.softmax(dim=-1), dropout)

        value_weight, value_bias = fold_layer_norm(norm, value_projection)
        value_weight = value_weight.unflatten(0, (num_heads, -1))
        scaled = weights * inverse_deviation
        attended = scaled @ pixels[:, None].mT @ value_weight[..., :num_channels].mT
        value_positions = split_position_columns(value_weight[..., num_channels:], num_axes)
        scaled = scaled.unflatten(-1, grid)
        for axis, features in enumerate(axis_features):
            others = [-1 - other for other in range(num_axes) if other != num_axes - 1 - axis]
            marginal = scaled.sum(others) if others else scaled
            attended = attended + marginal @ features[:, None] @ value_positions[..., axis, :].mT
        value_bias = value_bias.unflatten(0, (num_heads, 1, -1))
        # Without dropout the weights of a latent add up to 1.
        attended = attended + (weights.sum(dim=-1, keepdim=True) * value_bias if dropout else value_bias)
    return attended.transpose(1, 2).flatten(2), weights


def _along(axis_logits: torch.Tensor, axis: int, num_axes: int) -> torch.Tensor:
    """`(.., S_a) -> (.., 1, .., S_a, .., 1)`, ready to be added to `(.., S_1, .., S_A)`."""
    shape = [axis_logits.shape[-1] if other == axis else 1 for other in range(num_axes)]
    return axis_logits.unflatten(-1, shape)
