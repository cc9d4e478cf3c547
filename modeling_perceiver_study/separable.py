"""Cross-attention to grids without ever building the `(M, C + P)` array of pixels and positions.

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

Several inputs are attended to under one softmax, each in its own form: an array `(B, M, K)` is a grid of one column
without positions. Channels `c` that are the same for all points of an input, as learned padding is, separate too: they
add `q_n W'_c c` to the bracket, and to the values `W'_c c` times the sum of `b_n`. So they are computed as one more
feature of the rows, which is 1 everywhere.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast

from .position import join_position_columns, split_position_columns
from .streaming import GridAttention, logits_with_map, sums_with_map


class GridInputs(NamedTuple):
    """One input, as `M = R * W` points on a grid, with positions left in separable form.

    Attributes:
        pixels: `(B, C, R, W)`; of an array without separable positions `(B, K, M, 1)`.
        rows: `(1 or B, R, F_r)`, features of all axes but the last; of the only axis, where there is one.
        columns: `(1 or B, W, F_w)`, features of the last axis; `W = 1` and `F_w = 0` where there is one axis.
        variance: `(B, R, W)`, over all channels of each point; what a LayerNorm of the byte array would see. None has
            it computed where it is needed.
        num_axes: `A`.
        constant: `(K_c,)`, channels that are the same for all points and come last, or None.
        attention_mask: `(B, M)`, True where latents may attend; None attends everywhere.
    """

    pixels: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    variance: torch.Tensor | None
    num_axes: int
    constant: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None


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
    inputs = GridInputs(pixels, rows, columns, None, len(axis_features))
    return inputs._replace(variance=_variance(inputs))


def array_inputs(array: torch.Tensor, attention_mask: torch.Tensor | None = None) -> GridInputs:
    """`(B, M, K) -> GridInputs` without positions in separable form, as views of the array."""
    rows, columns = array.new_empty(1, array.shape[1], 0), array.new_empty(1, 1, 0)
    return GridInputs(array.mT[..., None], rows, columns, None, 1, attention_mask=attention_mask)


def with_constant(inputs: GridInputs, constant: torch.Tensor) -> GridInputs:
    """The same points with `constant`, `(K_c,)`, as their last channels."""
    inputs = inputs._replace(constant=constant.to(inputs.pixels.dtype))
    return inputs if inputs.variance is None else inputs._replace(variance=_variance(inputs))


def is_separable(inputs: GridInputs) -> bool:
    """Whether there are positions in separable form; otherwise it is an array in disguise."""
    return inputs.rows.shape[-1] + inputs.columns.shape[-1] > 0


def num_points(inputs: GridInputs) -> int:
    """`M`"""
    return inputs.pixels.shape[2] * inputs.pixels.shape[3]


def join_parts(*fields) -> tuple[GridInputs, ...]:
    """Inputs from their fields, one after the other."""
    count = len(GridInputs._fields)
    return tuple(GridInputs(*fields[first : first + count]) for first in range(0, len(fields), count))


def joint_mask(parts: Sequence[GridInputs]) -> torch.Tensor | None:
    """`(B, M)` over the points of all parts one after the other; None where no part has a mask."""
    if all(part.attention_mask is None for part in parts):
        return None
    return torch.cat(
        [
            part.pixels.new_ones(part.pixels.shape[0], num_points(part), dtype=torch.bool)
            if part.attention_mask is None
            else part.attention_mask
            for part in parts
        ],
        dim=1,
    )


def _variance(inputs: GridInputs) -> torch.Tensor:
    """`-> (B, R, W)`, from the moments of the parts that a point is made of."""
    pixels, rows, columns, constant = inputs.pixels, inputs.rows, inputs.columns, inputs.constant
    widths, parts = [pixels.shape[1]], [_moments(pixels, 1)]
    if rows.shape[-1]:
        widths.append(rows.shape[-1])
        parts.append(tuple(moment.unsqueeze(-1) for moment in _moments(rows, -1)))
    if columns.shape[-1]:
        widths.append(columns.shape[-1])
        parts.append(tuple(moment.unsqueeze(-2) for moment in _moments(columns, -1)))
    if constant is not None:
        widths.append(constant.shape[0])
        parts.append(_moments(constant, 0))
    mean = sum(width * part_mean for width, (part_mean, _) in zip(widths, parts, strict=True)) / sum(widths)
    # Sums of squares of differences: unlike E[z^2] - E[z]^2 this loses nothing where the mean is large.
    scatter = sum(
        part_scatter + width * (part_mean - mean).square()
        for width, (part_mean, part_scatter) in zip(widths, parts, strict=True)
    )
    return scatter / sum(widths)


def _moments(values: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean along `dim`, and sum of squared differences from it."""
    mean = values.mean(dim, keepdim=True)
    return mean.squeeze(dim), (values - mean).square().sum(dim)


