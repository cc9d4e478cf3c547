"""Whatever somebody puts on a cross-attend's layers, or does to the whole model, gives what calling the layers gives.

Judged by `tests/reference.py` where a weight still says everything, and otherwise by the general path.
"""

import io
import re
import sys
import threading
import warnings

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from modeling_perceiver_study import PerceiverStudyForImageClassification
from modeling_perceiver_study.attention import CrossAttention
from modeling_perceiver_study.paths import PATHS
from tests import reference
from tests.models import mask, pixels, small_config, small_model
from tests.test_export import needs_onnx

GRIDS = {
    "image": {},
    "waveform": {"num_axes": 1, "image_size": 9},
    "video": {"num_axes": 3, "image_size": [3, 4, 2]},
    "stem": {"stem_type": "conv", "stem_channels": 4, "image_size": [29, 18]},
}
READ = ("layernorm_inputs", "k_proj", "v_proj")
# torch's own first use of forward-mode differentiation.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
NEEDS_A_CALL = "which cannot be done here: "


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def grid(request):
    return request.param


def cross_attentions(model: nn.Module) -> list[CrossAttention]:
    return [layer.attention for layer in model.perceiver.cross_attends]


class Logits(nn.Module):
    """One tensor in, one tensor out, as programs have it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values).logits


# What can be chosen.


@pytest.mark.parametrize("masked", [False, True], ids=["all points", "masked"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_all_paths_give_the_same(grid, masked, dtype, tolerance):
    """From the call, through the head and the base model, and from the config; forward and backward."""
    model = small_model(**grid).to(dtype)
    images, labels = pixels(model.config, dtype=dtype), torch.tensor([0, 1, 2])
    points = mask(small_config(image_size=model.config.attended_grid, **_axes(grid))) if masked else None
    found = {}
    for path in PATHS:
        for source in ("call", "config"):
            model.config.cross_attend_path = "auto" if source == "call" else path
            arguments = {"cross_attend_path": path} if source == "call" else {}
            model.zero_grad()
            output = model(images, attention_mask=points, labels=labels, **arguments)
            output.loss.backward()
            gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
            found[path, source] = {"logits": output.logits.detach(), **gradients}
            latents = model.perceiver(images, attention_mask=points, **arguments).last_hidden_state
            found[path, source]["latents"] = latents.detach()
    expected = found["general", "call"]
    for where, values in found.items():
        for name, value in values.items():
            error = (value - expected[name]).abs().max() / max(1.0, expected[name].abs().max())
            assert error < tolerance, f"{name} on {where}: {error}"


def _axes(grid: dict) -> dict:
    return {name: value for name, value in grid.items() if name == "num_axes"}


def test_the_general_path_builds_the_byte_array_and_the_separable_one_does_not(grid):
    model = small_model(**grid)
    images, config = pixels(model.config), model.config
    shapes = []
    norm = cross_attentions(model)[0].layernorm_inputs
    with norm.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape))):
        model(images, cross_attend_path="general")
        points = torch.Size(config.attended_grid).numel()
        assert shapes == [(3, points, config.num_input_channels)]
    model(images, cross_attend_path="separable")
    assert len(shapes) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_general_path_in_16_bits(dtype, autocast):
    """Ten roundings or so of 8 or 11 bits; positions are made in float32 and rounded once."""
    model = small_model()
    images = pixels(model.config)
    expected = model(images).logits
    if autocast:
        with torch.autocast("cpu", dtype=dtype):
            logits = model(images, cross_attend_path="general").logits
    else:
        logits = model.to(dtype)(images, cross_attend_path="general").logits
    assert (logits.float() - expected).abs().max() < 10 * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("where", ["config", "call", "base model"])
def test_a_path_that_is_none(where):
    message = re.escape("cross_attend_path='fast'")
    with pytest.raises(ValueError, match=message + ".*'auto', 'separable', 'general'"):
        if where == "config":
            small_config(cross_attend_path="fast")
        model = small_model()
        (model if where == "call" else model.perceiver)(pixels(model.config), cross_attend_path="fast")


def test_no_separable_path_without_positions_in_separable_form():
    with pytest.raises(ValueError, match=r"cross_attend_path='separable' .*position_encoding_type='fourier'"):
        small_config(cross_attend_path="separable", position_encoding_type="learned")
    model = small_model()
    array = reference.byte_array(model.config, pixels(model.config)).float()
    with pytest.raises(ValueError, match=r"cross_attend_path='separable' .* byte array"):
        model(inputs=array, cross_attend_path="separable")


# What may be on a layer.


class Adapter(nn.Module):
    """As LoRA's: it has the weight of the layer that it stands for, does more, and drops elements of its inputs."""

    def __init__(self, layer: nn.Linear, dropout: float = 0.0):
        super().__init__()
        self.layer, self.dropout = layer, nn.Dropout(dropout)
        self.down = nn.Linear(layer.in_features, 2, bias=False, dtype=layer.weight.dtype)
        self.up = nn.Linear(2, layer.out_features, bias=False, dtype=layer.weight.dtype)

    weight = property(lambda self: self.layer.weight)
    bias = property(lambda self: self.layer.bias)

    def forward(self, inputs):
        return self.layer(inputs) + self.up(self.down(self.dropout(inputs)))


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Subclass(torch.Tensor):
    """Of any kind: weights that are quantized or sharded have products of their own."""


