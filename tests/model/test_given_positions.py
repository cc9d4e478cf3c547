"""Position features given for several inputs: latents and gradients, against the whole byte array in float64."""

import pytest
import torch

from tests import reference
from tests.kinds import arguments_of, configs_of, joint_array, masks_of, model_of, prefix

pytestmark = pytest.mark.slow

PATHS = [{}, {"output_attentions": True}, {"cross_attend_path": "general"}]


def with_positions(config, kinds: tuple[str, ...], given: dict, samples: int) -> dict:
    """Also random features for each axis of each grid, the same for all samples or not."""
    features = {}
    for kind, own in configs_of(config, kinds).items():
        if own.input_type == "grid" and own.position_encoding_type == "fourier":
            shape = (samples, sum(own.attended_grid), own.num_axis_features)
            features[prefix(kinds, kind) + "position_features"] = torch.randn(shape, dtype=torch.float64)
    return given | features


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("call", PATHS, ids=["auto", "with maps", "general"])
@pytest.mark.parametrize(
    "kinds",
    [("image",), ("image", "waveform"), ("video", "waveform"), ("image", "points"), ("image", "bytes")],
    ids="+".join,
)
def test_latents_and_gradients_are_the_references(kinds, call, samples, masked):
    model = model_of(*kinds)
    given = with_positions(model.config, kinds, arguments_of(model.config, kinds), samples)
    masks = masks_of(model.config, kinds, given) if masked else {}
    leaves = {name: value.requires_grad_() for name, value in given.items() if value.is_floating_point()}
    leaves |= {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    features = [name for name in leaves if name.endswith("position_features")]
    assert len(features) == sum(kind in ("image", "waveform", "video") for kind in kinds)
    expected = reference.latents(model, *joint_array(model, kinds, given, masks))
    actual = model(**given, **masks, **call).last_hidden_state
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(part.square().sum(), list(leaves.values())) for part in (actual, expected)]
    for name, one, other in zip(leaves, *gradients, strict=True):
        assert other.abs().max() > 0
        error = (one - other).abs().max() / other.abs().max()
        assert error < 1e-10, f"{name}: {error}"


@pytest.mark.parametrize("kinds", [("image", "waveform"), ("image", "points")], ids="+".join)
def test_features_of_one_input_leave_the_others_their_own(kinds):
    model = model_of(*kinds)
    plain = arguments_of(model.config, kinds)
    given = with_positions(model.config, kinds, plain, samples=1)
    given = plain | {"image_position_features": given["image_position_features"].requires_grad_()}
    expected = reference.latents(model, *joint_array(model, kinds, given))
    actual = model(**given).last_hidden_state
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    assert not torch.allclose(actual, model(**plain).last_hidden_state, atol=1e-3)