def byte_array(inputs: GridInputs) -> torch.Tensor:
    """`(B, M, K)`: the array that was never built, for those who need it."""
    (num_rows, num_columns), batch = inputs.pixels.shape[2:], inputs.pixels.shape[0]
    channels = [inputs.pixels.flatten(2).transpose(1, 2)]
    if is_separable(inputs):
        rows = inputs.rows[:, :, None].expand(-1, -1, num_columns, -1)
        columns = inputs.columns[:, None].expand(-1, num_rows, -1, -1)
        positions = join_position_columns(torch.cat([rows, columns], dim=-1).unflatten(-1, (inputs.num_axes, -1)))
        channels.append(positions.flatten(1, 2).expand(batch, -1, -1))
    if inputs.constant is not None:
        channels.append(inputs.constant.expand(*channels[0].shape[:2], -1))
    return torch.cat(channels, dim=-1) if len(channels) > 1 else channels[0]


def fold_layer_norm(norm: nn.LayerNorm, projection: nn.Linear, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """`(E, K), (E,)`: `W'` and `const` such that `projection(norm(z)) = W' z / s + const`.

    Only where the weights are all that the two layers are, as `paths.takes_separable_path` says.
    """
    weight, bias = projection.weight.to(dtype), projection.bias.to(dtype)
    bias = bias + weight @ norm.bias.to(dtype)
    weight = weight * norm.weight.to(dtype)
    return weight - weight.mean(dim=-1, keepdim=True), bias


def split_input_columns(weight: torch.Tensor, num_channels: int, num_axes: int) -> list[torch.Tensor]:
    """`(.., C + P) -> (.., C), (.., F_r), (.., F_w)`: columns for pixels, rows and columns of a `GridInputs`."""
    axes = split_position_columns(weight[..., num_channels:], num_axes)
    rows = axes[..., : max(num_axes - 1, 1), :].flatten(-2)
    return [weight[..., :num_channels], rows, axes[..., -1, :] if num_axes > 1 else weight[..., :0]]


def _columns_of(weight: torch.Tensor, inputs: GridInputs) -> list[torch.Tensor]:
    """`(.., K) -> (.., C), (.., F_r), (.., F_w)`, the constant as one more feature of the rows."""
    own = weight.shape[-1] - (0 if inputs.constant is None else inputs.constant.shape[0])
    pixels, rows, columns = split_input_columns(weight[..., :own], inputs.pixels.shape[1], inputs.num_axes)
    if inputs.constant is not None:
        of_constant = weight[..., own:] @ inputs.constant.to(weight.dtype)
        rows = torch.cat([rows, of_constant[..., None]], dim=-1)
    return [pixels, _not_empty(rows), _not_empty(columns)]


def _not_empty(features: torch.Tensor) -> torch.Tensor:
    """With a feature of zeros where there is none: ONNX has no shapes with a zero in them."""
    return features if features.shape[-1] else nn.functional.pad(features, (0, 1))


def _grid(inputs: GridInputs, eps: float, dtype: torch.dtype) -> list[torch.Tensor]:
    """Pixels, rows, columns and inverse deviation, as `GridAttention` takes them."""
    pixels, rows, columns = (part.to(dtype) for part in inputs[:3])
    constant = None if inputs.constant is None else inputs.constant.to(dtype)
    variance = inputs.variance
    if variance is None:
        variance = _variance(inputs._replace(pixels=pixels, rows=rows, columns=columns, constant=constant))
    rows = rows if constant is None else nn.functional.pad(rows, (0, 1), value=1.0)
    return [pixels, _not_empty(rows), _not_empty(columns), (variance + eps).rsqrt()]


def separable_attention(
    query: torch.Tensor,
    inputs: Sequence[GridInputs],
    norm: nn.LayerNorm,
    key_projection: nn.Linear,
    value_projection: nn.Linear,
    dropout: float = 0.0,
    output_attentions: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`(1 or B, h, N, E), GridInputs -> (B, N, h, V), (B, h, N, M) or None`: attended values and attention weights.

    Equal to normalising, projecting and attending to the byte arrays of all inputs, one after the other. In the inputs'
    dtype, float32 or better, also under autocast, except for the product of values, as its result is rounded anyway.
    The map of weights is never stored unless it is asked for or dropped from. Where a mask shows nothing of a sample,
    the result is finite and means nothing.

    Args:
        query: projected queries; a batch of 1 says that all samples ask the same, and saves work.
        norm: the LayerNorm of the byte array; its eps is read at each call.
        dropout: probability with which an attention weight is dropped.
    """
    with maybe_autocast(query.device.type, enabled=False):
        num_heads, channels_per_head = query.shape[1], query.shape[-1]
        dtype = functools.reduce(torch.promote_types, [part.pixels.dtype for part in inputs], torch.float32)
        key_weight, _ = fold_layer_norm(norm, key_projection, dtype)  # the softmax cancels the constant
        queries = (query.to(dtype) * channels_per_head**-0.5) @ key_weight.unflatten(0, (num_heads, channels_per_head))
        queries_of_parts = [_columns_of(queries, part) for part in inputs]
        grids = [_grid(part, norm.eps, dtype) for part in inputs]
        masks = [
            None if part.attention_mask is None else part.attention_mask.view_as(grid[3])
            for part, grid in zip(inputs, grids, strict=True)
        ]
        weights = None
        if output_attentions or dropout:
            logits = [logits_with_map(*part) for part in zip(queries_of_parts, grids, masks, strict=True)]
            weights = nn.functional.dropout(torch.cat(logits, dim=-1).softmax(dim=-1), dropout)
            shares = weights.split([part.shape[-1] for part in logits], dim=-1)
            sums = [sums_with_map(share, grid) for share, grid in zip(shares, grids, strict=True)]
        else:
            sums = _streamed_sums(queries_of_parts, grids, masks)
        value_weight, value_bias = fold_layer_norm(norm, value_projection, dtype)
        value_weight = value_weight.unflatten(0, (num_heads, -1))
        value_weights = [torch.cat(_columns_of(value_weight, part), dim=-1) for part in inputs]
        value_bias = value_bias.unflatten(0, (num_heads, -1))
        # Weights of a latent add up to 1, unless some were dropped.
        constant = weights.sum(dim=-1).mT[..., None] * value_bias if dropout else value_bias
    attended = sum(
        torch.einsum("bhnk,hvk->bnhv", torch.cat(part, dim=-1), weight)
        for part, weight in zip(sums, value_weights, strict=True)
    )
    return attended + constant.to(attended.dtype), weights if output_attentions else None


def _streamed_sums(
    queries_of_parts: Sequence[Sequence[torch.Tensor]],
    grids: Sequence[Sequence[torch.Tensor]],
    masks: Sequence[torch.Tensor | None],
) -> list[list[torch.Tensor]]:
    """Of each input `(B, h, N, C), (B, h, N, F_r), (B, h, N, F_w)`, weighted by one softmax over the points of all."""
    several, results = len(grids) > 1, []
    for queries, grid, mask in zip(queries_of_parts, grids, masks, strict=True):
        # The same grid for all heads: to it they are more latents.
        found = GridAttention.apply(*(part.flatten(1, 2) for part in queries), *grid, mask, several)
        results.append([part.unflatten(1, queries[0].shape[1:3]) for part in found])
    if not several:
        return results
    shares = torch.stack([found[3] for found in results]).softmax(dim=0)[..., None]
    return [[share * part for part in found[:3]] for share, found in zip(shares, results, strict=True)]
