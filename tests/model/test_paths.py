"""Whatever somebody puts on a cross-attend's layers, or does to the whole model, gives what calling the layers gives.

Judged by `tests/reference.py` where a weight still says everything, and otherwise by the general path.
"""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from modeling_perceiver_study import PerceiverStudyForImageClassification
from modeling_perceiver_study.paths import PATHS
from tests import reference
from tests.models import GRIDS, cross_attentions, mask, pixels, small_config, small_model

READ = ("layernorm_inputs", "k_proj", "v_proj")
NEEDS_A_CALL = "which cannot be done here: "


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def grid(request):
    return request.param


@pytest.mark.parametrize("masked", [False, True], ids=["all points", "masked"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_all_paths_give_the_same(grid, masked, dtype, tolerance):
    """From the call, through the head and the base model, and from the config; forward and backward."""
    model = small_model(**grid).to(dtype)
    images, labels = pixels(model.config, dtype=dtype), torch.tensor([0, 1, 2])
    points = mask(model.config) if masked else None
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


def test_a_path_is_saved_and_chosen_in_loading(tmp_path):
    small_model(cross_attend_path="general").save_pretrained(tmp_path)
    load = PerceiverStudyForImageClassification.from_pretrained
    assert load(tmp_path).config.cross_attend_path == "general"
    model = load(tmp_path, cross_attend_path="separable")
    cross_attentions(model)[0].k_proj.register_forward_hook(lambda *parts: None)
    with pytest.raises(ValueError, match=f"{NEEDS_A_CALL}k_proj has hooks"):
        model(pixels(model.config))


@pytest.mark.parametrize("where", ["config", "call", "base model"])
def test_a_path_that_is_none(where):
    message = re.escape("cross_attend_path='fast'")
    with pytest.raises(ValueError, match=message + ".*'auto', 'separable', 'general'"):
        if where == "config":
            small_config(cross_attend_path="fast")
        model = small_model()
        (model if where == "call" else model.perceiver)(pixels(model.config), cross_attend_path="fast")


def test_no_separable_path_without_positions_in_separable_form():
    with pytest.raises(ValueError, match=r"cross_attend_path='separable' .* a grid with Fourier positions"):
        small_config(cross_attend_path="separable", position_encoding_type="learned")
    model = small_model()
    array = reference.byte_array(model.config, pixels(model.config)).float()
    with pytest.raises(ValueError, match=r"cross_attend_path='separable' .* byte array"):
        model(inputs=array, cross_attend_path="separable")


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
    """Into a model that is pruned alike, whose `weight` is stale until the next call makes it of what was loaded."""
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
