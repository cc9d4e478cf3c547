"""The same weights in transformers' Perceiver and here, carried over by `scripts/convert.py`.

Tolerances are those promised in docs/convert.md. What was measured is 1e-6 in float32 and 1e-14 in float64, for logits
of size 1 to 4.
"""

import re

import pytest
import torch
import transformers
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HTTPError
from transformers import PerceiverImageProcessorPil
from transformers.models.perceiver.modeling_perceiver import generate_fourier_features

from lab.peers.deepmind import ARCHITECTURES, their_name
from tests import reference
from tests.deepmind_models import (
    CONV,
    FOURIER,
    LEARNED,
    OFFICIAL,
    TOLERANCES,
    TOY,
    assert_close,
    convert_and_load,
    images,
    run_both,
    save,
    their_model,
    their_positions,
)
from tests.models import small_model

pytestmark = pytest.mark.slow

SHAPES = {
    "official proportions": {},
    "width of the latents": {"cross_attention_shape_for_attention": "q", "num_cross_attention_heads": 2},
    "explicit widths": {"qk_channels": 8, "v_channels": 16, "num_cross_attention_heads": 4},
    "no residual": {"use_query_residual": False, "num_self_attends_per_block": 1, "num_blocks": 3},
    "wide MLPs": {"self_attention_widening_factor": 3, "cross_attention_widening_factor": 2, "hidden_act": "relu"},
    "one label": {"num_labels": 1, "num_latents": 1},
}


@pytest.fixture(params=ARCHITECTURES, ids=["fourier", "learned", "conv"])
def architecture(request):
    return request.param


# The same numbers


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits(architecture, shape, implementation, tmp_path):
    theirs = their_model(architecture, **{**TOY, **shape})
    save(theirs, tmp_path / "theirs")
    ours, processor = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    ours.set_attn_implementation(implementation)
    their_processor = PerceiverImageProcessorPil.from_pretrained(tmp_path / "theirs")
    pixels = their_processor(images(), return_tensors="pt")["pixel_values"]
    inputs = processor(images())
    # As people call it, in float32; then with the positions that transformers has in float64.
    with torch.no_grad():
        assert_close(ours(**inputs).logits, theirs(pixels).logits, torch.float32)
        for dtype in TOLERANCES:
            their_output, our_output = run_both(theirs, ours, pixels, dtype)
            assert_close(our_output.logits, their_output.logits, dtype)
    assert their_output.logits.std() > 0.1 or shape == SHAPES["one label"]


def test_attention_maps(architecture, tmp_path):
    theirs = their_model(architecture, **{**TOY, "num_cross_attention_heads": 1})
    save(theirs, tmp_path / "theirs")
    ours, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    pixels = torch.randn(2, 3, 24, 24)
    for dtype in TOLERANCES:
        their_output, our_output = run_both(theirs, ours, pixels, dtype, output_attentions=True)
        *their_cross_attentions, _ = their_output.cross_attentions  # the last is the decoder's
        assert len(their_cross_attentions) == len(our_output.cross_attentions) == 1
        assert len(their_output.attentions) == len(our_output.attentions) == 4
        for one, other in zip(our_output.cross_attentions, their_cross_attentions, strict=True):
            assert_close(one, other, dtype)
        for one, other in zip(our_output.attentions, their_output.attentions, strict=True):
            assert_close(one, other, dtype)


def test_gradients(architecture, tmp_path):
    """Of the loss, for all weights and for pixels; relative to the largest of each weight in float64."""
    theirs = their_model(architecture, **TOY)
    save(theirs, tmp_path / "theirs")
    ours, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    assert_same_gradients(theirs, ours, torch.randn(2, 3, 24, 24, dtype=torch.float64))


