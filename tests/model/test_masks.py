"""A sample, head or query that a mask hides everything from gets zeros from that attention, whichever path it takes."""

import pytest
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, flash_attention_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_perceiver_study import PerceiverStudyConfig
from modeling_perceiver_study.attention import eager_attention_forward
from tests import reference
from tests.models import mask, needs_compiler, pixels, small_model

pytestmark = pytest.mark.slow

# What a call says, and which fields the model has. A dropout of 1e-12 takes its path and drops nothing.
PATHS = {
    "streamed": ({}, {}),
    "with maps": ({"output_attentions": True}, {}),
    "dropout": ({}, {"attention_probs_dropout_prob": 1e-12}),
    "general": ({"cross_attend_path": "general"}, {}),
    "general, with maps": ({"cross_attend_path": "general", "output_attentions": True}, {}),
    "general, dropout": ({"cross_attend_path": "general"}, {"attention_probs_dropout_prob": 1e-12}),
}
# 8 and 11 bits, rounded a few dozen times.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}


def unpadded_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """As flash attention: samples one by one, without what `(B, M)` hides; it cannot say what nothing attends to."""
    results = []
    for sample in range(len(query)):
        shown = slice(None) if attention_mask is None else attention_mask[sample]
        assert attention_mask is None or shown.any()
        q, k, v = query[sample : sample + 1], key[sample : sample + 1, :, shown], value[sample : sample + 1, :, shown]
        results.append(eager_attention_forward(module, q, k, v, None, scaling, dropout)[0])
    return torch.cat(results), None


@pytest.fixture(params=["eager", "sdpa", "unpadded", "own, numbers"])
def implementation(request, monkeypatch):
    """What ships with transformers and works on a CPU, and two of a user's own."""
    for name, function, make_mask in (
        ("unpadded", unpadded_attention, flash_attention_mask),
        ("own, numbers", ALL_ATTENTION_FUNCTIONS["sdpa"], eager_mask),
    ):
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, name, function)
        monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, name, make_mask)
    return request.param


def some_masks(config) -> torch.Tensor:
    """`(3, M)`: of the first sample two thirds, of the second nothing, all of the third."""
    points = mask(config)
    points[1], points[2] = 0, 1
    return points


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_logits_and_gradients_are_the_references(path, dtype, implementation):
    call, fields = PATHS[path]
    model = small_model(initializer_range=0.1, **fields).train().to(dtype)
    model.set_attn_implementation(implementation)
    config, points = model.config, some_masks(model.config)
    images = pixels(config, dtype=dtype).requires_grad_()
    weights = dict(model.named_parameters())
    weights = {name: weight for name, weight in weights.items() if weight.requires_grad}
    expected = reference.logits(model, reference.byte_array(config, images), points)
    expected_gradients = torch.autograd.grad(expected.square().sum(), [images, *weights.values()])
    output = model(images, attention_mask=points, **call)
    gradients = torch.autograd.grad(output.logits.double().square().sum(), [images, *weights.values()])
    assert (output.logits - expected).abs().max() < TOLERANCES[dtype] * expected.abs().max()
    for name, actual, wanted in zip(["pixels", *weights], gradients, expected_gradients, strict=True):
        error = (actual - wanted).abs().max() / wanted.abs().max()
        assert error < TOLERANCES[dtype], f"{name}: {error}"
    assert (gradients[0][1] == 0).all()  # the pixels of the second sample
    for maps in output.cross_attentions or ():
        assert (maps[1] == 0).all()
        assert (maps[::2].sum(dim=-1) > 0.9).all()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_nothing_leaves_the_bias_of_the_output(path, dtype, implementation):
    """To the last bit: of zeros `o_proj` makes that."""
    call, fields = PATHS[path]
    model = small_model(**fields).train().to(dtype)
    model.set_attn_implementation(implementation)
    attention, config = model.perceiver.cross_attends[0].attention, model.config
    on_grid = model.perceiver.inputs(pixels(config, dtype=dtype), None, None, dtype)
    call = {"path" if name == "cross_attend_path" else name: value for name, value in call.items()}
    attended, _ = attention(model.perceiver.latents(), on_grid, some_masks(config).bool(), **call)
    assert torch.equal(attended[1], attention.o_proj.bias.expand_as(attended[1]))
    assert not torch.allclose(attended[0], attended[1], atol=0.1)


