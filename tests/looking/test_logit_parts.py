import pytest
import torch

from lab.looking.logit_parts import LogitParts, logit_parts
from lab.looking.maps import cross_attention_maps
from tests import reference
from tests.models import pixels, small_model


def general_logits(model, pixel_values):
    """Of the first cross-attend, by normalising, projecting and multiplying the array of pixels and positions."""
    attention = model.perceiver.cross_attends[0].attention
    inputs = reference.normalize(attention.layernorm_inputs, reference.byte_array(model.config, pixel_values))
    latents = reference.normalize(attention.layernorm, model.perceiver.latents.weight.double())
    query = reference.project(attention.q_proj, latents).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
    key = reference.project(attention.k_proj, inputs).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    logits = query @ key.mT / query.shape[-1] ** 0.5
    return logits.unflatten(-1, pixel_values.shape[-2:])


def centred(maps):
    return maps - maps.mean(dim=(-2, -1), keepdim=True)


@pytest.fixture
def model():
    return small_model().double()


@pytest.fixture
def pixel_values(model):
    return pixels(model.config, dtype=torch.float64)


def test_parts_add_up_to_the_logits_of_the_general_path(model, pixel_values):
    parts = logit_parts(model, pixel_values)[0]
    expected = general_logits(model, pixel_values)
    assert expected.std() > 0.1, "logits that hide mistakes"
    torch.testing.assert_close(centred(parts.logits), centred(expected), rtol=0, atol=1e-10)


def test_maps_of_the_sums_are_those_of_the_model(model, pixel_values):
    found = logit_parts(model, pixel_values)
    maps = cross_attention_maps(model, pixel_values)
    assert len(found) == len(maps) == 3
    for parts, weights in zip(found, maps, strict=True):
        softmax = parts.logits.flatten(-2).softmax(dim=-1).view_as(weights)
        torch.testing.assert_close(softmax.float(), weights, rtol=0, atol=1e-7)


def test_content_is_what_pixels_do_and_position_what_they_do_not(model, pixel_values):
    """Up to the scale `r`: the parts of two images differ as their pixels do, or not at all."""
    first, second = logit_parts(model, pixel_values)[0], logit_parts(model, 3 * pixel_values)[0]
    ratio = second.position / first.position
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1, :1].expand_as(ratio))
    torch.testing.assert_close(second.content / first.content, 3 * ratio)


def test_a_constant_deviation_leaves_nothing_for_the_scale(model, pixel_values):
    """Such as that of a very large epsilon."""
    for layer in model.perceiver.cross_attends:
        layer.attention.layernorm_inputs.eps = 1e12
    for parts in logit_parts(model, pixel_values):
        assert parts.scale.abs().max() < 1e-9 * parts.content.abs().max()


def test_shares_sum_to_one_and_weigh_by_variance():
    generator = torch.Generator().manual_seed(0)
    parts = LogitParts(*torch.randn(3, 2, 3, 4, 5, 6, generator=generator, dtype=torch.float64))
    shares = parts.shares()
    assert shares.shape == (3,)
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0, dtype=torch.float64))
    of_queries = parts.shares(over=(0,))
    assert of_queries.shape == (3, 3, 4)
    torch.testing.assert_close(of_queries.sum(dim=0), torch.ones(3, 4, dtype=torch.float64))
    weights = centred(parts.logits).square().sum(dim=(0, -2, -1))
    torch.testing.assert_close((of_queries * weights).sum(dim=(1, 2)) / weights.sum(), shares)


def test_shares_of_independent_parts_are_those_of_their_variance():
    row = torch.tensor([-1.0, 1.0])
    content, position = row[:, None].expand(1, 1, 1, 2, 2), 3 * row[None].expand(1, 1, 1, 2, 2)
    shares = LogitParts(content, position, torch.full((1, 1, 1, 2, 2), 7.0)).shares()
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.9, 0.0]))


def test_hooks_are_gone_and_learned_positions_refused(model, pixel_values):
    logit_parts(model, pixel_values)
    assert not any(layer.attention._forward_pre_hooks for layer in model.perceiver.cross_attends)
    learned = small_model(position_encoding_type="learned")
    with pytest.raises(ValueError, match="position_encoding_type='learned': expected 'fourier'"):
        logit_parts(learned, pixels(learned.config))
    assert not any(layer.attention._forward_pre_hooks for layer in learned.perceiver.cross_attends)
