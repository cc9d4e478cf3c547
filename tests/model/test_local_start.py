import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForImageClassification, PerceiverStudyModel
from tests.models import pixels

SEVERAL = {
    "image": {"image_size": 16, "num_frequency_bands": 4},
    "sound": {
        "input_name": "input_values",
        "num_axes": 1,
        "num_channels": 5,
        "image_size": 60,
        "num_frequency_bands": 6,
    },
}


def config_of(grid, **fields):
    return PerceiverStudyConfig(
        **{
            "image_size": grid,
            "num_axes": len(grid),
            "num_latents": 32,
            "d_latents": 64,
            "num_cross_attention_heads": 4,
            "cross_attention_shape_for_attention": "q",
            "num_self_attends_per_block": 1,
            "local_start_width": 0.2,
            **fields,
        }
    )


def mean_directions(model, values):
    """`(B, h, N, A)`: means of `exp(i pi x)`: the angle is a spot's place, the length falls with its width."""
    weights = model(values, output_attentions=True).cross_attentions[0].unflatten(-1, values.shape[2:])
    axes = range(values.ndim - 2)
    directions = []
    for axis in axes:
        coordinates = torch.linspace(-1, 1, values.shape[2 + axis])
        waves = torch.exp(1j * torch.pi * coordinates)
        directions.append((weights.movedim(3 + axis, -1) * waves).flatten(3).sum(-1))
    return torch.stack(directions, dim=-1)


def angles(codes, num_heads):
    """`(.., 2 A h) -> (.., h, A)`: what is written as sines and cosines."""
    sine, cosine = codes.unflatten(-1, (num_heads, -1, 2)).unbind(-1)
    return torch.atan2(sine, cosine)


def centres(model):
    """`(h, N, A)`, read off the latents."""
    heads = model.config.num_cross_attention_heads
    codes = model.latents.weight[:, : 2 * model.config.num_axes * heads]
    return angles(codes, heads).transpose(0, 1) / torch.pi


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"concat_positions": False}, {"num_channels": 1, "num_frequency_bands": 8}])
@pytest.mark.parametrize("grid", [[96], [32, 32], [20, 24, 28]])
def test_each_head_of_each_latent_looks_at_a_spot_of_the_stated_width(grid, fields):
    torch.manual_seed(0)
    config = config_of(grid, num_latents=128, **fields)
    model = PerceiverStudyModel(config).eval()
    found = mean_directions(model, pixels(config).sign())
    # Of a von Mises density with this concentration; for narrow spots 1 - (pi w)^2 / 2.
    kappa = torch.tensor(1 / (torch.pi * config.local_start_width) ** 2)
    length = torch.special.i1(kappa) / torch.special.i0(kappa)
    expected = length * torch.exp(1j * torch.pi * centres(model))
    # Coordinates -1 and 1 are one place with twice the points, and the other channels of a head are random.
    distance = (found - expected).abs()
    assert distance.mean() < 0.14  # a concentration twice too small or large would be 0.16 or more away
    assert centres(model).flatten(0, 1).std(dim=0).min() > 0.4  # all over the grid: 0.58 were it uniform


@torch.no_grad()
@pytest.mark.parametrize("kind", ["points", "places", "neighbors", "patches", "stem", "absolute"])
def test_other_inputs_start_at_spots_too(kind):
    """Points where those of a grid would be, with and without features; what patches and a stem leave."""
    torch.manual_seed(0)
    fields = {
        "points": {"input_type": "points", "num_channels": 3},
        "places": {"input_type": "points", "num_channels": 0},
        "neighbors": {"input_type": "points", "num_channels": 0, "stem_type": "neighbors", "stem_channels": 5},
        "patches": {"image_size": [64, 96], "patch_size": [2, 3]},
        "stem": {"stem_type": "linear", "stem_channels": 5},
        "absolute": {"absolute_positions": True},
    }[kind]
    config = config_of([32, 32], num_latents=128, **fields)
    model = PerceiverStudyModel(config).eval()
    places = torch.cartesian_prod(*[torch.linspace(-1, 1, 32)] * 2)
    if config.input_type == "points":
        given = {"points": places.expand(3, -1, -1)}
        if config.num_channels:
            given["point_features"] = torch.randn(3, 1024, 3).sign()
    else:
        given = {"pixel_values": pixels(config).sign()}
    if kind == "stem":  # its features would have unit variance in training
        model.inputs.stem.linear.weight.normal_(std=0.5)
    weights = model(**given, output_attentions=True).cross_attentions[0]
    found = weights.to(torch.complex64) @ torch.exp(1j * torch.pi * places)
    kappa = torch.tensor(1 / (torch.pi * config.local_start_width) ** 2)
    expected = torch.special.i1(kappa) / torch.special.i0(kappa) * torch.exp(1j * torch.pi * centres(model))
    assert (found - expected).abs().mean() < 0.14
    if kind == "places":  # they have nothing else that values could come from
        assert model.cross_attends[0].attention.v_proj.weight.abs().min() > 0


