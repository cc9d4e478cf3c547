"""Where the latents of a model look."""

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def cross_attention_maps(model: PreTrainedModel, pixel_values: torch.Tensor, **inputs) -> list[torch.Tensor]:
    """`(B, C, H, W) -> [(B, h, N, H', W')]`, one for each cross-attend, in float32 on the CPU.

    Weights of a latent add up to 1. `H', W'` are `H, W`, or what a stem leaves of them.
    """
    maps = model(pixel_values=pixel_values, **inputs, output_attentions=True).cross_attentions
    height, width = pixel_values.shape[-2:]
    if model.config.stem_type == "conv":
        height, width = (height - 1) // 4, (width - 1) // 4
    return [weights.unflatten(-1, (height, width)).float().cpu() for weights in maps]
