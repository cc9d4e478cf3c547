"""The Perceiver once more, for reading: an array of pixels beside positions, normalised, projected, attended to.

It takes the weights of a model of ours and nothing else of it, and works in float64. Everything fast is judged by it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForImageClassification, PerceiverStudyModel
from modeling_perceiver_study.attention import CrossAttention, MultiHeadAttention, PerceiverStudyLayer, SelfAttention


def positions(config: PerceiverStudyConfig, grid: list[int]) -> torch.Tensor:
    """`(M, P)`, point by point and number by number, from the paper's formula."""
    rows = []
    for flat in range(math.prod(grid)):
        point, rest = [], flat
        for size in reversed(grid):
            point.insert(0, -1 + 2 * (rest % size) / max(size - 1, 1))
            rest //= size
        bands = config.num_frequency_bands
        angles = []
        for coordinate, highest in zip(point, config.axis_max_frequencies, strict=True):
            for band in range(bands):
                frequency = 1 + (highest - 1) * band / max(bands - 1, 1)
                angles.append(math.pi * frequency * coordinate)
        coordinates = point if config.concat_positions else []
        rows.append([*coordinates, *map(math.sin, angles), *map(math.cos, angles)])
    return torch.tensor(rows, dtype=torch.float64)


def byte_array(config: PerceiverStudyConfig, pixel_values: torch.Tensor) -> torch.Tensor:
    pixels = pixel_values.double().flatten(2).transpose(1, 2)
    table = positions(config, list(pixel_values.shape[2:]))
    return torch.cat([pixels, table.expand(len(pixels), -1, -1)], dim=-1)


def normalize(norm: nn.LayerNorm, values: torch.Tensor) -> torch.Tensor:
    centred = values - values.mean(-1, keepdim=True)
    normal = centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
    return normal * norm.weight.double() + norm.bias.double()


def project(linear: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    return values @ linear.weight.double().T + linear.bias.double()


def attend(
    attention: MultiHeadAttention, latents: torch.Tensor, inputs: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(B, N, D), (B, M, K) -> (B, N, D), (B, h, N, M)`, one head after the other.

    The mask is `(B, M)` or `(1 or B, 1 or h, 1 or N, M)`, true where attended. What sees nothing sums up nothing.
    """
    latents = normalize(attention.layernorm, latents)
    inputs = normalize(attention.layernorm_inputs, inputs) if isinstance(attention, CrossAttention) else latents
    query, key = project(attention.q_proj, latents), project(attention.k_proj, inputs)
    value = project(attention.v_proj, inputs)
    results, maps = [], []
    heads, batch = attention.num_heads, len(inputs)
    shown = torch.ones(batch, inputs.shape[1]) if mask is None else mask
    shown = (shown if shown.ndim == 4 else shown[:, None, None]).bool()
    shown = shown.expand(batch, heads, latents.shape[1], -1).unbind(1)
    for q, k, v, seen in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), shown, strict=True):
        logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        maps.append(logits.masked_fill(~seen, -1e9).softmax(-1) * seen)
        results.append(maps[-1] @ v)
    return project(attention.o_proj, torch.cat(results, -1)), torch.stack(maps, 1)


def run_layer(layer: PerceiverStudyLayer, latents, inputs=None, mask=None) -> torch.Tensor:
    attended, _ = attend(layer.attention, latents, latents if inputs is None else inputs, mask)
    latents = attended + latents if layer.use_query_residual else attended
    hidden = project(layer.mlp.fc1, normalize(layer.layernorm, latents))
    assert layer.attention.config.hidden_act == "gelu"
    return latents + project(layer.mlp.fc2, F.gelu(hidden))


def latents(perceiver: PerceiverStudyModel, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """`(B, M, K) -> (B, N, D)`"""
    config, states = perceiver.config, perceiver.latents.weight.double().expand(len(inputs), -1, -1)
    for block in range(config.num_blocks):
        if block < config.num_cross_attends:
            shared = config.share_cross_attend_weights
            layer = perceiver.cross_attends[min(block, 1) if shared else block]
            states = run_layer(layer, states, inputs, mask)
        for layer in perceiver.blocks[0 if config.share_block_weights else block]:
            assert isinstance(layer.attention, SelfAttention)
            states = run_layer(layer, states)
    return states


def logits(
    model: PerceiverStudyForImageClassification, inputs: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """`(B, M, C + P) -> (B, num_labels)`"""
    states = latents(model.perceiver, inputs, mask)
    if model.config.decoder_type == "query":
        query = model.decoder.query.weight.double().expand(len(inputs), -1, -1)
        pooled = run_layer(model.decoder.layer, query, states)[:, 0]
    else:
        pooled = states.mean(1)
    return project(model.classifier, pooled)
