"""On the device at hand, and on one without numbers: everything is where it belongs, in the dtype it should have.

`device` is a GPU where there is one, and the CPU elsewhere. Tensors on the meta device have a dtype and a shape alone,
and torch refuses to combine them with those of another device, as it does on a GPU. (`FakeTensorMode` cannot stand in
for a GPU here: a build of torch without CUDA refuses to index its tensors.)
"""

import copy

import pytest
import torch
from accelerate import cpu_offload
from transformers import masking_utils

from modeling_perceiver_study import PerceiverStudyImageProcessor
from modeling_perceiver_study.separable import grid_inputs, separable_attention
from tests.models import GRIDS, Logits, cross_attentions, mask, pixels, small_model

PATHS = ("separable", "general")
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9}


def answers(model, *arguments, **keywords):
    """Logits and gradients of parameters, on the CPU in float64."""
    model.zero_grad()
    logits = model(*arguments, **keywords).logits
    logits.square().sum().backward()
    grads = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    return {"logits": logits.detach(), **grads}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("grid", ["image", "waveform", "video"])
def test_logits_and_gradients_are_those_of_the_cpu(device, grid, path, dtype, masked):
    model = small_model(**GRIDS[grid]).double()
    inputs = pixels(model.config, dtype=torch.float64)
    hidden = mask(model.config) if masked else None
    expected = answers(model, inputs, attention_mask=hidden, cross_attend_path="general")
    there = copy.deepcopy(model).to(device, dtype)
    found = answers(
        there,
        inputs.to(device, dtype),
        attention_mask=None if hidden is None else hidden.to(device),
        cross_attend_path=path,
    )
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor.device.type, tensor.dtype) == (device.type, dtype), name
        scale = max(1.0, expected[name].abs().max().item())
        torch.testing.assert_close(
            tensor.cpu().double(), expected[name], rtol=0, atol=TOLERANCES[dtype] * scale, msg=name
        )


def test_what_the_processor_makes_goes_to_the_device(device):
    model = small_model(image_size=8).to(device)
    processor = PerceiverStudyImageProcessor(size=8, num_frequency_bands=model.config.num_frequency_bands)
    image = torch.randint(0, 256, (3, 20, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    on_cpu = processor(image)
    on_device = processor(image).to(device)
    from_device = processor(image.to(device))  # pictures that lie there come back as all others do
    assert torch.equal(from_device["pixel_values"], on_cpu["pixel_values"])
    with torch.no_grad():
        found = model(**on_device).logits.cpu()
        expected = small_model(image_size=8)(**on_cpu).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_offloaded_weights_come_to_the_device(device):
    model = small_model()
    inputs = pixels(model.config)
    with torch.no_grad():
        expected = model(inputs).logits
        offloaded = cpu_offload(small_model(), execution_device=device)
        found = offloaded(inputs.to(device)).logits
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_program_runs_on_the_device(device):
    model = small_model().to(device)
    inputs = pixels(model.config).to(device)
    program = torch.export.export(Logits(model), (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        for batch in (inputs, inputs[:2]):
            torch.testing.assert_close(program.module()(batch), model(batch).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attentions", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_placement_of_a_whole_model_without_numbers(dtype, masked, attentions, monkeypatch):
    """On the meta device, from which weights cannot be read: a tensor that stayed on the CPU would be refused."""
    # transformers looks into masks, and leaves out one that hides nothing.
    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *arguments: False)
    model = small_model().to("meta", dtype).train()
    config = model.config
    inputs = torch.empty(3, config.num_channels, *config.grid, device="meta")
    hidden = torch.empty(3, torch.Size(config.grid).numel(), dtype=torch.long, device="meta") if masked else None
    outputs = model(inputs, attention_mask=hidden, output_attentions=attentions, output_hidden_states=True)
    outputs.logits.float().sum().backward()
    made = [outputs.logits, *outputs.hidden_states, *(outputs.cross_attentions or ()), *(outputs.attentions or ())]
    assert all((tensor.device.type, tensor.dtype) == ("meta", dtype) for tensor in made)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad.device.type, parameter.grad.dtype) == ("meta", dtype), name


@pytest.mark.parametrize("attentions", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_placement_in_the_separable_cross_attend_without_numbers(dtype, masked, attentions):
    attention = cross_attentions(small_model())[0].to("meta", dtype)
    exact = torch.promote_types(torch.float32, dtype)
    positions = [torch.empty(1, size, 9, dtype=exact, device="meta") for size in (7, 5)]
    grid = grid_inputs(torch.empty(3, 3, 7, 5, dtype=exact, device="meta"), positions)
    query = torch.empty(1, 2, 6, attention.q_proj.out_features // 2, dtype=dtype, device="meta", requires_grad=True)
    hidden = torch.empty(3, 35, dtype=torch.bool, device="meta") if masked else None
    grid = grid._replace(attention_mask=hidden)
    attended, weights = separable_attention(
        query, [grid], attention.layernorm_inputs, attention.k_proj, attention.v_proj, 0.0, attentions
    )
    attended.sum().backward()
    assert (attended.device.type, attended.dtype) == ("meta", exact)
    assert (weights is not None) == attentions
    for tensor in (query, attention.k_proj.weight, attention.v_proj.weight, attention.layernorm_inputs.weight):
        assert (tensor.grad.device.type, tensor.grad.dtype) == ("meta", dtype)