def add_hook(module, add):
    getattr(module, add)(lambda module, *arguments: None)


def replace_forward(module):
    forward = module.forward
    module.forward = lambda inputs: 2 * forward(inputs)


def subclass(module):
    module.weight = nn.Parameter(module.weight.detach().as_subclass(Subclass))


def old_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(module)


def in_place(name: str, change):
    """Replace a submodule by what `change` makes of it."""
    return lambda attention: setattr(attention, name, change(getattr(attention, name)))


CHANGES = {
    "LoRA": in_place("v_proj", Adapter),
    "LoRA on keys": in_place("k_proj", Adapter),
    "pruned": lambda attention: prune.l1_unstructured(attention.k_proj, "weight", amount=0.5),
    "pruned norm": lambda attention: prune.random_unstructured(attention.layernorm_inputs, "weight", amount=0.5),
    "old weight norm": lambda attention: old_weight_norm(attention.v_proj),
    "weight norm": lambda attention: parametrizations.weight_norm(attention.k_proj),
    "spectral norm": lambda attention: parametrizations.spectral_norm(attention.v_proj),
    "parametrized bias": lambda attention: nn.utils.parametrize.register_parametrization(
        attention.v_proj, "bias", Double()
    ),
    "replaced forward": lambda attention: replace_forward(attention.v_proj),
    "forward hook": lambda attention: attention.k_proj.register_forward_hook(lambda *parts: 2 * parts[2]),
    "forward pre-hook": lambda attention: attention.layernorm_inputs.register_forward_pre_hook(
        lambda module, inputs: 2 * inputs[0] + 1
    ),
    "no bias": in_place("v_proj", lambda layer: _without_bias(layer)),
    "no gain": lambda attention: setattr(
        attention,
        "layernorm_inputs",
        nn.LayerNorm(attention.layernorm_inputs.normalized_shape, elementwise_affine=False),
    ),
    "another norm": lambda attention: setattr(
        attention, "layernorm_inputs", nn.RMSNorm(attention.layernorm_inputs.normalized_shape, dtype=torch.float64)
    ),
    "subclass of a tensor": lambda attention: subclass(attention.k_proj),
}


def _without_bias(layer: nn.Linear) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=layer.weight.dtype)
    plain.weight = layer.weight
    return plain


@pytest.fixture(params=CHANGES.values(), ids=CHANGES.keys())
def change(request):
    return request.param


def test_layers_that_do_more_than_their_weights_tell_are_called(change):
    """Two training steps, as pruning made the second one fail, and evaluation in between."""
    model, general = small_model().double(), small_model(cross_attend_path="general").double()
    images, labels = pixels(model.config, dtype=torch.float64), torch.tensor([0, 1, 2])
    for each in (model, general):
        torch.manual_seed(4)
        for attention in cross_attentions(each):
            change(attention)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, general)]
    for training in (True, False, True):
        losses = []
        for each, optimizer in zip((model, general), optimizers, strict=True):
            optimizer.zero_grad()
            torch.manual_seed(5)
            losses.append(each.train(training)(images, labels=labels).loss)
            losses[-1].backward()
            optimizer.step()
        assert torch.equal(*losses)
    for name, value in model.state_dict().items():
        assert torch.equal(value, general.state_dict()[name]), name


