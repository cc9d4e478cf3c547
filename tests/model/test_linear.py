"""Float32 products through convolutions, as on CPUs where those are faster; here on any."""

import contextlib

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_perceiver_study import linear
from modeling_perceiver_study.linear import Linear
from tests.models import needs_compiler, pixels, small_model

LARGE = {"num_latents": 64, "d_latents": 64, "num_self_attention_heads": 2}


class Operations(TorchDispatchMode):
    """Names of what is called, and how many images are convolved."""

    def __init__(self):
        super().__init__()
        self.names, self.images = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        if self.names[-1] == "convolution":
            self.images.append(len(args[0]))
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def slow_products(monkeypatch):
    monkeypatch.setattr(linear, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(linear, "_FEWEST_PRODUCTS", 2**17)  # small models will do


def convolves(layer: nn.Module, inputs: torch.Tensor) -> bool:
    with Operations() as operations:
        assert layer(inputs).shape == (*inputs.shape[:-1], layer.out_features)
    # As a slow kernel would be chosen for fewer.
    assert all(images == (16 if inputs.shape[:-1].numel() % 16 == 0 else 1) for images in operations.images)
    return "convolution" in operations.names


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 64), (131,), (2, 5, 32), (16, 8)])
@pytest.mark.parametrize("channels", [(64, 100), (73, 64)])
def test_same_products(shape, channels, bias):
    torch.manual_seed(0)
    layer = Linear(*channels, bias=bias)
    inputs = torch.randn(*shape, channels[0], requires_grad=True)
    assert convolves(layer, inputs)
    expected = nn.functional.linear(inputs, *layer.parameters())
    torch.testing.assert_close(layer(inputs), expected)
    pull = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [inputs, *layer.parameters()], pull)
    for actual, gradient in zip(
        torch.autograd.grad(layer(inputs), [inputs, *layer.parameters()], pull), wanted, strict=True
    ):
        # Sums over up to 320 rows of numbers around 1, in another order.
        torch.testing.assert_close(actual, gradient, rtol=1e-5, atol=1e-4)


def test_inputs_need_not_be_contiguous():
    layer = Linear(64, 80)
    inputs = torch.randn(64, 4, 96).transpose(0, 1)[..., 16:80]
    assert convolves(layer, inputs)
    torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))


def test_the_same_bits_each_time():
    layer, inputs = Linear(64, 256), torch.randn(8, 64, 64, requires_grad=True)
    first, second = (
        [layer(inputs), *torch.autograd.grad(layer(inputs).square().sum(), [inputs, *layer.parameters()])]
        for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


class Quantized(torch.Tensor):
    """Any subclass of a tensor."""


@pytest.mark.parametrize(
    "what",
    [
        "few products",
        "few channels",
        "float64",
        "bfloat16",
        "autocast",
        "lower precision",
        "without oneDNN",
        "weights of another kind",
        "no slow products",
    ],
)
def test_where_it_would_not_pay_it_is_torchs_own(what, monkeypatch):
    layer, inputs, context = Linear(64, 64), torch.randn(2, 64, 64), contextlib.nullcontext()
    assert convolves(layer, inputs)
    match what:
        case "few products":
            inputs = inputs[:, :15]
        case "few channels":
            layer = Linear(64, 63)
        case "float64" | "bfloat16":
            dtype = getattr(torch, what)
            layer, inputs = layer.to(dtype), inputs.to(dtype)
        case "autocast":
            context = torch.autocast("cpu", torch.bfloat16)
        case "lower precision":
            torch.set_float32_matmul_precision("medium")
        case "without oneDNN":
            monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        case "weights of another kind":
            layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantized))
        case "no slow products":
            monkeypatch.setattr(linear, "_mkl_is_slow", lambda: False)
    with context:
        assert not convolves(layer, inputs)


@pytest.mark.parametrize(
    "cpuinfo, capability, slow",
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
def test_the_cpu_decides(cpuinfo, capability, slow, monkeypatch, tmp_path):
    monkeypatch.undo()
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {cpuinfo}\n")
    monkeypatch.setattr(linear, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert linear._mkl_is_slow.__wrapped__() == slow


def test_a_model_computes_the_same(monkeypatch):
    model = small_model(**LARGE).train()
    images, labels = pixels(model.config), torch.tensor([0, 1, 2])

    def step():
        model.zero_grad()
        with Operations() as operations:
            output = model(images, labels=labels)
        output.loss.backward()
        return operations.names, output.logits, {name: weight.grad for name, weight in model.named_parameters()}

    names, logits, gradients = step()
    assert names.count("convolution") > 6
    monkeypatch.setattr(linear, "_mkl_is_slow", lambda: False)
    names, expected, expected_gradients = step()
    assert "convolution" not in names
    torch.testing.assert_close(logits, expected)
    largest = max(gradient.abs().max().item() for gradient in expected_gradients.values())
    for name, gradient in gradients.items():  # that of a key's bias is nothing but rounding
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=1e-6 * largest)


@pytest.mark.filterwarnings("default")  # the compiler has deprecation warnings of its own
@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles(dynamic):
    model = small_model(**LARGE)
    graphs = []

    def backend(graph, _):
        graphs.append(graph.code)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend=backend)
    with torch.no_grad():
        for batch in (2, 5, 3):
            images = pixels(model.config, batch=batch)
            torch.testing.assert_close(compiled(images).logits, model(images).logits)
    assert all("conv2d" in code for code in graphs)
    assert len(graphs) <= (2 if dynamic else 3)


@needs_compiler
@pytest.mark.filterwarnings("default")
def test_inductor_computes_the_same():
    layer, inputs = Linear(64, 80), torch.randn(3, 64, 64)
    torch.testing.assert_close(torch.compile(layer)(inputs), layer(inputs))


@pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated")
def test_a_traced_layer_takes_any_number_of_rows():
    layer = Linear(64, 80)
    traced = torch.jit.trace(layer, torch.randn(64, 64))
    inputs = torch.randn(7, 64)
    torch.testing.assert_close(traced(inputs), layer(inputs))


def test_a_weight_that_is_computed_is_computed_once():
    layer, inputs = Linear(64, 80), torch.randn(64, 64)
    calls = []

    class Count(nn.Module):
        def forward(self, weight):
            calls.append(weight)
            return 2 * weight

    expected = nn.functional.linear(inputs, 2 * layer.weight, layer.bias)
    nn.utils.parametrize.register_parametrization(layer, "weight", Count())
    calls.clear()
    torch.testing.assert_close(layer(inputs), expected)
    assert len(calls) == 1


def test_an_exported_program_has_no_convolutions():
    model = small_model(**LARGE, num_blocks=1, num_cross_attends=1, num_self_attends_per_block=1)
    images = pixels(model.config)
    program = torch.export.export(model, (images,))
    assert not [node for node in program.graph.nodes if "conv" in str(node.target)]
