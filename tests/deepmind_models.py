"""Perceivers of transformers with random weights, as folders to convert."""

from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import PerceiverConfig, PerceiverImageProcessorPil

import convert
from modeling_perceiver_study import PerceiverStudyForImageClassification, PerceiverStudyImageProcessor
from modeling_perceiver_study.position import fourier_axis_features

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9}
FOURIER, LEARNED, CONV = convert.ARCHITECTURES
TOY = {
    "num_latents": 6,
    "d_latents": 16,
    "num_blocks": 2,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 1,
    "num_labels": 5,
    "image_size": 24,
    # Fresh weights of the usual size attend almost evenly, which would hide a wrong scale or a wrong position.
    "initializer_range": 0.3,
}
# deepmind/vision-perceiver-*, but for the weights.
OFFICIAL = {
    "num_latents": 512,
    "d_latents": 1024,
    "num_blocks": 8,
    "num_self_attends_per_block": 6,
    "num_self_attention_heads": 8,
    "num_cross_attention_heads": 1,
    "num_labels": 1000,
    "image_size": 224,
    "initializer_range": 0.05,
}


def their_model(architecture: str, seed: int = 0, **fields):
    """In evaluation mode, with norms, statistics and biases that are not the identity."""
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(PerceiverConfig(**fields)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running" in name or (name.endswith("weight") and "norm" in name):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                tensor.normal_(std=0.2)
    return model


def save(model, folder: Path):
    """With a processor of the usual proportions for the size in the configuration."""
    size = model.config.image_size
    model.save_pretrained(folder)
    processor = PerceiverImageProcessorPil(
        size={"height": size, "width": size}, crop_size={"height": size * 8 // 7, "width": size * 8 // 7}
    )
    processor.save_pretrained(folder)


def convert_and_load(source: Path | str, dest: Path):
    """A model and an image processor of ours."""
    convert.main([str(source), str(dest)])
    model = PerceiverStudyForImageClassification.from_pretrained(dest).eval()
    return model, PerceiverStudyImageProcessor.from_pretrained(dest)


def images(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Noise, always the same, of each `(height, width)`; two images if none is given."""
    random = np.random.default_rng(0)
    sizes = sizes or ((40, 50), (60, 33))
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def their_positions(model: PerceiverStudyForImageClassification, grid: list[int]) -> dict[str, torch.Tensor]:
    """Fourier features in float32, in which transformers computes them for models in float64 too."""
    config = model.config
    if config.position_encoding_type == "learned":
        return {}
    features = fourier_axis_features(grid, config.num_frequency_bands, config.axis_max_frequencies)
    return {"position_features": torch.cat(features)[None]}


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCES[dtype])


def run_both(theirs, ours, pixels, dtype, **kwargs):
    """Outputs of both in `dtype`, for the same positions."""
    theirs, ours, pixels = theirs.to(dtype), ours.to(dtype), pixels.to(dtype)
    grid = ours.config.attended_grid if ours.config.stem_type == "conv" else list(pixels.shape[2:])
    return theirs(pixels, **kwargs), ours(pixels, **their_positions(ours, grid), **kwargs)