@torch.no_grad()
def test_most_spots_of_the_cifar_recipe_are_where_they_should_be():
    """Not all: near the grid's middle keys are longest, and draw the attention of spots around."""
    torch.manual_seed(0)
    config = config_of([32, 32], num_latents=128, d_latents=256, local_start_width=0.1)
    model = PerceiverStudyModel(config).eval()
    places = mean_directions(model, pixels(config)).angle() / torch.pi
    off = (places - centres(model) + 1) % 2 - 1  # the shorter way around
    assert (off.norm(dim=-1) < 2 * config.local_start_width).float().mean() > 0.8


@torch.no_grad()
def test_values_start_from_pixels_alone():
    torch.manual_seed(0)
    model = PerceiverStudyModel(config_of([16, 16]))
    weight = model.cross_attends[0].attention.v_proj.weight
    assert weight[:, 3:].eq(0).all()
    torch.testing.assert_close(weight[:, :3].square().sum(dim=1).mean(), torch.tensor(1.0), atol=0.3, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("grid", "cross_heads", "self_heads", "fields"),
    [([16], 4, 2, {}), ([8, 8], 2, 8, {}), ([8, 8], 3, 4, {"qk_channels": 48}), ([4, 4, 4], 4, 4, {})],
)
def test_self_attends_look_for_latents_around_an_offset_of_each_head(grid, cross_heads, self_heads, fields):
    torch.manual_seed(0)
    heads = {"num_cross_attention_heads": cross_heads, "num_self_attention_heads": self_heads}
    config = config_of(grid, d_latents=96, local_start_reach=0.3, **heads, **fields)
    model = PerceiverStudyModel(config)
    num_angles = 2 * config.num_axes
    codes = model.latents.weight.clone()
    codes[:, num_angles * cross_heads :] = 0
    attention = model.blocks[0][0].attention
    query, key = (
        projection(codes).unflatten(-1, (self_heads, -1))[..., :num_angles].transpose(0, 1)  # (h, N, 2 A)
        for projection in (attention.q_proj, attention.k_proj)
    )
    spots = centres(model)[torch.arange(self_heads) % cross_heads]
    torch.testing.assert_close(angles(key, 1).squeeze(2) / torch.pi, spots)
    turn = (angles(query, 1).squeeze(2) / torch.pi - spots + 1) % 2 - 1
    turn = torch.exp(1j * torch.pi * turn)  # (h, N, A)
    torch.testing.assert_close(turn, turn[:, :1].expand_as(turn), atol=1e-5, rtol=0)  # of a head, whichever the latent
    assert (turn[:, 0] - turn[0, 0]).abs()[1:].max() > 0.1
    # Sines and cosines of amplitude sqrt 2, and the logit at the centre of the A axes.
    concentration = (query.norm(dim=-1) * key.norm(dim=-1)).mean() * attention.scaling / config.num_axes
    torch.testing.assert_close(concentration, torch.tensor(1 / (torch.pi * 0.3) ** 2))


@torch.no_grad()
@pytest.mark.parametrize(("reach", "least", "most"), [(0.1, 0.9, 1), (0.3, 0.49, 0.99), (None, 0, 0.05)])
def test_self_attention_is_local_in_where_latents_have_looked(reach, least, most):
    """At least as much as with latents of unit variance, which the layers leave smaller."""
    torch.manual_seed(0)
    config = config_of([16], num_latents=256, num_self_attends_per_block=2, local_start_reach=reach)
    model = PerceiverStudyModel(config).eval()
    weights = model(pixels(config), output_attentions=True).attentions[0].mean(dim=0)
    places = torch.exp(1j * torch.pi * centres(model)).squeeze(-1).repeat(2, 1)  # 4 spots, 8 heads
    offsets = ((weights * places[:, None]).sum(-1) / places).mean(dim=-1)  # where a head looks, from where it is
    assert least <= offsets.abs().min() and offsets.abs().max() <= most