def test_what_only_a_call_can_do_is_said(change):
    model = small_model().double()
    change(cross_attentions(model)[0])
    images = pixels(model.config, dtype=torch.float64)
    with pytest.raises(ValueError, match=NEEDS_A_CALL + f".*({'|'.join(READ)})"):
        model(images, cross_attend_path="separable")


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize(
    "add",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_hooks_run_and_change_no_number(name, add):
    model = small_model().double()
    images = pixels(model.config, dtype=torch.float64)
    expected = model(images).logits
    calls = []
    for attention in cross_attentions(model):
        getattr(getattr(attention, name), add)(lambda *parts: calls.append(parts[0]))
    logits = model(images.requires_grad_()).logits
    logits.sum().backward()
    assert len(calls) == model.config.num_cross_attends
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=f"{NEEDS_A_CALL}{name} has hooks"):
        model(images, cross_attend_path="separable")


def test_hooks_of_the_whole_process_run_unless_reading_is_asked_for():
    model = small_model()
    images, seen = pixels(model.config), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *parts: seen.append(module))
    try:
        model(images)
        assert {getattr(cross_attentions(model)[0], name) for name in READ} <= set(seen)
        seen.clear()
        model(images, cross_attend_path="separable")
        assert seen and not {getattr(cross_attentions(model)[0], name) for name in READ} & set(seen)
    finally:
        handle.remove()


def test_operations_can_be_counted_on_either_path():
    model = small_model(image_size=[40, 30])
    counts = {}
    for path in ("general", "separable"):
        with FlopCounterMode(display=False) as counter:
            model(pixels(model.config), cross_attend_path=path)
        counts[path] = counter.get_total_flops()
    assert counts["separable"] < counts["general"] / 2


def test_activations_can_be_patched():
    """What a hook returns takes the place of the values."""
    model = small_model().double()
    images = pixels(model.config, dtype=torch.float64)
    for attention in cross_attentions(model):
        attention.v_proj.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
        attention.o_proj.bias.data.zero_()
    moved = pixels(model.config, seed=9, dtype=torch.float64)
    assert torch.equal(model(images).logits, model(moved).logits)


def test_the_dropout_of_an_adapter_drops_elements_of_each_sample():
    """Not columns of a weight that all samples share, as reading it off with the identity did."""
    torch.manual_seed(0)
    model = small_model().train()
    attention = cross_attentions(model)[0]
    attention.v_proj = Adapter(attention.v_proj, dropout=0.5)
    images = pixels(model.config, batch=1).expand(4, -1, -1, -1)
    inputs = model.perceiver.inputs(images, None, None, torch.float32)
    latents = torch.randn(1, model.config.num_latents, model.config.d_latents).expand(4, -1, -1)
    attended, _ = attention(latents, inputs)
    assert all(not torch.allclose(attended[0], other) for other in attended[1:])
    torch.manual_seed(1)
    first, _ = attention(latents, inputs)
    torch.manual_seed(1)
    again, _ = attention(latents, inputs, path="general")
    assert torch.equal(first, again)


def test_adapters_of_keys_and_values_learn():
    model = small_model().double()
    images = pixels(model.config, dtype=torch.float64)
    before = model(images).logits
    for attention in cross_attentions(model):
        attention.k_proj, attention.v_proj = Adapter(attention.k_proj), Adapter(attention.v_proj)
    logits = model(images).logits
    assert not torch.allclose(logits, before, atol=1e-2)
    logits.sum().backward()
    adapted = [weight for name, weight in model.named_parameters() if "down" in name or "up" in name]
    assert len(adapted) == 4 * len(model.perceiver.cross_attends)
    assert all(weight.grad.abs().max() > 0 for weight in adapted)


