import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeling_perceiver_study.inputs import input_adapter
from modeling_perceiver_study.separable import grid_inputs
from tests import reference
from tests.models import mask, pixels, small_model

pytestmark = pytest.mark.slow

GRIDS = {"waveform": [11], "image": [7, 5], "video": [3, 4, 5], "one row": [1, 9]}
HEADS = {"one head": {"num_cross_attention_heads": 1, "cross_attention_shape_for_attention": "kv"}, "heads": {}}


def cross_attention(model, index=0):
    return model.perceiver.cross_attends[index].attention


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def grid(request):
    return {"num_axes": len(request.param), "image_size": request.param}


@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("masked", [False, True], ids=["all points", "masked"])
@pytest.mark.parametrize("shared_queries", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("output_attentions", [False, True], ids=["streamed", "with maps"])
def test_equals_the_reference_in_float64(grid, heads, masked, shared_queries, output_attentions):
    model = small_model(**grid, **heads).double()
    attention, config = cross_attention(model), model.config
    images = pixels(config, dtype=torch.float64)
    points = mask(config) if masked else None
    torch.manual_seed(5)
    latents = torch.randn(1 if shared_queries else 3, config.num_latents, config.d_latents, dtype=torch.float64)
    expected, maps = reference.attend(
        attention, latents.expand(3, -1, -1), reference.byte_array(config, images), points
    )
    on_grid = model.perceiver.inputs(images, None, None, torch.float64)
    actual, weights = attention(latents, on_grid, None if points is None else points.bool(), output_attentions)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    if output_attentions:
        torch.testing.assert_close(weights, maps, rtol=0, atol=1e-10)
    else:
        assert weights is None


def test_the_general_path_equals_the_reference(grid):
    model = small_model(**grid).double()
    attention, config = cross_attention(model), model.config
    array = reference.byte_array(config, pixels(config))
    latents = torch.randn(3, config.num_latents, config.d_latents, dtype=torch.float64)
    expected, maps = reference.attend(attention, latents, array)
    for output_attentions in (False, True):
        actual, weights = attention(latents, array, None, output_attentions)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(weights, maps, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_gradients_of_both_paths_agree(grid, dtype, tolerance):
    """Of every weight, of the latents and of the pixels; relative to the largest entry of each."""
    model = small_model(**grid).to(dtype)
    attention, config = cross_attention(model), model.config
    gradients = []
    for on_grid in (True, False):
        images = pixels(config, dtype=dtype).requires_grad_()
        torch.manual_seed(6)
        latents = torch.randn(3, config.num_latents, config.d_latents, dtype=dtype).requires_grad_()
        if on_grid:
            inputs = model.perceiver.inputs(images, None, None, dtype)
        else:
            table = reference.positions(config, config.grid).to(dtype)
            inputs = torch.cat([images.flatten(2).mT, table.expand(3, -1, -1)], dim=-1)
        result, _ = attention(latents, inputs)
        trained = {name: weight for name, weight in attention.named_parameters() if weight.requires_grad}
        assert len(trained) == len(attention.state_dict()) - 1  # the bias of the keys has no influence
        leaves = [images, latents, *trained.values()]
        gradients.append(torch.autograd.grad(result.square().sum(), leaves))
    for name, separable, general in zip(["pixels", "latents", *trained], *gradients, strict=True):
        error = (separable - general).abs().max() / general.abs().max()
        assert error < tolerance, f"{name}: {error}"


def test_positions_of_each_sample():
    """A batch of crops from different places; transformers' Perceiver gives all of them the first one's positions."""
    model = small_model().double()
    config, images = model.config, pixels(model.config, dtype=torch.float64)
    torch.manual_seed(7)
    features = torch.randn(3, sum(config.grid), config.num_axis_features, dtype=torch.float64)
    together = model(images, position_features=features).logits
    alone = torch.cat([model(images[i : i + 1], position_features=features[i : i + 1]).logits for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    assert not torch.allclose(together, model(images, position_features=features[:1]).logits)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_variance_is_that_of_the_byte_array(grid, offset):
    """Also where pixels are far from zero, as unnormalised ones are."""
    model = small_model(**grid)
    images = pixels(model.config) + offset
    on_grid = model.perceiver.inputs(images, None, None, torch.float32)
    expected = reference.byte_array(model.config, images).var(dim=-1, correction=0)
    torch.testing.assert_close(on_grid.variance.flatten(1).double(), expected, rtol=1e-5, atol=0)


def test_autocast_keeps_statistics_and_softmax_in_float32():
    """bfloat16 keeps 8 bits: 2 % is a few roundings of queries and outputs; the map itself is exact for its queries."""
    model = small_model()
    attention, config = cross_attention(model), model.config
    on_grid = model.perceiver.inputs(pixels(config), None, None, torch.float32)
    latents = torch.randn(3, config.num_latents, config.d_latents)
    expected, _ = attention(latents, on_grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _ = attention(latents, on_grid)
        _, weights = attention(latents, on_grid, output_attentions=True)
    assert actual.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    assert (actual.float() - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_half_precision_model_errs_no_more_than_the_general_path():
    """At most twice the error of plain bfloat16, the whole model against the float64 reference."""
    model = small_model(initializer_range=0.1)
    model = model.bfloat16()
    images = pixels(model.config)
    array = reference.byte_array(model.config, images)
    expected = reference.logits(model, array)
    separable = (model(images).logits - expected).abs().max()
    general = (model(inputs=array.float()).logits - expected).abs().max()
    assert separable < 2 * general


def test_dropout_drops_attention_weights():
    """Without a change on average: the mean over many draws nears the result without dropout."""
    model = small_model(attention_probs_dropout_prob=0.3)
    attention, config = cross_attention(model).train(), model.config
    draws = 4000
    on_grid = model.perceiver.inputs(pixels(config, batch=1), None, None, torch.float32)
    on_grid = on_grid._replace(
        pixels=on_grid.pixels.expand(draws, -1, -1, -1), variance=on_grid.variance.expand(draws, -1, -1)
    )
    latents = torch.randn(1, config.num_latents, config.d_latents)
    torch.manual_seed(8)
    with torch.no_grad():
        dropped, _ = attention(latents, on_grid)
        plain, _ = attention.eval()(latents, on_grid)
    spread = dropped.std(dim=0)
    assert spread.min() > 0
    # Five standard errors: a wrong scale would be off by many more.
    assert ((dropped.mean(dim=0) - plain[0]).abs() < 5 * spread / draws**0.5).all()


@pytest.mark.filterwarnings("default")  # the compiler has deprecation warnings of its own
@pytest.mark.parametrize("precision", ["highest", "medium"])  # which choose how latents attend to latents
@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_graph_breaks(training, precision):
    torch.compiler.reset()
    torch.set_float32_matmul_precision(precision)
    model = small_model(num_blocks=1, num_cross_attends=1, num_self_attends_per_block=1)
    images = pixels(model.config)
    compiled = torch.compile(model.train(training), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images).logits, model(images).logits, rtol=0, atol=1e-5)
    if training:
        compiled(images, labels=torch.tensor([0, 1, 2])).loss.backward()
        gradient = model.perceiver.cross_attends[0].attention.k_proj.weight.grad.clone()
        model.zero_grad()
        model(images, labels=torch.tensor([0, 1, 2])).loss.backward()
        expected = model.perceiver.cross_attends[0].attention.k_proj.weight.grad
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="torch before 2.9 has one setting for all")
@pytest.mark.parametrize(
    "backend",
    [torch.backends, torch.backends.mkldnn, torch.backends.mkldnn.matmul, torch.backends.cuda.matmul],
    ids=["all", "mkldnn", "products of mkldnn", "products of CUDA"],
)
@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
def test_answers_with_a_precision_of_each_backend(backend, precision):
    """As `TrainingArguments(tf32=True)` sets it; torch's getter of one precision for all fails from then on."""
    if precision == "bf16" and backend is torch.backends.cuda.matmul:
        pytest.skip("CUDA has no such products of float32")
    model = small_model()
    images = pixels(model.config)
    expected = model(images).logits
    before = backend.fp32_precision
    try:
        backend.fp32_precision = precision
        torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=0.01 * expected.abs().max().item())
        model(images, labels=torch.tensor([0, 1, 2])).loss.backward()
    finally:
        backend.fp32_precision = before


def test_grid_inputs_hold_no_position_of_each_point():
    model = small_model(image_size=[40, 50])
    on_grid = model.perceiver.inputs(pixels(model.config), None, None, torch.float32)
    assert on_grid.rows.shape == (1, 40, 9)
    assert on_grid.columns.shape == (1, 50, 9)


def test_fourier_features_survive_inference_mode():
    """They are kept between calls; kept from inference mode, they would break training."""
    inputs = input_adapter(small_model().config)
    with torch.inference_mode():
        inputs(pixels(inputs.config), None, None, torch.float32)
    images = pixels(inputs.config).requires_grad_()
    inputs(images, None, None, torch.float32).variance.sum().backward()
    assert images.grad.isfinite().all()


def test_moments_of_a_single_axis():
    images = torch.randn(2, 3, 8)
    features = torch.randn(1, 8, 5)
    on_grid = grid_inputs(images, [features])
    expected = torch.cat([images.mT, features.expand(2, -1, -1)], dim=-1).var(dim=-1, correction=0)
    torch.testing.assert_close(on_grid.variance.squeeze(-1), expected)


@pytest.mark.parametrize("widths", [{"qk_channels": 12, "v_channels": 8}, {"qk_channels": 8, "v_channels": 12}])
def test_heads_of_two_widths_take_the_fused_kernel(widths):
    """Which refuses them unless they are padded: nothing else is allowed here."""
    model = small_model(**widths, num_self_attention_heads=2).double()
    attention, config = cross_attention(model), model.config
    array = reference.byte_array(config, pixels(config))
    latents = torch.randn(3, config.num_latents, config.d_latents, dtype=torch.float64)
    expected, _ = reference.attend(attention, latents, array)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        actual, _ = attention(latents, array)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True], ids=["all points", "masked"])
def test_gradients_are_the_same_inside_of_autocast(masked):
    """Of sharp attention, whose logits bfloat16 cannot hold; people call `backward()` on either side of the line."""
    gradients = []
    for inside in (False, True):
        model = small_model(image_size=[16, 16], local_start_width=0.05, initializer_range=0.03)
        points = mask(model.config) if masked else None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(pixels(model.config), attention_mask=points, labels=torch.tensor([0, 1, 2])).loss
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        gradients.append(found)  # biases of keys have none: the softmax cancels them
    for name, expected in gradients[0].items():
        error = (gradients[1][name] - expected).abs().max()
        assert error <= 0.02 * expected.abs().max(), name


def test_both_paths_drop_the_same_weights():
    model = small_model(attention_probs_dropout_prob=0.4, attn_implementation="eager").double().train()
    images, found = pixels(model.config, dtype=torch.float64), []
    for path in ("separable", "general"):
        torch.manual_seed(8)
        found.append(model(images, cross_attend_path=path).logits)
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)
    assert not torch.allclose(found[0], model.eval()(images).logits, atol=1e-3)
