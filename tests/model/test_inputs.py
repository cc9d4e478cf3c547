"""Stems and learned positions. That a stem is the right one is judged by transformers', in test_deepmind.py."""

import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForImageClassification
from tests import reference
from tests.models import mask, pixels, small_config, small_model

STEMS = {
    "linear": {"stem_type": "linear", "stem_channels": 9},
    "linear, waveform": {"stem_type": "linear", "stem_channels": 4, "num_axes": 1, "image_size": 21},
    "conv": {"stem_type": "conv", "stem_channels": 8, "image_size": [29, 18]},
    "conv, waveform": {"stem_type": "conv", "stem_channels": 6, "num_axes": 1, "image_size": 43},
    "conv, clip": {"stem_type": "conv", "stem_channels": 5, "num_axes": 3, "image_size": [9, 14, 11]},
}
CONV = [name for name in STEMS if name.startswith("conv")]


@pytest.fixture(params=STEMS.values(), ids=STEMS.keys())
def stem(request):
    return request.param


@pytest.mark.parametrize("position_encoding_type", ["fourier", "learned", "none"])
def test_latents_attend_to_what_the_stem_makes(stem, position_encoding_type):
    model = small_model(position_encoding_type=position_encoding_type, **stem).double()
    config, inputs = model.config, model.perceiver.inputs
    images = pixels(config, dtype=torch.float64)
    features = inputs.stem(images)
    assert list(features.shape[1:]) == [config.stem_channels, *config.attended_grid]
    flat = features.flatten(2).mT
    array = {
        "fourier": lambda: reference.byte_array(config, features),
        "learned": lambda: torch.cat([flat, inputs.learned_positions.weight.expand(3, -1, -1)], dim=-1),
        "none": lambda: flat,
    }[position_encoding_type]()
    assert array.shape[-1] == config.num_input_channels
    expected = reference.logits(model, array)
    torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(model(inputs=array).logits, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("frames", range(5, 11))
def test_gradients_of_a_stem_of_few_frames(frames):
    """In torch 2.13 a 3-D convolution of fewer than 8 frames has wrong ones on CPUs, or ends the process."""
    stem = small_model(**STEMS["conv, clip"]).perceiver.inputs.stem.train()
    clips = torch.randn(2, 3, frames, 16, 16, generator=torch.Generator().manual_seed(1))
    upstream = torch.randn(stem(clips).shape, generator=torch.Generator().manual_seed(2))
    gradients = []
    for dtype in (torch.float64, torch.float32):
        stem.to(dtype).zero_grad()
        stem(clips.to(dtype)).backward(upstream.to(dtype))
        gradients.append(stem.conv.weight.grad.clone().double())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-4 * gradients[0].abs().max().item())