def test_pruned_weights_are_loaded():
    """Into a model that is pruned alike: the next call makes its `weight` of what was loaded; until then it is stale."""
    pruned, fresh = small_model(seed=1).double(), small_model(seed=2).double()
    for model in (pruned, fresh):
        for attention in cross_attentions(model):
            for name in READ:
                prune.random_unstructured(getattr(attention, name), "weight", amount=0.5)
    fresh.load_state_dict(pruned.state_dict())
    images = pixels(pruned.config, dtype=torch.float64)
    logits = fresh(images).logits
    for attention in cross_attentions(pruned):
        for name in READ:
            prune.remove(getattr(attention, name), "weight")
    expected = reference.logits(pruned, reference.byte_array(pruned.config, images))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)


def test_weights_that_are_tied_or_frozen_are_read():
    model = small_model().double()
    first, second = cross_attentions(model)
    second.k_proj.weight, second.v_proj.weight = first.k_proj.weight, first.v_proj.weight
    second.v_proj.requires_grad_(False)
    images = pixels(model.config, dtype=torch.float64)
    expected = reference.logits(model, reference.byte_array(model.config, images))
    torch.testing.assert_close(model(images, cross_attend_path="separable").logits, expected, rtol=0, atol=1e-10)


# Where weights may lie.


def offload(how: str, model: nn.Module, folder) -> nn.Module:
    match how:
        case "cpu_offload":
            return cpu_offload(model, torch.device("cpu"))
        case "disk_offload":
            return disk_offload(model, folder, torch.device("cpu"))
        case "dispatch_model":
            places = {"perceiver.cross_attends.0": "cpu", "perceiver.cross_attends.1": "disk"}
            rest = {"perceiver.inputs": "cpu", "perceiver.latents": "cpu", "perceiver.blocks": "disk"}
            return dispatch_model(model, {**places, **rest, "classifier": "cpu"}, main_device="cpu", offload_dir=folder)


@pytest.mark.parametrize("how", ["cpu_offload", "disk_offload", "dispatch_model"])
def test_offloaded_models(how, grid, tmp_path):
    model = small_model(**grid)
    images = pixels(model.config)
    expected = model(images).logits
    model = offload(how, model, str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match=f"{NEEDS_A_CALL}forward of layernorm_inputs is replaced"):
            model(images, cross_attend_path="separable")


@pytest.mark.parametrize(
    "device_map",
    ["auto", {"": "cpu"}, {"perceiver": "disk", "classifier": "cpu"}, {"perceiver": "cpu", "classifier": "disk"}],
    ids=["auto", "cpu", "disk", "some on disk"],
)
def test_device_maps(device_map, tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "model")
    loaded = PerceiverStudyForImageClassification.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    images = pixels(model.config)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).logits, model(images).logits, rtol=1e-5, atol=1e-5)


def test_no_weights_on_the_meta_device():
    with torch.device("meta"):
        model = PerceiverStudyForImageClassification(small_config())
    images = pixels(model.config).to("meta")
    assert model(images).logits.shape == (3, 5)
    with pytest.raises(ValueError, match=NEEDS_A_CALL + "weight of layernorm_inputs is on the meta device"):
        model(images, cross_attend_path="separable")


# What may look on.


