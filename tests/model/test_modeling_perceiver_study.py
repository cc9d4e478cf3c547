import copy
import re

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForAudioClassification,
    PerceiverStudyForImageClassification,
    PerceiverStudyForPointCloudClassification,
    PerceiverStudyForTokenClassification,
    PerceiverStudyImageProcessor,
    PerceiverStudyModel,
)
from modeling_perceiver_study import attention as attention_module
from modeling_perceiver_study.position import fourier_axis_features
from tests import reference
from tests.kinds import arguments_of, fields_of
from tests.models import mask, pixels, small_config, small_model

VARIANTS = {
    "shared": {},
    "own weights": {"share_cross_attend_weights": False, "share_block_weights": False},
    "fewer cross-attends": {"num_cross_attends": 1},
    "no residual": {"use_query_residual": False},
    "output query": {"decoder_type": "query"},
    "explicit widths": {"qk_channels": 8, "v_channels": 24, "cross_attention_shape_for_attention": "kv"},
    "no towers": {"num_self_attends_per_block": 0},
    "no coordinates": {"concat_positions": False},
    "waveform": {"num_axes": 1, "image_size": 33, "num_channels": 1},
    "video": {"num_axes": 3, "image_size": [3, 4, 5], "max_frequencies": [1.0, 2.5, 3.0]},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request):
    return request.param


