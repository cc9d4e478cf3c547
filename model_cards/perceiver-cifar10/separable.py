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

A cross-attend then costs `C + 2` multiply-adds and one exponential for each latent and point, instead of about
`2 (C + P)` multiply-adds. It holds for any number of heads and of axes: all axes but the last together make the rows.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast

from .position import join_position_columns, split_position_columns
from .streaming import GridAttention, attend_with_map


class GridInputs(NamedTuple):
    """Inputs on a grid of `M = R * W` points, with positions left in separable form.

    Attributes:
        pixels: `(B, C, R, W)`.
        rows: `(1 or B, R, F_r)`, features of all axes but the last; of the only axis, where there is one.
        columns: `(1 or B, W, F_w)`, features of the last axis; `W = 1` and `F_w = 0` where there is one axis.
        variance: `(B, R, W)`, over the `C + P` channels of each point; what a LayerNorm of the byte array would see.
        num_axes: `A`.
    """

    pixels: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    variance: torch.Tensor
    num_axes: int


def grid_inputs(pixels: torch.Tensor, axis_features: list[torch.Tensor]) -> GridInputs:
    """`(B, C, S_1, .., S_A), [(1 or B, S_a, F)] -> GridInputs`, all in one dtype."""
    *leading, columns = axis_features if len(axis_features) > 1 else (*axis_features, axis_features[0][:, :1, :0])
    rows = leading[0]
    for features in leading[1:]:
        batch, num_rows, size = max(rows.shape[0], features.shape[0]), rows.shape[1], features.shape[1]
        rows = torch.cat(
            [
                rows[:, :, None].expand(batch, num_rows, size, -1),
                features[:, None].expand(batch, num_rows, size, -1),
            ],
            dim=-1,
        ).flatten(1, 2)
    pixels = pixels.reshape(*pixels.shape[:2], rows.shape[1], columns.shape[1])
    parts = [_moments(pixels, 1)]
    parts.append(tuple(moment.unsqueeze(-1) for moment in _moments(rows, -1)))
    if columns.shape[-1]:
        parts.append(tuple(moment.unsqueeze(-2) for moment in _moments(columns, -1)))
    widths = [pixels.shape[1], rows.shape[-1], columns.shape[-1]]
    mean = sum(width * part_mean for width, (part_mean, _) in zip(widths, parts, strict=False)) / sum(widths)
    # Sums of squares of differences: unlike E[z^2] - E[z]^2 this loses nothing where the mean is large.
    scatter = sum(
        part_scatter + width * (part_mean - mean).square()
        for width, (part_mean, part_scatter) in zip(widths, parts, strict=False)
    )
    return GridInputs(pixels, rows, columns, scatter / sum(widths), len(axis_features))


def _moments(values: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean along `dim`, and sum of squared differences from it."""
    mean = values.mean(dim, keepdim=True)
    return mean.squeeze(dim), (values - mean).square().sum(dim)


def byte_array(inputs: GridInputs) -> torch.Tensor:
    """`(B, M, C + P)`: the array that was never built, for those who need it."""
    (num_rows, num_columns), batch = inputs.pixels.shape[2:], inputs.pixels.shape[0]
    rows = inputs.rows[:, :, None].expand(-1, -1, num_columns, -1)
    columns = inputs.columns[:, None].expand(-1, num_rows, -1, -1)
    positions = join_position_columns(torch.cat([rows, columns], dim=-1).unflatten(-1, (inputs.num_axes, -1)))
    return torch.cat([inputs.pixels.flatten(2).transpose(1, 2), positions.flatten(1, 2).expand(batch, -1, -1)], dim=-1)


def fold_layer_norm(norm: nn.LayerNorm, projection: nn.Linear, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """`(E, C + P), (E,)`: `W'` and `const` such that `projection(norm(z)) = W' z / s + const`.

    Only where the weights are all that the two layers are, as `paths.takes_separable_path` says.
    """
    weight, bias = projection.weight.to(dtype), projection.bias.to(dtype)
    bias = bias + weight @ norm.bias.to(dtype)
    weight = weight * norm.weight.to(dtype)
    return weight - weight.mean(dim=-1, keepdim=True), bias


def split_input_columns(weight: torch.Tensor, num_channels: int, num_axes: int) -> list[torch.Tensor]:
    """`(.., C + P) -> (.., C), (.., F_r), (.., F_w)`: columns for pixels, rows and columns of a `GridInputs`."""
    axes = split_position_columns(weight[..., num_channels:], num_axes)
    num_leading = max(num_axes - 1, 1)
    return [weight[..., :num_channels], axes[..., :num_leading, :].flatten(-2), axes[..., num_leading:, :].flatten(-2)]


def separable_attention(
    query: torch.Tensor,
    inputs: GridInputs,
    norm: nn.LayerNorm,
    key_projection: nn.Linear,
    value_projection: nn.Linear,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    output_attentions: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`(1 or B, h, N, E), GridInputs -> (B, N, h, V), (B, h, N, M) or None`: attended values and attention weights.

    Equal to normalising, projecting and attending to the byte array. In the inputs' dtype also under autocast, except
    for the product of values, as its result is rounded anyway. The map of weights is never stored unless it is asked
    for or dropped from.

    Args:
        query: projected queries; a batch of 1 says that all samples ask the same, and saves work.
        norm: the LayerNorm of the byte array; its eps is read at each call.
        attention_mask: `(B, M)`, True where attended, at least once a sample; None attends everywhere.
        dropout: probability with which an attention weight is dropped.
    """
    with maybe_autocast(query.device.type, enabled=False):
        num_heads, channels_per_head = query.shape[1], query.shape[-1]
        dtype, num_channels = inputs.pixels.dtype, inputs.pixels.shape[1]
        key_weight, _ = fold_layer_norm(norm, key_projection, dtype)  # the softmax cancels the constant
        asked = (query.to(dtype) * channels_per_head**-0.5) @ key_weight.unflatten(0, (num_heads, channels_per_head))
        asked = split_input_columns(asked, num_channels, inputs.num_axes)
        inverse_deviation = (inputs.variance + norm.eps).rsqrt()
        if attention_mask is not None:
            attention_mask = attention_mask.view_as(inputs.variance)
        grid = (inputs.pixels, inputs.rows, inputs.columns, inverse_deviation, attention_mask)
        weights = None
        if output_attentions or dropout:
            *sums, weights = attend_with_map(*asked, *grid, dropout)
        else:
            # The same grid for all heads: to it they are more latents.
            sums = GridAttention.apply(*(part.flatten(1, 2) for part in asked), *grid)
            sums = [part.unflatten(1, (num_heads, -1)) for part in sums]

        value_weight, value_bias = fold_layer_norm(norm, value_projection, dtype)
        value_weight = value_weight.unflatten(0, (num_heads, -1))
        value_weight = torch.cat(split_input_columns(value_weight, num_channels, inputs.num_axes), dim=-1)
        value_bias = value_bias.unflatten(0, (num_heads, -1))
        # Weights of a latent add up to 1, unless some were dropped.
        constant = weights.sum(dim=-1).mT[..., None] * value_bias if dropout else value_bias
    attended = torch.einsum("bhnk,hvk->bnhv", torch.cat(sums, dim=-1), value_weight)
    return attended + constant.to(attended.dtype), weights if output_attentions else None