@torch.no_grad()
@pytest.mark.parametrize("grid", [[96], [32, 32]])
def test_with_a_spread_heads_look_at_the_same_offsets_from_the_place_of_each_latent(grid):
    torch.manual_seed(0)
    config = config_of(grid, num_latents=64, num_cross_attention_heads=8, local_start_width=0.1, local_start_spread=0.2)
    model = PerceiverStudyModel(config).eval()
    places = angles(model.latents.weight[:, : 2 * len(grid)], 1).squeeze(1) / torch.pi  # (N, A)
    assert places.abs().max() < 0.8 and places.std(dim=0).min() > 0.4  # 0.46 were they uniform
    attention = model.cross_attends[0].attention
    codes = torch.zeros_like(model.latents.weight)
    codes[:, : 2 * len(grid)] = model.latents.weight[:, : 2 * len(grid)]
    query = attention.q_proj(codes).unflatten(-1, (8, -1))[..., : 2 * len(grid)]  # (N, h, 2 A)
    offsets = angles(query, 1).squeeze(2) / torch.pi - places[:, None]
    offsets = (offsets + 1) % 2 - 1
    torch.testing.assert_close(offsets, offsets[:1].expand_as(offsets), atol=1e-5, rtol=0)
    assert offsets[0].std(dim=0).min() > 0.1 and offsets[0].std(dim=0).max() < 0.3
    found = mean_directions(model, pixels(config).sign()).angle() / torch.pi
    off = (found - (places + offsets.transpose(0, 1)) + 1) % 2 - 1
    assert (off.norm(dim=-1) < 2 * config.local_start_width).float().mean() > 0.8


