"""Small models for tests, and what compiling them needs."""

import shutil

import pytest
import torch
from torch import nn

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForImageClassification
from modeling_perceiver_study.attention import CrossAttention

SMALL = {
    "num_latents": 6,
    "d_latents": 16,
    "num_cross_attends": 3,
    "num_blocks": 3,
    "num_self_attends_per_block": 2,
    "num_cross_attention_heads": 2,
    "num_self_attention_heads": 4,
    "cross_attention_shape_for_attention": "q",
    "self_attention_widening_factor": 2,
    "cross_attention_widening_factor": 2,
    "image_size": [7, 5],
    "num_frequency_bands": 4,
    "num_labels": 5,
    # Fresh weights of the usual size attend almost evenly, which would hide a wrong scale or a wrong position.
    "initializer_range": 0.3,
}

# Small ones of each kind, as fields of a config.
GRIDS = {
    "image": {},
    "waveform": {"num_axes": 1, "image_size": 9},
    "video": {"num_axes": 3, "image_size": [3, 4, 2]},
    "stem": {"stem_type": "conv", "stem_channels": 4, "image_size": [29, 18]},
}

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++"
)


def small_config(**fields) -> PerceiverStudyConfig:
    return PerceiverStudyConfig(**{**SMALL, **fields})


def small_model(
    seed: int = 0, model_class: type = PerceiverStudyForImageClassification, **fields
) -> PerceiverStudyForImageClassification:
    """In evaluation mode, with LayerNorms and biases that are not the identity."""
    torch.manual_seed(seed)
    model = model_class(small_config(**fields)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
            elif "layernorm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def cross_attentions(model: PerceiverStudyForImageClassification) -> list[CrossAttention]:
    return [layer.attention for layer in model.perceiver.cross_attends]


class Logits(nn.Module):
    """`(B, C, S_1, .., S_A) -> (B, num_labels)`: one tensor in, one tensor out, as programs have it."""

    def __init__(self, model: PerceiverStudyForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits


def pixels(config: PerceiverStudyConfig, batch: int = 3, seed: int = 1, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, config.num_channels, *config.grid, generator=generator, dtype=dtype)


def mask(config: PerceiverStudyConfig, batch: int = 3, seed: int = 2) -> torch.Tensor:
    """About two thirds of the points that latents attend to, at least one a sample."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(batch, torch.Size(config.attended_grid).numel(), generator=generator) > 1 / 3
    points[:, 0] = True
    return points.long()


def replica_of(module: torch.nn.Module) -> torch.nn.Module:
    """A copy as `torch.nn.DataParallel` makes one for each device: with tensors in place of parameters."""
    replica = module._replicate_for_data_parallel()
    replica._former_parameters = {}
    for name, child in module._modules.items():
        if child is not None:
            setattr(replica, name, replica_of(child))
    for name, parameter in module._parameters.items():
        if parameter is None:
            replica._parameters[name] = None
        else:
            replica._former_parameters[name] = parameter.view_as(parameter)
            setattr(replica, name, replica._former_parameters[name])
    return replica