@pytest.fixture
def tracing(recwarn):
    """Tracing warns of each number that it takes for a constant, as it does of any model, and is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_traced_model_takes_other_inputs(grid, implementation, tracing):
    model = small_model(**grid).double()
    model.set_attn_implementation(implementation)
    program = Logits(model).eval()
    images = pixels(model.config, dtype=torch.float64)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(program, images), file)
    file.seek(0)
    traced = torch.jit.load(file)
    for batch in (1, 5):
        other = pixels(model.config, batch=batch, seed=batch, dtype=torch.float64)
        torch.testing.assert_close(traced(other), program(other), rtol=0, atol=1e-10)
    # Nothing of the trace is left behind.
    exported = torch.export.export(program, (images,))
    torch.testing.assert_close(exported.module()(images), program(images), rtol=0, atol=1e-10)


def test_a_traced_model_takes_other_masks(tracing):
    model = small_model().double()
    images = pixels(model.config, dtype=torch.float64)

    class Masked(Logits):
        def forward(self, pixel_values, attention_mask):
            return self.model(pixel_values, attention_mask=attention_mask).logits

    program = Masked(model).eval()
    traced = torch.jit.trace(program, (images, mask(model.config)))
    points = mask(model.config, seed=4)
    points[1] = 0
    torch.testing.assert_close(traced(images, points), program(images, points), rtol=0, atol=1e-10)


@needs_onnx
def test_the_older_onnx_exporter(grid, tmp_path, tracing):
    import onnxruntime

    model = small_model(**grid)
    program = Logits(model).eval()
    names = {"input_names": ["pixel_values"], "output_names": ["logits"]}
    axes = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}}
    file = str(tmp_path / "model.onnx")
    torch.onnx.export(program, (pixels(model.config),), file, dynamo=False, dynamic_axes=axes, **names)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    other = pixels(model.config, batch=4, seed=8)
    (logits,) = session.run(None, {"pixel_values": other.numpy()})
    expected = program(other)
    error = (torch.from_numpy(logits) - expected).abs().max()
    assert error < 1e-5 * max(1.0, expected.abs().max())


def test_reading_is_refused_in_a_trace(tracing):
    model = small_model()
    model.config.cross_attend_path = "separable"
    with pytest.raises(ValueError, match=r"torch\.jit\.trace, or torch\.onnx\.export with dynamo=False, is at work"):
        torch.jit.trace(Logits(model).eval(), pixels(model.config))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_transforms_of_functions(implementation):
    """Against the same without transforms: gradients, gradients of each sample, Jacobians."""
    model = small_model().double()
    model.set_attn_implementation(implementation)
    images = pixels(model.config, dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def score(weights, images):
        return functional_call(model, weights, (images,)).logits.square().sum()

    def score_of_one(weights, image):
        return score(weights, image[None])

    alone = [_gradients(model, images[i : i + 1]) for i in range(3)]
    together = grad(score)(weights, images)
    of_each = vmap(grad(score_of_one), in_dims=(None, 0))(weights, images)
    for name, gradients in zip(weights, zip(*alone, strict=True), strict=True):
        if model.get_parameter(name).requires_grad:
            torch.testing.assert_close(together[name], sum(gradients), rtol=0, atol=1e-10)
            torch.testing.assert_close(of_each[name], torch.stack(gradients), rtol=0, atol=1e-10)
    expected = model(images).logits
    torch.testing.assert_close(vmap(lambda image: model(image[None]).logits[0])(images), expected, rtol=0, atol=1e-10)
    jacobian = jacrev(lambda images: model(images).logits.square().sum())(images)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).logits.square().sum(), images)
    torch.testing.assert_close(jacobian, gradient, rtol=0, atol=1e-10)
    # Nothing of the transforms is left behind.
    assert torch.equal(model(images).logits, expected)


def _gradients(model, images):
    used = [weight for weight in model.parameters() if weight.requires_grad]
    found = iter(torch.autograd.grad(model(images).logits.square().sum(), used))
    return [next(found) if weight.requires_grad else None for weight in model.parameters()]


def test_functional_calls_read_what_they_are_given():
    model, other = small_model(seed=1).double(), small_model(seed=2).double()
    images = pixels(model.config, dtype=torch.float64)
    logits = functional_call(
        model, dict(other.named_parameters()), (images,), {"cross_attend_path": "separable"}
    ).logits
    torch.testing.assert_close(logits, other(images).logits, rtol=0, atol=1e-10)


@forward_mode
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("how", ["torch.func.jvp", "dual numbers"])
def test_forward_mode(how, implementation):
    """Against finite differences."""
    model = small_model().double()
    model.set_attn_implementation(implementation)
    images, tangent = pixels(model.config, dtype=torch.float64), pixels(model.config, seed=3, dtype=torch.float64)
    if how == "dual numbers":
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(model(forward_ad.make_dual(images, tangent)).logits).tangent
    else:
        _, found = jvp(lambda images: model(images).logits, (images,), (tangent,))
    step = 1e-6
    expected = (model(images + step * tangent).logits - model(images - step * tangent).logits) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    with forward_ad.dual_level(), pytest.raises(ValueError, match="forward-mode differentiation is at work"):
        model(images, cross_attend_path="separable")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_gradients(grid, path, masked):
    """Of weights and pixels, by way of a gradient of pixels; against `torch.func` on the general path.

    With eager attention, as torch's fused attention has no gradients of gradients on a CPU, in any model.
    """
    model = small_model(**grid, attn_implementation="eager").double()
    points = mask(small_config(image_size=model.config.attended_grid, **_axes(grid))) if masked else None
    images = pixels(model.config, dtype=torch.float64).requires_grad_()
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def penalty(path):
        score = model(images, attention_mask=points, cross_attend_path=path).logits.square().sum()
        (gradient,) = torch.autograd.grad(score, images, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [images, *weights], allow_unused=True)

    for found, expected in zip(penalty(path), penalty("general"), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@forward_mode
def test_hessians():
    model = small_model(image_size=[2, 2], attn_implementation="eager").double()
    images = pixels(model.config, batch=1, dtype=torch.float64)

    def score(images):
        return model(images).logits.square().sum()

    torch.testing.assert_close(
        hessian(score)(images), torch.autograd.functional.hessian(score, images), rtol=1e-8, atol=1e-10
    )


# What is compiled, and what is kept between calls.


@pytest.mark.filterwarnings("default")  # the compiler has deprecation warnings of its own
def test_a_compiled_model_is_compiled_once():
    """Also if the model meets other sizes outside, which replace what is kept between calls."""
    model = small_model()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=backend)
    images = pixels(model.config)
    with torch.no_grad():
        for size in (7, 8, 9, 10):
            torch.testing.assert_close(compiled(images).logits, model(images).logits, rtol=0, atol=1e-5)
            model(torch.randn(2, 3, size, 5))
    assert len(graphs) == 1


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("program", ["compiled", "exported", "exported strictly"])
@pytest.mark.parametrize("hooked", [False, True])
def test_programs_take_the_path_of_the_model(program, hooked):
    model = small_model()
    images = pixels(model.config)
    if hooked:
        cross_attentions(model)[0].k_proj.register_forward_hook(lambda module, inputs, output: 2 * output)
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    with torch.no_grad():
        if program == "compiled":
            torch.compiler.reset()
            run = torch.compile(Logits(model), fullgraph=True, backend=backend)
        else:
            run = torch.export.export(Logits(model), (images,), strict=program == "exported strictly").module()
            graphs.append(run)
        torch.testing.assert_close(run(images), model(images).logits, rtol=0, atol=1e-5)
    (graph,) = graphs
    values = [node.meta.get("example_value", node.meta.get("val")) for node in graph.graph.nodes]
    array = (3, 35, model.config.num_input_channels)
    assert (array in {tuple(value.shape) for value in values if isinstance(value, torch.Tensor)}) == hooked


@pytest.mark.parametrize(
    "field",
    [{"max_frequencies": 2.0}, {"max_frequencies": [1.0, 9.0]}, {"num_frequency_bands": 4}, {"image_size": [14, 10]}],
    ids=str,
)
def test_a_changed_config_changes_the_positions(field):
    """Of a model that has already been called; with bands enough that the width stays."""
    model = small_model(num_frequency_bands=4).double()
    images = pixels(model.config, dtype=torch.float64)
    before = model(images).logits
    for name, value in field.items():
        setattr(model.config, name, value)
    expected = reference.logits(model, reference.byte_array(model.config, images))
    torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=1e-10)
    assert torch.allclose(before, expected) == (field == {"num_frequency_bands": 4})


def test_threads_get_the_positions_of_their_own_grid():
    model = small_model(num_cross_attends=1, num_blocks=1, num_self_attends_per_block=1)
    sizes = [[7, 5], [5, 7], [6, 6], [9, 4]]
    images = [torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)) for size in sizes]
    with torch.no_grad():
        expected = [model(each).logits for each in images]
    wrong, interval = [], sys.getswitchinterval()

    @torch.no_grad()
    def work(index):
        for _ in range(50):
            try:
                if not torch.allclose(model(images[index]).logits, expected[index], atol=1e-4):
                    wrong.append(index)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sizes))]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