@pytest.mark.parametrize("spread", [None, 0.1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_start_locally_in_every_dtype(dtype, spread):
    torch.manual_seed(0)
    config = config_of([8, 8], num_latents=128, local_start_reach=0.3, local_start_spread=spread)
    model = AutoModel.from_config(config, dtype=dtype)
    assert all(parameter.dtype == dtype and parameter.isfinite().all() for parameter in model.parameters())
    places = angles(model.latents.weight[:, :4].detach().float(), 1) / torch.pi
    assert places.std(dim=0).min() > 0.4
    if spread is not None:  # none is far from all others
        distances = torch.cdist(places.flatten(1), places.flatten(1)).fill_diagonal_(9).amin(dim=1)
        assert distances.min() > 0.03 and distances.max() < 0.25
    with torch.device("meta"):
        assert PerceiverStudyModel(config).latents.weight.is_meta


@torch.no_grad()
def test_with_a_spread_narrow_latents_have_room_for_the_place_of_many_heads():
    """Which is one for all of them, where each would have its own without."""
    fields = {"d_latents": 12, "num_cross_attention_heads": 8, "qk_channels": 64, "v_channels": 64}
    with pytest.raises(ValueError, match=r"d_latents=12 .* at least 32"):
        config_of([8, 8], **fields)
    config = config_of([8, 8], **fields, num_self_attention_heads=4, local_start_spread=0.2)
    assert PerceiverStudyModel(config)(pixels(config)).last_hidden_state.isfinite().all()


@torch.no_grad()
def test_with_a_spread_latents_have_a_place_in_each_of_several_inputs():
    torch.manual_seed(0)
    fields = {"image_size": 32, "num_axes": 2, "num_latents": 128, "local_start_reach": 0.4, "local_start_spread": 0.1}
    model = PerceiverStudyModel(config_of([32, 32], **{**fields, "modalities": SEVERAL})).eval()
    codes = model.latents.weight[:, :6]  # two axes of the image, one of the sound
    torch.testing.assert_close(codes.square().mean(), torch.tensor(1.0))
    assert model.latents.weight[:, 6:].std() < 0.03
    given = {"pixel_values": torch.randn(2, 3, 16, 16).sign(), "input_values": torch.randn(2, 5, 60).sign()}
    maps = model.split_cross_attentions(model(**given, output_attentions=True).cross_attentions, **given)
    for name, heads in {"image": [0, 2], "sound": [1, 3]}.items():
        assert maps[name][0][:, heads].sum(dim=-1).mean() > 0.9


@torch.no_grad()
def test_layers_leave_centres_as_they_are_until_they_learn():
    config = config_of([8, 8], local_start_reach=0.3, num_blocks=2, num_cross_attends=2, share_block_weights=False)
    model = PerceiverStudyModel(config).eval()
    codes = model.latents.weight[:, :16]
    torch.testing.assert_close(codes.square().mean(), torch.tensor(1.0))
    assert model.latents.weight[:, 16:].std() < 0.03
    for state in model(pixels(config), output_hidden_states=True).hidden_states:
        assert state[..., :16].equal(codes.expand(len(state), -1, -1))


def test_a_saved_model_keeps_its_weights_and_its_code_starts_alike(tmp_path):
    model = PerceiverStudyForImageClassification(config_of([8, 8], local_start_reach=0.3))
    model.save_pretrained(tmp_path)
    loaded = PerceiverStudyForImageClassification.from_pretrained(tmp_path)
    for name, parameter in loaded.named_parameters():
        assert parameter.equal(model.get_parameter(name)), name
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    fresh = AutoModel.from_config(config, trust_remote_code=True)
    assert fresh.cross_attends[0].attention.v_proj.weight[:, 3:].eq(0).all()
    assert fresh.blocks[0][0].mlp.fc2.weight[:16].eq(0).all()
    assert not fresh.latents.weight.equal(model.perceiver.latents.weight)


@torch.no_grad()
def test_each_of_several_inputs_has_heads_that_start_at_spots_of_it():
    torch.manual_seed(0)
    fields = {"image_size": 32, "num_axes": 2, "num_latents": 128, "local_start_reach": 0.4}
    model = PerceiverStudyModel(config_of([32, 32], **{**fields, "modalities": SEVERAL})).eval()
    given = {"pixel_values": torch.randn(2, 3, 16, 16).sign(), "input_values": torch.randn(2, 5, 60).sign()}
    output = model(**given, output_attentions=True)
    maps = model.split_cross_attentions(output.cross_attentions, **given)
    for name, heads in {"image": [0, 2], "sound": [1, 3]}.items():
        weights = maps[name][0][:, heads]
        assert weights.sum(dim=-1).mean() > 0.9
        spread = weights.square().sum(dim=-1).reciprocal().mean()  # elements that share the attention
        assert spread < 0.5 * weights.shape[-1]
    assert output.last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"local_start_width": 1}, "local_start_width=1 .* between 0 and 1"),
        ({"local_start_width": "narrow"}, "local_start_width='narrow'"),
        ({"position_encoding_type": "none"}, "local_start_width=0.2 .* position_encoding_type='fourier'"),
        ({"d_latents": 8, "num_self_attention_heads": 1}, "num_cross_attention_heads=4 .* at most 2"),
        ({"d_latents": 12, "qk_channels": 64, "v_channels": 64}, "d_latents=12 .* at least 16"),
        ({"d_latents": 16, "local_start_reach": 0.3, "num_self_attention_heads": 4}, "d_latents=16 .* at least 17"),
        ({"qk_channels": 8, "v_channels": 8}, "num_cross_attention_heads=4 .* at most 2"),
        ({"modalities": {"one": {"input_type": "bytes"}}}, "local_start_width=0.2 .* of a grid or of points"),
        ({"modalities": SEVERAL, "num_cross_attention_heads": 1}, "local_start_width=0.2 .* with a head for each"),
        ({"modalities": SEVERAL, "modality_channels": 1}, "modality_channels=1 .* one for each modality"),
        ({"local_start_reach": 0}, "local_start_reach=0 .* between 0 and 1"),
        (
            {"local_start_reach": 0.3, "local_start_width": None},
            "local_start_reach=0.3 .* there is a local_start",
        ),
        ({"local_start_spread": 1.5}, "local_start_spread=1.5 .* between 0 and 1"),
        ({"local_start_spread": 0.1, "local_start_width": None}, "local_start_spread=0.1 .* a local_start_width"),
        ({"local_start_reach": 0.3, "use_query_residual": False}, "local_start_reach=0.3 .* and a query residual"),
        ({"local_start_reach": 0.3, "num_self_attention_heads": 32}, "num_self_attention_heads=32 .* at most 16"),
    ],
)
def test_what_does_not_go_together_is_said(fields, message):
    other = "input_type" in fields or "modalities" in fields
    with pytest.raises(ValueError, match=message):
        config_of([8, 8], **fields, **({"image_size": 32, "num_axes": 2} if other else {}))