@pytest.mark.parametrize("masked", [False, True], ids=["all points", "masked"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_all_paths_give_the_references_logits(variant, masked, implementation):
    """1e-10 in float64; 1e-5 in float32, relative to logits of size 1 and more."""
    model = small_model(**variant)
    model.set_attn_implementation(implementation)
    config = model.config
    points = mask(config) if masked else None
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = model.to(dtype)
        images = pixels(config, dtype=dtype)
        array = reference.byte_array(config, images)
        features = fourier_axis_features(
            config.grid, config.num_frequency_bands, config.axis_max_frequencies, config.concat_positions, dtype
        )
        expected = reference.logits(model, array, points)
        paths = {
            "pixels": model(images, attention_mask=points),
            "pixels and features": model(images, position_features=torch.cat(features)[None], attention_mask=points),
            "byte array": model(inputs=array.to(dtype), attention_mask=points),
            "maps": model(images, attention_mask=points, output_attentions=True),
            "byte array, maps": model(inputs=array.to(dtype), attention_mask=points, output_attentions=True),
        }
        scale = max(1.0, expected.abs().max().item())
        for path, output in paths.items():
            error = (output.logits - expected).abs().max().item()
            assert error < tolerance * scale, f"{path} in {dtype}: {error}"


CLASSIFIERS = {
    "mean": {"decoder_type": "mean"},
    "query": {"decoder_type": "query"},
    "tasks": {"decoder_type": "query", "tasks": {"color": 3, "shape": 2}},
    "bytes": None,
}


@pytest.mark.parametrize("fields", CLASSIFIERS.values(), ids=CLASSIFIERS.keys())
def test_dropout_of_the_classifier(fields):
    """In training it maps others of the channels at each call, twice as large; otherwise all as they are."""
    torch.manual_seed(0)
    if fields:
        model = small_model(classifier_dropout=0.5, **fields)
        arguments = {"pixel_values": pixels(model.config)}
    else:
        config = PerceiverStudyConfig(**fields_of("bytes"), num_labels=5, classifier_dropout=0.5)
        model, arguments = PerceiverStudyForTokenClassification(config), arguments_of(config, ("bytes",))
    given = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    model.eval()(**arguments)
    for _ in range(2):
        model.train()(**arguments)
    whole, *dropped = given
    assert (whole != 0).all() and not torch.equal(*dropped)
    for some in dropped:
        kept = some != 0
        assert 0.3 < kept.float().mean() < 0.7
        torch.testing.assert_close(some[kept], 2 * whole[kept])


def test_gradients_of_both_paths_agree(variant):
    model = small_model(**variant).double()
    config, images = model.config, pixels(model.config, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    gradients = []
    for inputs in ({"pixel_values": images}, {"inputs": reference.byte_array(config, images)}):
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradient, gradients[1][name], rtol=0, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_gradient_checkpointing_changes_nothing(variant):
    model = small_model(**variant).train()
    images, labels = pixels(model.config), torch.tensor([0, 1, 2])
    model(images, labels=labels).loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    for use_reentrant in (False, True):
        model.zero_grad()
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": use_reentrant})  # the second is its name before transformers 5.23
        model(images, labels=labels).loss.backward()
        for name, gradient in expected.items():
            torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=0, atol=1e-6)


def test_outputs(variant):
    model = small_model(**variant)
    config = model.config
    output = model(pixels(config), output_attentions=True, output_hidden_states=True)
    latents, points = config.num_latents, torch.Size(config.grid).numel()
    self_attends = config.num_blocks * config.num_self_attends_per_block
    assert [tuple(m.shape) for m in output.cross_attentions] == [
        (3, config.num_cross_attention_heads, latents, points)
    ] * config.num_cross_attends
    assert [tuple(m.shape) for m in output.attentions] == [
        (3, config.num_self_attention_heads, latents, latents)
    ] * self_attends
    assert len(output.hidden_states) == config.num_hidden_layers + 1 == config.num_cross_attends + self_attends + 1
    assert {tuple(state.shape) for state in output.hidden_states} == {(3, latents, config.d_latents)}
    assert torch.equal(output.hidden_states[0], model.perceiver.latents().expand(3, -1, -1))
    for weights in (*output.cross_attentions, *output.attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    base = model.perceiver(pixels(config), output_hidden_states=True)
    assert torch.equal(base.last_hidden_state, base.hidden_states[-1])
    assert torch.equal(base.last_hidden_state, model.perceiver(pixels(config), return_dict=False)[0])


@pytest.mark.parametrize("path", ["auto", "general"])
@pytest.mark.parametrize("checkpointing", [None, False, True])  # the argument use_reentrant
def test_hidden_states_chain_the_layers(variant, path, checkpointing):
    """Each is what the next layer receives; also with maps, and where layers run again in the backward pass."""
    model = small_model(**variant).double()
    if checkpointing is not None:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": checkpointing})
        model.train()
    images = pixels(model.config, dtype=torch.float64)
    layers = []
    for layer in {*model.perceiver.cross_attends, *(layer for block in model.perceiver.blocks for layer in block)}:
        layer.register_forward_hook(lambda _, given, returned: layers.append((given[0], returned)))
    base = model.perceiver(images, output_hidden_states=True, output_attentions=True, cross_attend_path=path)
    assert len(base.hidden_states) == model.config.num_hidden_layers + 1 == len(layers) + 1
    for before, after, (given, returned) in zip(base.hidden_states, base.hidden_states[1:], layers, strict=False):
        assert before is given and after is returned
    assert torch.equal(base.hidden_states[-1], base.last_hidden_state)
    torch.testing.assert_close(base.last_hidden_state, model.perceiver(images)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("wanted", [[0], -1, [0, 2]])
def test_some_hidden_states(wanted):
    """transformers lets callers choose by number; the others are None."""
    model = small_model().perceiver
    every = model(pixels(model.config), output_hidden_states=True).hidden_states
    chosen = model(pixels(model.config), output_hidden_states=wanted).hidden_states
    numbers = [number % len(every) for number in (wanted if isinstance(wanted, list) else [wanted])]
    assert len(chosen) == len(every)
    for number, state in enumerate(chosen):
        assert torch.equal(state, every[number]) if number in numbers else state is None


@pytest.mark.parametrize("base", [False, True], ids=["classifier", "base"])
@pytest.mark.parametrize("told", ["in the call", "in the config", "in the config of a saved model"])
@pytest.mark.parametrize("more", [{}, {"output_hidden_states": True, "output_attentions": True}], ids=["bare", "all"])
def test_tuples(tmp_path, base, told, more):
    model = small_model(decoder_type="query")
    images, labels = pixels(model.config), {} if base else {"labels": torch.tensor([0, 1, 2])}
    model = model.perceiver if base else model
    expected = model(images, **labels, **more)
    if told == "in the call":
        returned = model(images, return_dict=False, **labels, **more)
    else:
        model.config.return_dict = False
        if told == "in the config of a saved model":
            model.save_pretrained(tmp_path)
            model = type(model).from_pretrained(tmp_path)
            assert model.config.return_dict is False
        returned = model(images, **labels, **more)
        assert model(images, return_dict=True, **labels, **more).keys() == expected.keys()
    assert isinstance(returned, tuple)
    torch.testing.assert_close(returned, expected.to_tuple())


def test_maps_with_fused_attention_are_real():
    """Asked for maps, SDPA steps aside for that call, without a warning."""
    model = small_model()
    model.set_attn_implementation("sdpa")
    images = pixels(model.config)
    fused = model(images, output_attentions=True)
    model.set_attn_implementation("eager")
    eager = model(images, output_attentions=True)
    for one, other in zip(
        fused.attentions + fused.cross_attentions, eager.attentions + eager.cross_attentions, strict=True
    ):
        torch.testing.assert_close(one, other)


def test_runs_on_the_meta_device(variant):
    """As tools do that count operations without a weight in memory."""
    config = small_config(**variant)
    images = pixels(config)
    with torch.device("meta"):
        model = PerceiverStudyForImageClassification(config)
    assert model(images.to("meta")).logits.shape == (3, config.num_labels)
    array = reference.byte_array(config, images)
    assert model(inputs=array.float().to("meta")).logits.shape == (3, config.num_labels)


@pytest.mark.parametrize(
    "implementation, precision, dtype, called",
    [
        ("sdpa", "highest", torch.float32, torch.float32),
        ("sdpa", "medium", torch.float32, None),
        ("sdpa", "highest", torch.bfloat16, torch.float32),
        ("sdpa", "medium", torch.bfloat16, None),
        ("users_own", "medium", torch.bfloat16, torch.bfloat16),
    ],
)
def test_fused_attention_gives_way_to_faster_products(monkeypatch, implementation, precision, dtype, called):
    """On a CPU only, and no other implementation does."""
    sdpa, calls = ALL_ATTENTION_FUNCTIONS["sdpa"], []

    def counted(module, query, *arguments, **kwargs):
        calls.append(query.dtype)
        return sdpa(module, query, *arguments, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, implementation, counted)
    torch.set_float32_matmul_precision(precision)
    model = small_model()
    expected = model(pixels(model.config)).logits
    model.set_attn_implementation(implementation)
    calls.clear()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        actual = model(pixels(model.config)).logits
    if called is None and dtype == torch.bfloat16 and attention_module._float32_products_are_rounded():
        called = torch.float64  # as float32 products of this CPU would be of bfloat16 at that precision
    towers = model.config.num_blocks * model.config.num_self_attends_per_block
    assert calls == ([called] * towers if called else [])
    tolerance = 1e-5 if dtype == torch.float32 else 0.03  # 8 bits, rounded a few times
    assert (actual.float() - expected).abs().max() < tolerance * max(1.0, expected.abs().max().item())


def test_masked_points_do_not_matter():
    model = small_model()
    images, points = pixels(model.config), mask(model.config)
    noise = 10 * torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    changed = torch.where(points.view(3, 1, *model.config.grid).bool(), images, noise)
    torch.testing.assert_close(
        model(images, attention_mask=points).logits, model(changed, attention_mask=points).logits, rtol=0, atol=1e-5
    )
    assert not torch.allclose(model(images).logits, model(changed).logits, atol=1e-2)


@pytest.mark.parametrize("grid", [[7, 5], [14, 10], [3, 20], [1, 1]])
def test_any_resolution(grid):
    """Frequencies stay those that the model was made for, coordinates always span [-1, 1]."""
    model = small_model().double()
    images = torch.randn(2, 3, *grid, dtype=torch.float64)
    expected = reference.logits(model, reference.byte_array(model.config, images))
    torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_channels", [1, 4, 13])
@pytest.mark.parametrize("position_encoding_type", ["fourier", "learned"])
def test_any_number_of_channels(num_channels, position_encoding_type):
    model = small_model(num_channels=num_channels, position_encoding_type=position_encoding_type)
    images = pixels(model.config)
    assert model(images).logits.shape == (3, 5)
    assert not torch.allclose(model(images).logits, model(images.flip(-1)).logits)


def test_learned_positions():
    model = small_model(position_encoding_type="learned").double()
    table = model.perceiver.inputs.learned_positions
    assert table.weight.shape == (7 * 5, model.config.num_position_channels)
    images = pixels(model.config, dtype=torch.float64)
    array = torch.cat([images.flatten(2).mT, table.weight.expand(3, -1, -1)], dim=-1)
    torch.testing.assert_close(model(images).logits, reference.logits(model, array), rtol=0, atol=1e-10)
    model(images).logits.sum().backward()
    assert (table.weight.grad != 0).all()
    # On another grid the corners keep their positions.
    larger = table([13, 9]).view(13, 9, -1)
    torch.testing.assert_close(
        larger[[0, 0, -1, -1], [0, -1, 0, -1]], table.weight.view(7, 5, -1)[[0, 0, -1, -1], [0, -1, 0, -1]]
    )
    torch.testing.assert_close(larger[::2, ::2].flatten(0, 1), table.weight)


def test_without_positions_the_order_of_pixels_does_not_matter():
    model = small_model(position_encoding_type="none").double()
    images = pixels(model.config, dtype=torch.float64)
    shuffled = images.flatten(2)[..., torch.randperm(35)].view_as(images)
    torch.testing.assert_close(model(images).logits, model(shuffled).logits, rtol=0, atol=1e-10)
    other = small_model().double()
    assert not torch.allclose(other(images).logits, other(shuffled).logits, atol=1e-2)


def test_weight_sharing():
    """The first cross-attend has its own weights, later ones share; shared towers are one tower."""
    assert len(small_model().perceiver.cross_attends) == 2
    assert len(small_model(num_cross_attends=1).perceiver.cross_attends) == 1
    assert len(small_model().perceiver.blocks) == 1
    own = small_model(share_cross_attend_weights=False, share_block_weights=False).perceiver
    assert (len(own.cross_attends), len(own.blocks)) == (3, 3)


def test_initial_latents():
    """The paper's appendix: truncated normal of standard deviation 0.02, with bounds of -2 and 2, so hardly cut."""
    torch.manual_seed(0)
    config = PerceiverStudyConfig(num_latents=512, d_latents=512, num_self_attends_per_block=1)
    latents = PerceiverStudyModel(config).latents.weight
    assert abs(latents.std().item() - 0.02) < 1e-4  # cut at two standard deviations it would be 0.0176
    assert 0.08 < latents.abs().max() < 0.12


@pytest.mark.parametrize(
    ("fields", "labels", "problem_type"),
    [
        ({}, torch.tensor([0, 4, 2]), "single_label_classification"),
        ({}, torch.tensor([[1.0, 0, 1, 0, 0]] * 3), "multi_label_classification"),
        ({"num_labels": 1}, torch.tensor([0.5, -1.0, 3.0]), "regression"),
        ({"problem_type": "regression"}, torch.randn(3, 5), "regression"),
    ],
)
def test_losses(fields, labels, problem_type):
    model = small_model(**fields)
    output = model(pixels(model.config), labels=labels)
    assert model.config.problem_type == problem_type
    logits = output.logits
    expected = {
        "single_label_classification": torch.nn.functional.cross_entropy,
        "multi_label_classification": torch.nn.functional.binary_cross_entropy_with_logits,
        "regression": lambda logits, labels: (logits.view_as(labels) - labels).square().mean(),
    }[problem_type](logits, labels)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_positions_are_exact_whatever_the_dtype():
    """Casting to half precision and back rounds weights, which are given back here, but must not round positions."""
    model = small_model()
    weights = copy.deepcopy(model.state_dict())
    images = pixels(model.config)
    expected = model(images).logits
    model.bfloat16()
    assert model(images).logits.dtype == torch.bfloat16
    assert model.perceiver.inputs(images, None, None, torch.bfloat16).rows.dtype == torch.float32
    model.float().load_state_dict(weights)
    assert torch.equal(model(images).logits, expected)


def test_made_on_the_meta_device():
    with torch.device("meta"):
        model = PerceiverStudyForImageClassification(small_config())
    source = small_model()
    model.to_empty(device="cpu").load_state_dict(source.state_dict())
    images = pixels(source.config)
    assert torch.equal(model.eval()(images).logits, source(images).logits)
    assert not list(model.buffers())


def test_the_processors_output_is_the_models_input():
    model = small_model(image_size=32, num_frequency_bands=16)
    processor = PerceiverStudyImageProcessor()
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    inputs = processor([image, image.flip(-1)], return_tensors="pt")
    assert set(inputs) == {"pixel_values", "position_features"}
    torch.testing.assert_close(model(**inputs).logits, model(inputs["pixel_values"]).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Give either pixel_values or inputs: got neither"),
        ({"pixel_values": torch.zeros(1, 3, 7, 5), "inputs": torch.zeros(1, 35, 21)}, "got both"),
        (
            {"pixel_values": torch.zeros(1, 1, 7, 5)},
            "(1, 1, 7, 5): expected (batch, channels, height, width) with num_channels=3",
        ),
        ({"pixel_values": torch.zeros(3, 7, 5)}, "num_axes=2"),
        ({"inputs": torch.zeros(1, 35, 20)}, "(1, 35, 20): expected (batch, points, 21)"),
        ({"inputs": torch.zeros(35, 21)}, "(35, 21): expected (batch, points, 21)"),
        ({"inputs": torch.zeros(1, 3, 7, 5)}, "(1, 3, 7, 5): expected (batch, points, 21)"),
        ({"inputs": torch.zeros(1, 3, 7, 5)}, "which have no positions yet, are to be given as pixel_values"),
        ({"inputs": torch.zeros(1, 35, 21), "position_features": torch.zeros(1, 12, 9)}, "go with pixel_values"),
        (
            {"pixel_values": torch.zeros(2, 3, 7, 5), "position_features": torch.zeros(1, 12, 8)},
            "(1, 12, 8): expected (1 or 2, 12, 9)",
        ),
        ({"pixel_values": torch.zeros(2, 3, 7, 5), "position_features": torch.zeros(3, 12, 9)}, "(1 or 2, 12, 9)"),
        ({"pixel_values": torch.zeros(2, 3, 7, 5), "position_features": torch.zeros(1, 10, 9)}, "7 + 5 coordinates"),
        (
            {"pixel_values": torch.zeros(2, 3, 7, 5), "attention_mask": torch.ones(2, 7, 5)},
            "(2, 7, 5): expected (2, 35)",
        ),
    ],
)
def test_wrong_inputs_are_errors_that_say_what_was_expected(inputs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small_model()(**inputs)


def test_position_features_for_a_model_without_them():
    with pytest.raises(ValueError, match="do_fourier_encode=False"):
        small_model(position_encoding_type="learned")(torch.zeros(1, 3, 7, 5), position_features=torch.zeros(1, 12, 9))


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_every_head_has_the_loss_of_its_problem(problem_type):
    """Transformers guesses a loss from the name of a class, and otherwise takes that of language models."""
    heads = {"waveform": PerceiverStudyForAudioClassification, "points": PerceiverStudyForPointCloudClassification}
    for kind, head in heads.items():
        fields = fields_of(kind)
        config = PerceiverStudyConfig(num_latents=4, d_latents=16, num_labels=3, problem_type=problem_type, **fields)
        model = head(config).double().eval()
        given = arguments_of(config, (kind,), batch=2)
        labels = torch.tensor([2, 0]) if problem_type.startswith("single") else torch.eye(3, dtype=torch.float64)[:2]
        outputs = model(**given, labels=labels)
        loss = {
            "single_label_classification": torch.nn.functional.cross_entropy,
            "multi_label_classification": torch.nn.functional.binary_cross_entropy_with_logits,
            "regression": torch.nn.functional.mse_loss,
        }[problem_type]
        torch.testing.assert_close(outputs.loss, loss(outputs.logits, labels))


def test_only_small_maps_are_stored():
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        query = torch.empty(1, 1, 1024, 8)
        assert attention_module.products_are_faster(query, 1024)
        assert not attention_module.products_are_faster(query, 1025)
    finally:
        torch.set_float32_matmul_precision(precision)
