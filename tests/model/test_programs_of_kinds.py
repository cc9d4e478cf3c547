"""Models of other inputs than an image, compiled, exported and as ONNX; with masks, and several inputs at once."""

import pytest
import torch
from torch import nn

from tests.commands.test_export import needs_onnx
from tests.kinds import arguments_of, masks_of, model_of
from tests.models import needs_compiler

pytestmark = pytest.mark.slow

KINDS = [("waveform",), ("points",), ("neighbors",), ("bytes",), ("image", "waveform", "points")]
SMALLER = {"num_blocks": 2, "num_cross_attends": 2, "num_self_attends_per_block": 1}


@pytest.fixture(params=KINDS, ids="+".join)
def kinds(request):
    return request.param


class Latents(nn.Module):
    """A dict of tensors in, one tensor out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, given):
        return self.model(**given)[0]


def a_model_and_its_arguments(kinds):
    model = model_of(*kinds, **SMALLER)
    given = arguments_of(model.config, kinds)
    masks = {name: mask.long() for name, mask in masks_of(model.config, kinds, given).items()}
    return Latents(model).eval(), given | masks


@needs_compiler
@pytest.mark.filterwarnings("default")  # the compiler has deprecation warnings of its own
def test_compiled_without_graph_breaks(kinds):
    """Forward and backward, for one mask and then another."""
    torch.compiler.reset()
    program, given = a_model_and_its_arguments(kinds)
    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        gradients = []
        for function in (program, compiled):
            program.zero_grad()
            latents = function(given)
            latents.square().sum().backward()
            gradients.append([weight.grad for weight in program.parameters() if weight.requires_grad])
        torch.testing.assert_close(latents, program(given), rtol=0, atol=1e-10)
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        for name in given:
            if name.endswith("attention_mask"):
                given[name] = given[name].flip(0)


@pytest.mark.filterwarnings("default")
def test_exported_for_any_batch(kinds):
    program, given = a_model_and_its_arguments(kinds)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(program, (given,), dynamic_shapes=({name: {0: batch} for name in given},))
    for count in (2, 3):
        some = {name: value[:count] for name, value in given.items()}
        torch.testing.assert_close(exported.module()(some), program(some), rtol=0, atol=1e-10)


@needs_onnx
@pytest.mark.filterwarnings("default")
def test_onnx(kinds, tmp_path):
    import onnxruntime

    program, given = a_model_and_its_arguments(kinds)
    program.float()
    given = {name: value.float() if value.is_floating_point() else value for name, value in given.items()}
    batch = torch.export.Dim("batch")
    exported = torch.export.export(program, (given,), dynamic_shapes=({name: {0: batch} for name in given},))
    file = tmp_path / "model.onnx"
    torch.onnx.export(exported, dynamo=True, verbose=False).save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (latents,) = session.run(None, dict(zip(names, (value.numpy() for value in given.values()), strict=True)))
    torch.testing.assert_close(torch.from_numpy(latents), program(given), rtol=0, atol=1e-4)
