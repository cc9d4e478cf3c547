"""What becomes of the model in a trace, an exported program and a compiled one."""

import io
import warnings

import pytest
import torch

from tests.commands.test_export import needs_onnx
from tests.models import GRIDS, Logits, cross_attentions, mask, pixels, small_model

pytestmark = pytest.mark.slow


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def grid(request):
    return request.param


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
