"""Every logit of a cross-attend as a sum of three parts: of the pixel, of its position, and of their common scale.

With the query `n` fixed, `modeling_perceiver_study/separable.py` has, up to a constant that the softmax cancels,

    logit_ni = (u_n . x_i + Y_n[row_i] + X_n[col_i]) / s_i

The bracket separates exactly: the mean that the LayerNorm subtracts is linear, so the share of each channel in it is
folded into `u`, `Y` and `X`. Only the standard deviation `s_i` mixes pixel and position. Therefore it has a part of its
own. With `r` the mean of `1 / s_i` over the pixels of an image,

    content  = r u_n . x_i                    position = r (Y_n[row_i] + X_n[col_i])
    scale    = (1 / s_i - r) (u_n . x_i + Y_n[row_i] + X_n[col_i])

The query itself may depend on the image: those of later cross-attends do, those of the first do not.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from modeling_perceiver_study.attention import CrossAttention
from modeling_perceiver_study.separable import GridInputs, fold_layer_norm, is_separable, split_input_columns


@dataclass
class LogitParts:
    """The parts of one cross-attend's logits, each `(B, h, N, H, W)`. Their sum is the logit up to a constant.

    Attributes:
        content: the part of the pixel.
        position: the part of the pixel's row and column.
        scale: the part of the standard deviation that both are divided by.
    """

    content: torch.Tensor
    position: torch.Tensor
    scale: torch.Tensor

    @property
    def logits(self) -> torch.Tensor:
        """`(B, h, N, H, W)`"""
        return self.content + self.position + self.scale

    def shares(self, over: tuple[int, ...] = (0, 1, 2)) -> torch.Tensor:
        """Return `(3, ..)`: shares of content, position and scale in the variance of logits over pixels. They sum to 1.

        A share is the covariance of part and logit, divided by the variance of the logit. It is below 0 if the part
        works against the others. Sums over `over` are taken before the division, so maps with more variance count more.

        Args:
            over: the axes to sum over, of images (0), heads (1) and latents (2).
        """
        parts = torch.stack([_centred(part) for part in (self.content, self.position, self.scale)])
        logits = parts.sum(dim=0)
        pixels = (-2, -1)
        return (parts * logits).sum(dim=(*(axis + 1 for axis in over), *pixels)) / logits.square().sum(
            dim=(*over, *pixels)
        )


@torch.no_grad()
def logit_parts(model: PreTrainedModel, pixel_values: torch.Tensor) -> list[LogitParts]:
    """Return the parts of each cross-attend in turn, in the model's dtype.

    Args:
        pixel_values: `(B, C, H, W)`.

    Raises:
        ValueError: the model has no Fourier positions on a grid.
    """
    calls = []

    def record(attention: CrossAttention, arguments: tuple):
        calls.append((attention, *arguments))

    attentions = {layer.attention for layer in model.base_model.cross_attends}
    hooks = [attention.register_forward_pre_hook(record) for attention in attentions]
    try:
        model(pixel_values=pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    return [_split(*call) for call in calls]


def _split(attention: CrossAttention, latents: torch.Tensor, inputs: tuple[GridInputs, ...]) -> LogitParts:
    (inputs,) = inputs
    if not is_separable(inputs):
        kind = attention.config.position_encoding_type
        raise ValueError(f"position_encoding_type={kind!r}: expected 'fourier', whose features are those of a grid")
    query = attention.split_heads(attention.q_proj(attention.layernorm(latents)))
    weight, _ = fold_layer_norm(attention.layernorm_inputs, attention.k_proj, query.dtype)
    projected = (query * attention.scaling) @ weight.unflatten(0, (attention.num_heads, -1))
    of_pixels, of_rows, of_columns = split_input_columns(projected, inputs.pixels.shape[1], inputs.num_axes)
    content = torch.einsum("bhnc,bcrw->bhnrw", of_pixels.expand(len(inputs.pixels), -1, -1, -1), inputs.pixels)
    rows, columns = of_rows @ inputs.rows[:, None].mT, of_columns @ inputs.columns[:, None].mT
    position = (rows[..., None] + columns[..., None, :]).expand_as(content)
    inverse = (inputs.variance + attention.layernorm_inputs.eps).rsqrt()[:, None, None]
    mean = inverse.mean(dim=(-2, -1), keepdim=True)
    return LogitParts(mean * content, mean * position, (inverse - mean) * (content + position))


def _centred(maps: torch.Tensor) -> torch.Tensor:
    return maps - maps.mean(dim=(-2, -1), keepdim=True)