def assert_same_gradients(theirs, ours, pixels):
    one, other = pixels.clone().requires_grad_(), pixels.clone().requires_grad_()
    labels = torch.arange(len(pixels))
    grid = ours.config.attended_grid
    theirs.double()(one, labels=labels).loss.backward()
    ours.double()(other, labels=labels, **their_positions(ours, grid)).loss.backward()
    assert_close(other.grad, one.grad, torch.float64)
    their_parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = their_parameters.pop(their_name(name)).grad
        if not parameter.requires_grad:  # the bias of keys, whose gradient is 0 but for rounding
            assert expected.abs().max() < 1e-9
            continue
        torch.testing.assert_close(
            parameter.grad,
            expected.reshape(parameter.shape),
            rtol=0,
            atol=1e-9 * max(1.0, expected.abs().max().item()),
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert not their_parameters


def test_batch_norm_trains_alike(tmp_path):
    theirs = their_model(CONV, **TOY, attention_probs_dropout_prob=0.0)
    save(theirs, tmp_path / "theirs")
    ours, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    pixels = torch.randn(4, 3, 24, 24)
    their_output, our_output = run_both(theirs.train(), ours.train(), pixels, torch.float64)
    assert_close(our_output.logits, their_output.logits, torch.float64)
    weights = theirs.state_dict()
    for name, statistic in ours.named_buffers():
        torch.testing.assert_close(statistic, weights[their_name(name)], rtol=0, atol=1e-12)
    assert ours.perceiver.inputs.stem.batchnorm.num_batches_tracked == 1


def test_dropout_is_carried_over(tmp_path):
    save(their_model(FOURIER, **TOY, attention_probs_dropout_prob=0.25), tmp_path / "theirs")
    ours, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    assert ours.config.attention_probs_dropout_prob == 0.25


@torch.no_grad()
def test_official_size(tmp_path):
    """512 x 1024 latents, 8 x 6 self-attends, 50,176 pixels, 1000 classes: a minute on one core, 3 GB."""
    theirs = their_model(FOURIER, **OFFICIAL)
    save(theirs, tmp_path / "theirs")
    ours, processor = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    inputs = processor(images((300, 280)))
    assert inputs["position_features"].shape == (1, 224 + 224, 129)
    for dtype in TOLERANCES:
        expected = theirs.to(dtype)(inputs["pixel_values"].to(dtype)).logits
        assert_close(ours.to(dtype)(**inputs.to(dtype)).logits, expected, dtype)
        assert expected.std() > 0.3


@pytest.mark.parametrize("architecture", [FOURIER, CONV])
def test_gradients_and_maps_at_official_width(architecture, tmp_path):
    """As above, with 2 self-attends."""
    fields = {**OFFICIAL, "num_blocks": 2, "num_self_attends_per_block": 1}
    theirs = their_model(architecture, **fields)
    save(theirs, tmp_path / "theirs")
    ours, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    pixels = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        their_output, our_output = run_both(theirs, ours, pixels, torch.float64, output_attentions=True)
    assert_close(our_output.cross_attentions[0], their_output.cross_attentions[0], torch.float64)
    assert_close(our_output.attentions[1], their_output.attentions[1], torch.float64)
    assert_same_gradients(theirs, ours, pixels)


@torch.no_grad()
def test_learned_positions_at_official_width(tmp_path):
    fields = {**OFFICIAL, "num_blocks": 2, "num_self_attends_per_block": 1}
    theirs = their_model(LEARNED, **fields)
    save(theirs, tmp_path / "theirs")
    ours, processor = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    pixels = processor(images((300, 280)))["pixel_values"]
    for dtype in TOLERANCES:
        their_output, our_output = run_both(theirs, ours, pixels, dtype)
        assert_close(our_output.logits, their_output.logits, dtype)


@pytest.mark.network
@pytest.mark.parametrize("name", ["fourier", "learned", "conv"])
@torch.no_grad()
def test_real_checkpoints(name, tmp_path):
    source = f"deepmind/vision-perceiver-{name}"
    try:
        HfApi().model_info(source, timeout=10)
    except (OSError, HTTPError) as error:
        pytest.skip(f"the Hub cannot be reached: {error}")
    ours, processor = convert_and_load(source, tmp_path / "ours")
    theirs = getattr(transformers, dict(zip(("fourier", "learned", "conv"), ARCHITECTURES, strict=True))[name])
    their_images = PerceiverImageProcessorPil.from_pretrained(source)
    pixels = their_images(images(), return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(images())["pixel_values"], pixels)
    expected = theirs.from_pretrained(source).eval()(pixels).logits
    assert_close(ours(**processor(images())).logits, expected, torch.float32)
    assert ours.config.id2label[281] == "tabby, tabby cat"
    assert ModelCard.load(tmp_path / "ours" / "README.md").data.license == "apache-2.0"


@pytest.fixture(scope="module")
def fourier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fourier")
    theirs = their_model(FOURIER, **TOY)
    save(theirs, folder / "theirs")
    return theirs, *convert_and_load(folder / "theirs", folder / "ours")


# What transformers' Perceiver cannot do, or only partly


def test_positions_that_differ_between_samples(fourier):
    """A mirrored image with mirrored positions is the same inputs; transformers takes the first sample's for all."""
    _, ours, processor = fourier
    inputs = processor(images()[0])
    rows, columns = inputs["position_features"].split(24, dim=1)
    mirrored = torch.cat([rows, columns.flip(1)], dim=1)
    pixels = torch.cat([inputs["pixel_values"], inputs["pixel_values"].flip(-1)])
    one, other = ours(pixels, position_features=torch.cat([inputs["position_features"], mirrored])).logits
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    one, other = ours(pixels).logits
    assert (one - other).abs().max() > 1e-2
    positions = torch.tensor([[[0.1, 0.2]], [[0.3, 0.4]]])
    one, other = generate_fourier_features(positions, 4, concat_pos=False).expand(2, -1, -1)
    assert torch.equal(one, other)


def test_images_of_one_channel():
    """Here `num_channels` says so; transformers' classes have 3 built in."""
    pixels = torch.randn(2, 1, 24, 24)
    model = small_model(image_size=24, num_channels=1).double()
    expected = reference.logits(model, reference.byte_array(model.config, pixels))
    torch.testing.assert_close(model(pixels.double()).logits, expected, rtol=0, atol=1e-10)
    with pytest.raises(RuntimeError):
        their_model(FOURIER, **TOY)(pixels)


@pytest.mark.parametrize("size", [(24, 24), (40, 30), (16, 225)])
def test_other_resolutions(fourier, size):
    """Fourier features follow the image in both; bands up to 112 for 224 pixels are built in there, and fields here."""
    theirs, ours, _ = fourier
    pixels = torch.randn(2, 3, *size)
    assert_close(ours(pixels).logits, theirs(pixels).logits, torch.float32)
    model = small_model(image_size=32, num_frequency_bands=8).double()
    assert model.config.axis_max_frequencies == [16.0, 16.0]
    expected = reference.logits(model, reference.byte_array(model.config, pixels))
    torch.testing.assert_close(model(pixels.double()).logits, expected, rtol=0, atol=1e-10)


def test_learned_positions_at_other_resolutions(tmp_path):
    """They are resampled here; transformers needs to be asked, and knows squares only."""
    theirs = their_model(LEARNED, **TOY)
    save(theirs, tmp_path / "theirs")
    ours, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    pixels = torch.randn(1, 3, 32, 20)
    assert ours(pixels).logits.shape == (1, 5)
    with pytest.raises(RuntimeError):
        theirs(pixels)
    # Twice the size, with positions between the old ones, must not change much.
    large = torch.nn.functional.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=True)
    assert (ours(large).logits - ours(pixels).logits).abs().max() < ours(pixels).logits.std()


def test_attention_masks(architecture, tmp_path):
    """One entry per point that latents see: on the 5 x 5 grid of the stem, for ConvProcessing."""
    theirs = their_model(architecture, **TOY)
    save(theirs, tmp_path / "theirs")
    ours, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    points = 5 * 5 if architecture == CONV else 24 * 24
    mask = (torch.rand(2, points) > 0.4).long()
    pixels = torch.randn(2, 3, 24, 24)
    for dtype in TOLERANCES:
        their_output, our_output = run_both(theirs, ours, pixels, dtype, attention_mask=mask)
        assert_close(our_output.logits, their_output.logits, dtype)
    assert (ours(pixels.double()).logits - our_output.logits).abs().max() > 1e-2
    if architecture == CONV:
        message = "expected (2, 25), one entry per point of the grid, or per point that the stem leaves"
        with pytest.raises(ValueError, match=re.escape(message)):
            ours(pixels, attention_mask=torch.ones(2, 23))
