"""Inputs of every kind, alone and together, against the byte array of everything in float64, on every path."""

import re

import pytest
import torch
from torch import nn

from tests import reference
from tests.kinds import KINDS, arguments_of, configs_of, fields_of, joint_array, masks_of, model_of, prefix
from tests.models import replica_of

pytestmark = pytest.mark.slow

ALONE = [(kind,) for kind in KINDS]
TOGETHER = [
    ("image", "waveform"),
    ("video", "waveform"),
    ("image", "points"),
    ("waveform", "bytes"),
    ("points", "bytes"),
    ("image", "array"),
    ("stem", "learned"),
    ("waveform", "neighbors"),
    ("video", "plain", "places"),
]
# A dropout of 1e-12 takes its path and drops nothing.
PATHS = {
    "auto": ({}, {}),
    "with maps": ({"output_attentions": True}, {}),
    "dropout": ({}, {"attention_probs_dropout_prob": 1e-12}),
    "general": ({"cross_attend_path": "general"}, {}),
    "general, with maps": ({"cross_attend_path": "general", "output_attentions": True}, {}),
}


@pytest.fixture(params=[*ALONE, *TOGETHER], ids="+".join)
def kinds(request):
    return request.param


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("path", PATHS)
def test_latents_and_gradients_are_the_references(kinds, path, masked):
    """Of every weight and of every input that has one; several cross-attends, a modality of a sample all hidden."""
    call, fields = PATHS[path]
    model = model_of(*kinds, **fields)
    model.train("dropout" in path)
    for module in model.modules():  # a batch norm in training would keep statistics
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    given = arguments_of(model.config, kinds)
    masks = masks_of(model.config, kinds, given) if masked else {}
    leaves = {name: value.requires_grad_() for name, value in given.items() if value.is_floating_point()}
    leaves |= {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    expected = reference.latents(model, *joint_array(model, kinds, given, masks))
    actual = model(**given, **masks, **call)
    torch.testing.assert_close(actual.last_hidden_state, expected, rtol=0, atol=1e-10)
    gradients = [
        torch.autograd.grad(latents.square().sum(), list(leaves.values()))
        for latents in (actual.last_hidden_state, expected)
    ]
    for name, one, other in zip(leaves, *gradients, strict=True):
        assert other.abs().max() > 0
        error = (one - other).abs().max() / other.abs().max()
        assert error < 1e-10, f"{name}: {error}"


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_everything_is_made_where_the_inputs_are(kinds, masked):
    """Whatever torch's default device is."""
    model = model_of(*kinds).train()
    given = arguments_of(model.config, kinds)
    masks = masks_of(model.config, kinds, given) if masked else {}
    with torch.device("meta"):
        latents = model(**given, **masks).last_hidden_state
        latents.sum().backward()
    assert latents.device.type == "cpu"


def test_maps_are_split_by_modality(kinds):
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    maps = model(**given, output_attentions=True).cross_attentions
    parts = model.split_cross_attentions(maps, **given)
    assert len(parts) == len(kinds)
    for index in range(model.config.num_cross_attends):
        assert torch.equal(torch.cat([part[index] for part in parts.values()], dim=-1), maps[index])
    array, _ = joint_array(model, kinds, given)
    assert maps[0].shape[-1] == array.shape[1]
    for kind, own in configs_of(model.config, kinds).items() if len(kinds) > 1 else ():
        adapter = model.inputs.adapters[kind]
        name = adapter.arguments[0]
        assert parts[kind][0].shape[-1] == adapter.length(given[name])
        assert own.num_input_channels == adapter.width


def test_maps_of_other_inputs_are_not_split():
    model = model_of("image", "array")
    given = arguments_of(model.config, ("image", "array"))
    output = model(**given, output_attentions=True)
    with pytest.raises(ValueError, match=r"are of \[\d+\] elements, and the inputs given have {'array': \d+}"):
        model.split_cross_attentions(output.cross_attentions, inputs=given["inputs"])
    with pytest.raises(ValueError, match="cross_attentions are None: call the model with output_attentions=True"):
        model.split_cross_attentions(model(**given).cross_attentions, **given)


def test_norms_of_every_input_are_the_configs():
    for kinds in (("neighbors",), ("neighbors", "bytes")):
        model = model_of(*kinds, layer_norm_eps=1e-3)
        assert {module.eps for module in model.modules() if isinstance(module, (nn.LayerNorm, nn.GroupNorm))} == {1e-3}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(kinds, use_reentrant):
    model = model_of(*kinds).train()
    given = arguments_of(model.config, kinds)
    masks = masks_of(model.config, kinds, given)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": use_reentrant})
        model.zero_grad()
        for value in given.values():
            value.grad = None
            value.requires_grad_(value.is_floating_point())
        model(**given, **masks).last_hidden_state.square().sum().backward()
        leaves = [*given.values(), *model.parameters()]
        gradients.append([leaf.grad for leaf in leaves if leaf.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_a_copy_without_parameters(kinds):
    """As `DataParallel` makes one for each device, with tensors in their place."""
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    gradients = []
    for each in (model, replica_of(model)):
        model.zero_grad()
        each(**given).last_hidden_state.square().sum().backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.requires_grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_save_and_load(kinds, tmp_path):
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    assert loaded.main_input_name == loaded.inputs.arguments[0]
    torch.testing.assert_close(loaded(**given)[0], model(**given)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "kinds", [("waveform",), ("learned",), ("points",), ("places",), ("bytes",), ("array",)], ids="+".join
)
@pytest.mark.parametrize("path", ["auto", "general"])
@pytest.mark.parametrize("maps", [False, True], ids=["", "maps"])
def test_padding_changes_nothing(kinds, path, maps):
    """A padded batch gives each sample its own latents, whatever the padding holds; alone it has no mask at all."""
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    lengths = [5, 8, 1]
    mask = torch.arange(given[model.main_input_name].shape[-1 if kinds[0] in ("waveform", "learned") else 1])
    mask = mask < torch.tensor(lengths)[:, None]
    call = {"cross_attend_path": path, "output_attentions": maps}
    together = model(**given, attention_mask=mask, **call)
    axis = 2 if kinds[0] in ("waveform", "learned") else 1
    for sample, length in enumerate(lengths):
        own = {name: value[sample : sample + 1].narrow(axis, 0, length) for name, value in given.items()}
        alone = model(**own, **call)
        torch.testing.assert_close(together[0][sample], alone[0][0], rtol=0, atol=1e-12)
        if maps:
            elements = alone.cross_attentions[0].shape[-1]
            cut = together.cross_attentions[0][sample, ..., :elements]
            torch.testing.assert_close(cut, alone.cross_attentions[0][0], rtol=0, atol=1e-12)


def test_padding_of_several():
    kinds = ("waveform", "bytes")
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    waves, ids = given["input_values"], given["input_ids"]
    lengths, counts = [5, 20, 7], [3, 0, 10]
    masks = {
        "waveform_attention_mask": torch.arange(20) < torch.tensor(lengths)[:, None],
        "bytes_attention_mask": torch.arange(10) < torch.tensor(counts)[:, None],
    }
    together = model(**given, **masks)[0]
    for sample, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        alone = {"input_values": waves[sample : sample + 1, :, :length]}
        if count:
            alone["input_ids"] = ids[sample : sample + 1, :count]
        torch.testing.assert_close(together[sample], model(**alone)[0][0], rtol=0, atol=1e-12)


def test_the_batch_is_cut_to_its_longest_sample(monkeypatch):
    """So that computing follows real lengths."""
    model = model_of("bytes")
    ids = torch.zeros(2, 11, dtype=torch.int64)
    mask = torch.arange(11) < torch.tensor([[3], [5]])
    seen = []
    model.cross_attends[0].attention.k_proj.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    model(input_ids=ids, attention_mask=mask)
    assert seen.pop()[1] == 5
    model(input_ids=ids, attention_mask=mask, output_attentions=True)
    assert seen.pop()[1] == 11
    model(input_ids=ids, attention_mask=torch.zeros(2, 11))
    assert seen.pop()[1] == 1


def test_the_order_of_modalities_changes_nothing():
    kinds = ("image", "points", "waveform")
    models = []
    for order in (kinds, kinds[::-1]):
        own = model_of(*kinds).config.modalities
        models.append(model_of(*kinds, modalities={kind: own[kind] for kind in order}, modality_dropout=0.4).train())
    given = arguments_of(models[0].config, kinds)
    latents = []
    for model, names in zip(models, (list(given), list(given)[::-1]), strict=True):
        torch.manual_seed(3)
        latents.append(model(**{name: given[name] for name in names})[0])
    assert torch.equal(*latents)


@pytest.mark.parametrize("kinds", TOGETHER, ids="+".join)
def test_a_modality_that_is_missing(kinds):
    """For the batch, its argument is left out; for a sample, its mask hides it; the same numbers."""
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    masks = masks_of(model.config, kinds, given)
    for kind, own in configs_of(model.config, kinds).items():
        name, before = model.inputs.adapters[kind].arguments[0], prefix(kinds, kind)
        rest = {key: value for key, value in given.items() if key != name and not key.startswith(before)}
        hidden = {before + "attention_mask": torch.zeros_like(masks[before + "attention_mask"])}
        torch.testing.assert_close(model(**rest)[0], model(**given, **hidden)[0], rtol=0, atol=1e-12)
        assert not torch.allclose(model(**rest)[0], model(**given)[0], atol=1e-3), own


def test_nothing_at_all_is_zeros_on_every_path():
    kinds = ("image", "points")
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    masks = {"image_attention_mask": torch.ones(3, 20), "points_attention_mask": torch.ones(3, 9)}
    for mask in masks.values():
        mask[1] = 0
    for value in given.values():
        value.requires_grad_()
    for call, _ in PATHS.values():
        latents = model(**given, **masks, **call)[0]
        expected = reference.latents(model, *joint_array(model, kinds, given, {k: v.bool() for k, v in masks.items()}))
        torch.testing.assert_close(latents, expected, rtol=0, atol=1e-10)
        for gradient in torch.autograd.grad(latents.square().sum(), list(given.values())):
            assert gradient.isfinite().all() and (gradient[1] == 0).all() and (gradient[0] != 0).any()


@pytest.mark.parametrize(
    ("dropout", "wanted"),
    [(0.5, {"both", "image", "points"}), ({"points": 1.0}, {"image"}), (1.0, {"image", "points"})],
    ids=["half", "points always", "all always"],
)
def test_modality_dropout(dropout, wanted):
    kinds = ("image", "points")
    model = model_of(*kinds, modality_dropout=dropout)
    given = arguments_of(model.config, kinds)
    there = torch.ones(3, 9)
    there[0] = 0
    given["points_attention_mask"] = there
    plain = model(**given)[0]
    assert torch.equal(plain, model(**given)[0])
    image = model(pixel_values=given["pixel_values"])[0]
    cloud = model(**{name: value for name, value in given.items() if name.startswith("points")})[0]
    model.train()
    seen = [set() for _ in range(3)]
    for seed in range(12):
        torch.manual_seed(seed)
        latents = model(**given)[0]
        torch.manual_seed(seed)
        assert torch.equal(latents, model(**given)[0])
        for sample in range(3):
            found = [
                name
                for name, other in (("both", plain), ("image", image), ("points", cloud))
                if torch.allclose(latents[sample], other[sample], atol=1e-9)
            ]
            assert found  # never nothing
            seen[sample].update(found)
    assert "points" not in seen[0]  # it has none
    assert seen[1] == seen[2] == wanted


WRONG = [
    (
        "points",
        {"points": torch.zeros(1, 4, 3).long(), "point_features": torch.zeros(1, 4, 2)},
        "points have dtype torch.int64: expected a floating",
    ),
    (
        "points",
        {"points": torch.zeros(1, 4, 3), "point_features": torch.zeros(1, 4, 2).long()},
        "point_features have dtype torch.int64",
    ),
    (
        "image",
        {"pixel_values": torch.zeros(1, 3, 5, 4), "position_features": torch.zeros(1, 9, 7).long()},
        "position_features have dtype torch.int64",
    ),
    ("image", {"pixel_values": torch.zeros(1, 3, 5, 4, dtype=torch.int64)}, "pixel_values have dtype torch.int64"),
    ("image", {"pixel_values": torch.zeros(1, 3, 0, 4)}, "(1, 3, 0, 4): expected (batch, channels, height, width)"),
    ("image", {}, "Give either pixel_values or inputs: got neither"),
    (
        "image",
        {"input_ids": torch.zeros(1, 3)},
        "input_ids are given to a model that does not take them: expected some of pixel_values",
    ),
    (
        "image",
        {"pixel_values": torch.zeros(1, 3, 5, 4), "attention_mask": torch.full((1, 20), -1e9)},
        "other numbers than 0 and 1",
    ),
    (
        "video",
        {"pixel_values": torch.zeros(1, 2, 4, 3, 4)},
        "(1, 2, 4, 3, 4): expected (batch, frames, channels, height, width)",
    ),
    (
        "waveform",
        {"input_values": torch.zeros(1, 2, 9)},
        "(1, 2, 9): expected (batch, channels, length) with num_channels=1",
    ),
    (
        "waveform",
        {"input_values": torch.zeros(2, 9), "attention_mask": torch.ones(2, 3)},
        "(2, 3): expected (2, 9), one entry per point before",
    ),
    ("learned", {"learned_values": torch.zeros(1, 2, 13)}, "grid of [13] points: expected at most [12]"),
    (
        "points",
        {"points": torch.zeros(1, 4, 2), "point_features": torch.zeros(1, 4, 2)},
        "(1, 4, 2): expected (batch, points, 3)",
    ),
    ("points", {"points": torch.zeros(1, 0, 3), "point_features": torch.zeros(1, 0, 2)}, "at least one point"),
    ("points", {"points": torch.zeros(1, 4, 3)}, "point_features: got none, expected (batch, points, 2)"),
    (
        "places",
        {"places": torch.zeros(1, 4, 2), "point_features": torch.zeros(1, 4, 2)},
        "point_features: got shape (1, 4, 2), expected none",
    ),
    (
        "points",
        {"points": torch.zeros(1, 4, 3), "point_features": torch.zeros(1, 5, 2)},
        "(1, 5, 2): expected (1, 4, 2)",
    ),
    (
        "points",
        {"points": torch.full((1, 4, 3), torch.nan), "point_features": torch.zeros(1, 4, 2)},
        "points hold coordinates that are NaN",
    ),
    (
        "points",
        {"points": torch.zeros(1, 4, 3), "point_features": torch.full((1, 4, 2), torch.inf)},
        "point_features hold numbers that are NaN or infinite",
    ),
    (
        "bytes",
        {"input_ids": torch.zeros(1, 12, dtype=torch.int64)},
        "(1, 12): expected (batch, length) with a length of 1 to max_position_embeddings=11",
    ),
    ("bytes", {"input_ids": torch.zeros(1, 0, dtype=torch.int64)}, "a length of 1"),
    ("bytes", {"input_ids": torch.full((1, 3), 20)}, "ids from 20 to 20: expected 0 to 19, as vocab_size=20"),
    ("bytes", {"input_ids": torch.full((1, 3), -1)}, "ids from -1 to -1"),
    ("bytes", {"input_ids": torch.zeros(1, 3)}, "input_ids have dtype torch.float32"),
    ("bytes", {}, "input_ids are missing"),
    ("array", {"inputs": torch.zeros(1, 3, 6)}, "(1, 3, 6): expected (batch, elements, 7)"),
    ("array", {"inputs": torch.zeros(1, 3, 7, dtype=torch.bool)}, "inputs have dtype torch.bool"),
]


@pytest.mark.parametrize(
    ("kind", "given", "message"), WRONG, ids=[f"{kind}-{message[:30]}" for kind, _, message in WRONG]
)
def test_what_does_not_fit_is_said(kind, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        model_of(kind)(**given)


JOINT = "(3, 20): expected (3, 29), one entry per element of image, points; or give NAME_attention_mask of each"
WRONG_TOGETHER = [
    (["pixel_values", "points", "points_point_features"], {}, "expected at least one of pixel_values, points."),
    ([], {"attention_mask": torch.ones(3, 20)}, JOINT),
    ([], {"points": torch.zeros(2, 9, 3), "points_point_features": torch.zeros(2, 9, 2)}, "{'image': 3, 'points': 2}"),
    ([], {"image_attention_mask": torch.ones(3, 19)}, "image: attention_mask has shape (3, 19): expected (3, 20)"),
    (
        ["pixel_values"],
        {"image_attention_mask": torch.ones(3, 20)},
        "image_attention_mask is given without pixel_values",
    ),
    (["points"], {}, "points: points are missing"),
]


@pytest.mark.parametrize(("without", "more", "message"), WRONG_TOGETHER)
def test_what_does_not_fit_together_is_said(without, more, message):
    model = model_of("image", "points")
    given = arguments_of(model.config, ("image", "points"))
    given = {name: value for name, value in given.items() if name not in without} | more
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**given)


def test_a_mask_that_hides_nothing_changes_nothing(kinds):
    """Not one bit, as the same is computed."""
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    masks = {name: torch.ones_like(mask) for name, mask in masks_of(model.config, kinds, given).items()}
    assert torch.equal(model(**given, **masks)[0], model(**given)[0])


def test_one_mask_for_all():
    """Over the elements, beside the masks of each."""
    kinds = ("image", "points")
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    masks = masks_of(model.config, kinds, given)
    array, shown = joint_array(model, kinds, given, masks)
    torch.testing.assert_close(model(**given, attention_mask=shown)[0], model(**given, **masks)[0], rtol=0, atol=1e-12)
    more = torch.rand(shown.shape) > 0.5
    expected = reference.latents(model, array, shown & more)
    actual = model(**given, **masks, attention_mask=more.long())[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    image = more[:, :20].view(3, 1, 5, 4)  # the first elements are those of the image
    broken = given | {"pixel_values": given["pixel_values"].masked_fill(~image, torch.nan)}
    assert torch.equal(model(**broken, **masks, attention_mask=more.long())[0], actual)


@pytest.mark.parametrize("kind", ["points", "neighbors", "bytes", "array"])
def test_a_mask_of_all_is_known_to_each(kind):
    """Also to what makes an element of those beside it: the neighbors of a point, a run of bytes."""
    kinds = ("image", kind)
    modalities = fields_of(*kinds)["modalities"]
    if kind == "bytes":
        modalities["bytes"]["ngram_sizes"] = [-3, 2]
    model = model_of(*kinds, modalities=modalities)
    given = arguments_of(model.config, kinds)
    masks = masks_of(model.config, kinds, given)
    joint = torch.cat([masks[f"{name}_attention_mask"] for name in sorted(kinds)], dim=1)
    expected = model(**given, **masks)[0]
    torch.testing.assert_close(model(**given, attention_mask=joint)[0], expected, rtol=0, atol=1e-12)
    hidden = ~masks[f"{kind}_attention_mask"]
    for name, value in given.items():
        if name == "input_ids":
            given[name] = value.masked_fill(hidden, 7)
        elif name != "pixel_values":
            given[name] = value.masked_fill(hidden[..., None], torch.nan)
    torch.testing.assert_close(model(**given, attention_mask=joint)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kinds", [("image", "array"), ("waveform", "bytes")], ids="+".join)
def test_one_separable_input_is_enough(kinds):
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    found = model(**given, cross_attend_path="separable")[0]
    torch.testing.assert_close(found, model(**given, cross_attend_path="general")[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", ["auto", "general"])
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        *((kind, {}) for kind in ("waveform", "learned", "image", "plain", "video", "points", "array")),
        ("image", {"stem_type": "linear", "stem_channels": 5}),
        ("waveform", {"stem_type": "linear", "stem_channels": 5}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("stem_type", ""),
)
def test_nan_behind_a_mask(kind, fields, path):
    """No sample shows all: otherwise what none shows is cut off, which is another way."""
    kinds = (kind,)
    model = model_of(*kinds, **fields)
    given = arguments_of(model.config, kinds)
    (mask,) = masks_of(model.config, kinds, given).values()
    mask[1] = True

    def answers(given):
        model.zero_grad()
        latents = model(**given, attention_mask=mask, cross_attend_path=path)[0]
        latents.square().sum().backward()
        return [latents, *(weight.grad for weight in model.parameters() if weight.grad is not None)]

    expected = answers(given)
    if model.config.input_type == "grid":
        hidden = ~mask.view(3, *model.config.grid).unsqueeze(model.config.channel_axis)
    else:
        hidden = ~mask[..., None]
    given = {name: value.masked_fill(hidden, torch.nan) for name, value in given.items()}
    assert all(map(torch.equal, answers(given), expected))


WRONG_NAMES = ["mask", "audio_attention_mask", "image_attention_mask", "sound_inputs", "audio_values"]


@pytest.mark.parametrize("name", WRONG_NAMES)
@pytest.mark.parametrize("kinds", [("waveform",), ("waveform", "points")], ids="+".join)
def test_a_misspelt_input_is_not_forgotten(kinds, name):
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    with pytest.raises(ValueError, match=f"^{name} are given to a model that does not take them: expected some of "):
        model(**given, **{name: torch.ones(3, 20)})
