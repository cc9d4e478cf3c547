"""What 16 and 64 bits cost: attention in 16 bits against float64, and float64 where autocast leaves it alone."""

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.models import pixels, small_model

pytestmark = pytest.mark.slow

HALVES = [torch.bfloat16, torch.float16]


def root_mean_square(values: torch.Tensor) -> float:
    return values.double().square().mean().sqrt().item()


@pytest.mark.parametrize("sharpness", [1, 10, 40])  # the last with logits of about 50
@pytest.mark.parametrize("masked", [None, torch.bool, torch.float32], ids=["all points", "bool", "additive"])
@pytest.mark.parametrize("autocast", [False, True], ids=["16-bit model", "autocast"])
@pytest.mark.parametrize("output_attentions", [False, True], ids=["sums", "maps"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa", "users_own"])
@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_attention_in_16_bits_errs_at_most_twice_as_much_as_torchs(
    monkeypatch, dtype, precision, implementation, output_attentions, autocast, masked, sharpness
):
    """Against float64, for the same queries, keys and values; forward, and the gradients of all three."""
    torch.set_float32_matmul_precision(precision)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "users_own", ALL_ATTENTION_FUNCTIONS["sdpa"])
    model = small_model(d_latents=64, num_latents=32, num_cross_attention_heads=2)
    model.set_attn_implementation(implementation)
    attention = model.perceiver.cross_attends[0].attention
    model.requires_grad_(False).to(torch.float32 if autocast else dtype)
    width = attention.k_proj.in_features
    torch.manual_seed(0)
    query = (sharpness * torch.randn(3, 2, 32, 32)).to(dtype).requires_grad_()
    array = torch.randn(3, 50, width).to(dtype).requires_grad_()
    shown = None if masked is None else torch.rand(3, 1, 1, 50) > 1 / 3
    attention_mask = shown
    if masked == torch.float32:
        attention_mask = torch.zeros(3, 1, 1, 50, dtype=dtype).masked_fill(~shown, torch.finfo(dtype).min)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        key, value = (attention.split_heads(project(array)) for project in (attention.k_proj, attention.v_proj))
        actual, weights = attention.attend(query, array, attention_mask, output_attentions)
    assert actual.dtype == key.dtype == dtype
    results = {
        "torch": F.scaled_dot_product_attention(query, key, value, shown),
        "exact": F.scaled_dot_product_attention(query.double(), key.double(), value.double(), shown),
    }
    results = {name: result.transpose(1, 2) for name, result in results.items()} | {"ours": actual}
    gradient = torch.randn(actual.shape).to(dtype)
    everything = {
        name: (result, *torch.autograd.grad(result, (query, array), gradient.to(result.dtype), retain_graph=True))
        for name, result in results.items()
    }
    for name, ours, torchs, exact in zip(
        ("sums", "gradient of queries", "gradient of the array"),
        *(everything[n] for n in ("ours", "torch", "exact")),
        strict=True,
    ):
        allowed = 2 * root_mean_square(torchs - exact)
        assert root_mean_square(ours - exact) <= allowed, name
    if output_attentions:
        logits = query.double() @ key.double().mT / 32**0.5
        logits = logits if shown is None else logits.masked_fill(~shown, -torch.inf)
        # Once more the rounding of a number in [0, 1].
        torch.testing.assert_close(weights.double(), logits.softmax(-1), rtol=0, atol=torch.finfo(dtype).eps)


PATHS = {
    "streamed": ({}, {}),
    "with maps": ({"output_attentions": True}, {}),
    "dropout": ({}, {"attention_probs_dropout_prob": 1e-12}),
    "general": ({"cross_attend_path": "general"}, {}),
    "learned": ({}, {"position_encoding_type": "learned", "project_learned_positions": True}),
    "stem and query": ({}, {"stem_type": "conv", "stem_channels": 8, "image_size": 24, "decoder_type": "query"}),
}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True], ids=["all points", "masked"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_autocast_leaves_float64_alone(path, dtype, masked, implementation):
    """As `nn.Linear` does: to the last bit, forward and backward."""
    call, fields = PATHS[path]
    model = small_model(**fields).train().double()
    model.set_attn_implementation(implementation)
    images = pixels(model.config, dtype=torch.float64)
    call = {**call, "labels": torch.tensor([0, 1, 2])}
    if masked:
        call["attention_mask"] = (torch.arange(torch.Size(model.config.attended_grid).numel()) % 3 > 0).repeat(3, 1)
    outputs, gradients = [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            outputs.append(model(images, **call))
        outputs[-1].loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    plain, cast = (output.logits for output in outputs)
    assert cast.dtype == torch.float64
    assert torch.equal(cast, plain)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("position_encoding_type", ["fourier", "learned"])
def test_arrays_in_float64_under_autocast(position_encoding_type):
    """Given to a float32 model, they become what the model computes in."""
    model = small_model(position_encoding_type=position_encoding_type)
    images = pixels(model.config)
    array = torch.randn(3, 35, model.config.num_input_channels)
    for name, values in (("pixel_values", images), ("inputs", array)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected, actual = model(**{name: values}).logits, model(**{name: values.double()}).logits
        assert torch.equal(actual, expected)