@pytest.mark.parametrize("lowest", [None, torch.finfo(torch.float64).min, -torch.inf], ids=["bool", "lowest", "inf"])
@pytest.mark.parametrize("shape", [(1, 1, 6, 35), (3, 1, 1, 35), (1, 2, 1, 35), (3, 2, 6, 35)], ids=str)
@pytest.mark.parametrize("output_attentions", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_masks_of_heads_and_queries(implementation, output_attentions, shape, lowest):
    model = small_model().double()
    model.set_attn_implementation(implementation)
    attention, config = model.perceiver.cross_attends[0].attention, model.config
    shown = torch.rand(shape, generator=torch.Generator().manual_seed(3)) > 1 / 3
    shown.view(-1, 35)[-1] = False
    array = reference.byte_array(config, pixels(config)).requires_grad_()
    latents = torch.randn(3, config.num_latents, config.d_latents, dtype=torch.float64)
    expected, maps = reference.attend(attention, latents, array, shown)
    attention_mask = shown if lowest is None else torch.zeros(shape).double().masked_fill(~shown, lowest)
    actual, weights = attention(latents, array, attention_mask, output_attentions)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    if output_attentions:
        torch.testing.assert_close(weights, maps, rtol=0, atol=1e-10)
        assert (weights.sum(dim=-1) == 0).any()
    gradient, expected = (torch.autograd.grad(part.square().sum(), array)[0] for part in (actual, expected))
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


@needs_compiler
@pytest.mark.filterwarnings("default")  # the compiler has deprecation warnings of its own
@pytest.mark.parametrize("path", ["streamed", "with maps", "general"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_compiled_and_exported(path, implementation):
    """Compiled forward and backward; exported for any batch. Neither knows at that time what a mask will hide."""
    model = small_model(num_blocks=1, num_cross_attends=1, num_self_attends_per_block=1, **PATHS[path][0])
    model.set_attn_implementation(implementation)
    call = {"pixel_values": pixels(model.config), "attention_mask": some_masks(model.config)}
    gradients = []
    for function in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        logits = function(**call).logits
        logits.square().sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
        expected = model(**call).logits
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    for name, gradient in gradients[0].items():
        error = (gradients[1][name] - gradient).abs().max()
        assert error < 1e-4 * gradient.abs().max(), f"{name}: {error}"
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        model,
        (),
        {**call, "attention_mask": torch.ones_like(call["attention_mask"])},
        dynamic_shapes={name: {0: batch} for name in call},
    )
    for count in (2, 3):
        actual = program.module()(**{name: values[:count] for name, values in call.items()}).logits
        torch.testing.assert_close(actual, expected[:count], rtol=0, atol=1e-5)


def test_masks_of_transformers_are_understood():
    """That is what `sdpa_mask` and `eager_mask` make of a sample that is hidden."""
    points = torch.tensor([[True, False], [False, False]])
    arguments = {"batch_size": 2, "q_length": 3, "kv_length": 2, "mask_function": lambda b, h, q, kv: q >= 0}
    assert not sdpa_mask(**arguments, attention_mask=points)[1].any()
    assert (eager_mask(**arguments, attention_mask=points)[1] == torch.finfo(torch.float32).min).all()


@pytest.mark.parametrize("masked", [mask, some_masks])
def test_a_module_of_no_model_sees_what_a_mask_shows(masked):
    """Such a config has no attention implementation chosen, for which transformers makes no mask."""
    model = small_model(attn_implementation="eager").double()
    attention, points = model.perceiver.cross_attends[0].attention, masked(model.config)
    latents = torch.randn(3, 6, model.config.d_latents, dtype=torch.float64)
    inputs = torch.randn(3, points.shape[1], model.config.num_input_channels, dtype=torch.float64)
    expected, weights = attention(latents, inputs, points, output_attentions=True)
    attention.config = PerceiverStudyConfig(**model.config.to_diff_dict())
    assert attention.config._attn_implementation is None
    found, maps = attention(latents, inputs, points, output_attentions=True)
    torch.testing.assert_close((found, maps), (expected, weights), rtol=0, atol=1e-12)
    torch.testing.assert_close(attention(latents, inputs, points)[0], expected, rtol=0, atol=1e-12)


def test_a_mask_of_patches_is_no_mask_of_rows():
    """Where an image has as many patches as rows."""
    model = small_model(image_size=16, patch_size=4)
    pixels, rows = torch.randn(2, 3, 16, 16), torch.arange(16).expand(2, -1) < 9
    with pytest.raises(ValueError, match=r"16 rows and as many patches: expected \(2, 256\), one entry per point"):
        model(pixels, attention_mask=rows)
    points = rows.repeat_interleave(16, dim=1)
    model(pixels, attention_mask=points)
    # Other numbers of patches, and a spectrogram, whose rows may be padding.
    for others in ({"patch_size": [4, 8]}, {"patch_size": 4, "absolute_positions": True}):
        model = small_model(image_size=16, **others)
        found, expected = (model(pixels, attention_mask=mask).logits for mask in (rows, points))
        torch.testing.assert_close(found, expected)


def test_masks_on_the_meta_device():
    model = small_model().to("meta")
    images, points = pixels(model.config).to("meta"), mask(model.config).to("meta")
    assert model(images, attention_mask=points).logits.shape == (3, model.config.num_labels)