def test_gradients_through_a_stem(stem):
    """To pixels and to the stem, the same on both paths behind it."""
    model = small_model(**stem).double()
    gradients = []
    for through in (lambda images: {"pixel_values": images}, lambda images: {"inputs": _array(model, images)}):
        model.zero_grad()
        images = pixels(model.config, dtype=torch.float64).requires_grad_()
        model(**through(images), labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append([images.grad, *(weight.grad for weight in model.perceiver.inputs.stem.parameters())])
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_with_a_stem(stem, use_reentrant):
    """All cross-attends share one graph back to pixels, which must be gone through once."""
    model = small_model(**stem).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        model.zero_grad()
        images = pixels(model.config).requires_grad_()
        model(images, labels=torch.tensor([0, 1, 2])).loss.backward()
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        gradients.append([images.grad, *(weight.grad.clone() for weight in trained)])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def _array(model, images):
    return reference.byte_array(model.config, model.perceiver.inputs.stem(images))


def test_a_linear_stem_is_a_convolution_of_size_one():
    stem = small_model(**STEMS["linear"]).perceiver.inputs.stem
    images = torch.randn(2, 3, 7, 5)
    expected = torch.nn.functional.conv2d(images, stem.linear.weight[..., None, None], stem.linear.bias)
    torch.testing.assert_close(stem(images), expected)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("size", range(5, 15))
def test_the_config_knows_the_grid_that_a_stem_leaves(size, axes):
    sizes = [size, 30, 17][:axes]
    config = small_config(stem_type="conv", image_size=sizes, num_axes=axes)
    features = small_model(**config.to_diff_dict()).perceiver.inputs.stem(torch.randn(1, 3, *sizes))
    assert list(features.shape[2:]) == config.attended_grid == [(size - 1) // 4, 7, 4][:axes]


def test_bands_end_at_the_nyquist_frequency_of_the_grid_that_is_left():
    assert PerceiverStudyConfig(image_size=224, stem_type="conv").axis_max_frequencies == [27.5, 27.5]
    assert PerceiverStudyConfig(image_size=224, stem_type="linear").axis_max_frequencies == [112.0, 112.0]


@pytest.mark.parametrize("name", CONV)
def test_masks_are_for_the_grid_that_is_left(name):
    model = small_model(**STEMS[name]).double()
    images = pixels(model.config, dtype=torch.float64)
    points = mask(model.config)
    expected = reference.logits(model, _array(model, images), points)
    torch.testing.assert_close(model(images, attention_mask=points).logits, expected, rtol=0, atol=1e-10)
    size = points.shape[1]
    message = f"(3, {size - 1}): expected (3, {size}), one entry per point of the grid, or per point that the stem"
    with pytest.raises(ValueError, match=re.escape(message)):
        model(images, attention_mask=torch.ones(3, size - 1))


@pytest.mark.parametrize("form", ["points", "rows"])
@pytest.mark.parametrize("length", [1, 4, 5, 6, 7, 8, 9, 28, 29])
@pytest.mark.parametrize("name", CONV)
def test_padding_before_a_convolutional_stem_changes_nothing(name, length, form):
    """A recording or clip in a batch of longer ones: what follows its end is hidden and changes nothing."""
    model = small_model(**STEMS[name], absolute_positions=True).double()
    others = model.config.grid[1:]
    images = torch.randn(3, 3, length, *others, dtype=torch.float64)
    padded = torch.cat([images, 100 * torch.randn(3, 3, 40 - length, *others, dtype=torch.float64)], dim=2)
    shown = (torch.arange(40) < length).expand(3, -1)
    if form == "points":
        shown = shown[:, :, None].expand(-1, -1, math.prod(others)).flatten(1)
    torch.testing.assert_close(model(padded, attention_mask=shown).logits, model(images).logits, rtol=0, atol=1e-10)


def test_position_features_are_for_the_grid_that_is_left():
    model = small_model(**STEMS["conv"])
    images = pixels(model.config)
    features = torch.cat(model.perceiver.inputs.fourier_features([7, 4], torch.float32, images.device), dim=1)
    assert torch.equal(model(images, position_features=features).logits, model(images).logits)
    with pytest.raises(ValueError, match=re.escape("7 + 4 coordinates of the grid that the stem leaves")):
        model(images, position_features=torch.zeros(1, 29 + 18, 9))


@pytest.mark.parametrize("name", CONV)
def test_what_is_too_small_for_a_stem_is_filled_up_with_zeros(name):
    model = small_model(**STEMS[name], absolute_positions=True).double()
    sizes = [3, 2, 1][: model.config.num_axes]
    small, filled = torch.randn(2, 3, *sizes, dtype=torch.float64), torch.zeros(2, 3, *[5] * len(sizes)).double()
    filled[(..., *map(slice, sizes))] = small
    torch.testing.assert_close(model(small).logits, model(filled).logits, rtol=0, atol=0)
    shown = torch.ones(2, math.prod(sizes))
    torch.testing.assert_close(model(small, attention_mask=shown).logits, model(filled).logits, rtol=0, atol=1e-12)


def test_learned_positions_of_their_own_width():
    fields = {"position_encoding_type": "learned", "learned_position_channels": 11, "project_learned_positions": True}
    model = small_model(**fields).double()
    table = model.perceiver.inputs.learned_positions
    assert table.weight.shape == (7 * 5, 11)
    images = pixels(model.config, dtype=torch.float64)
    projected = table.weight @ table.projection.weight.T + table.projection.bias
    array = torch.cat([images.flatten(2).mT, projected.expand(3, -1, -1)], dim=-1)
    torch.testing.assert_close(model(images).logits, reference.logits(model, array), rtol=0, atol=1e-10)
    # Resampled first and then projected; the other way round gives the same.
    larger = table([13, 9]).view(13, 9, 11)
    torch.testing.assert_close(larger[::2, ::2].flatten(0, 1), projected)


def test_learned_positions_of_four_axes_keep_their_grid():
    model = small_model(image_size=[2, 3, 2, 2], num_axes=4, position_encoding_type="learned")
    assert model(pixels(model.config)).logits.shape == (3, 5)
    with pytest.raises(ValueError, match=re.escape("from grid [2, 3, 2, 2] to [2, 3, 2, 3]: expected [2, 3, 2, 2]")):
        model(torch.zeros(1, 3, 2, 3, 2, 3))


def test_loading_a_stem_without_its_statistics(tmp_path):
    """Models are loaded on the meta device; what a file lacks must not stay uninitialised."""
    model = small_model(**STEMS["conv"])
    with torch.no_grad():
        model.perceiver.inputs.stem.batchnorm.running_mean.fill_(3.0)
    model.save_pretrained(tmp_path)
    loaded = PerceiverStudyForImageClassification.from_pretrained(tmp_path)
    # Not bit for bit: loaded weights lie at other addresses, and some kernels add in an order that depends on them.
    torch.testing.assert_close(loaded(pixels(model.config)).logits, model(pixels(model.config)).logits)
    weights = load_file(tmp_path / "model.safetensors")
    buffers = {name: value for name, value in weights.items() if "running" in name or "tracked" in name}
    assert len(buffers) == 3
    save_file(
        {name: value for name, value in weights.items() if name not in buffers},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    norm = PerceiverStudyForImageClassification.from_pretrained(tmp_path).perceiver.inputs.stem.batchnorm
    assert (norm.running_mean == 0).all() and (norm.running_var == 1).all() and norm.num_batches_tracked == 0


def test_half_precision_with_a_stem(stem):
    model = small_model(**stem).bfloat16()
    logits = model(pixels(model.config)).logits
    assert logits.dtype == torch.bfloat16
    # 8 bits of mantissa, some ten roundings in a row.
    expected = model.float()(pixels(model.config)).logits
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item())


@pytest.mark.parametrize(
    "field, fields",
    [
        ("stem_type", {"stem_type": "patches"}),
        ("stem_type", {"stem_type": "conv", "num_axes": 4}),
        ("stem_channels", {"stem_type": "conv", "stem_channels": 0}),
        ("image_size", {"stem_type": "conv", "image_size": [32, 4]}),
        ("learned_position_channels", {"learned_position_channels": 0, "position_encoding_type": "learned"}),
        ("learned_position_channels", {"learned_position_channels": 16}),
        ("project_learned_positions", {"project_learned_positions": True, "position_encoding_type": "none"}),
    ],
)
def test_bad_fields(field, fields):
    with pytest.raises(ValueError, match=re.escape(f"{field}={fields[field]!r}")):
        PerceiverStudyConfig(**fields)
