import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForImageClassification, PerceiverStudyModel

from .models import pixels


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


def centres(model):
    """`(h, N, A)`, read off the latents as the queries see them, after their norm."""
    config = model.config
    latents = model.cross_attends[0].attention.layernorm(model.latents.weight)
    codes = latents[:, : 2 * config.num_axes * config.num_cross_attention_heads]
    sine, cosine = codes.unflatten(-1, (config.num_cross_attention_heads, config.num_axes, 2)).unbind(-1)
    return torch.atan2(sine, cosine).transpose(0, 1) / torch.pi


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"concat_positions": False}, {"num_channels": 1, "num_frequency_bands": 8}])
@pytest.mark.parametrize("grid", [[96], [32, 32], [20, 24, 28]])
def test_each_head_of_each_latent_looks_at_a_spot_of_the_stated_width(grid, fields):
    torch.manual_seed(0)
    config = config_of(grid, **fields)
    model = PerceiverStudyModel(config).eval()
    found = mean_directions(model, pixels(config).sign())
    # Of a von Mises density with this concentration; for narrow spots 1 - (pi w)^2 / 2.
    kappa = torch.tensor(1 / (torch.pi * config.local_start_width) ** 2)
    length = torch.special.i1(kappa) / torch.special.i0(kappa)
    expected = length * torch.exp(1j * torch.pi * centres(model))
    # Coordinates -1 and 1 are one place with twice the points, and the other channels of a head are random.
    distance = (found - expected).abs()
    assert distance.mean() < 0.1  # a concentration twice too small or large would be 0.12 or more away
    assert centres(model).flatten(0, 1).std(dim=0).min() > 0.4  # all over the grid: 0.58 were it uniform


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
@pytest.mark.parametrize(("reach", "shortest", "longest"), [(0.1, 0.98, 1), (0.3, 0.9, 0.97), (None, 0, 0.05)])
def test_self_attends_look_for_latents_around_a_place_of_each_head(reach, shortest, longest):
    torch.manual_seed(0)
    config = config_of([16], num_latents=256, num_self_attends_per_block=2, local_start_reach=reach)
    model = PerceiverStudyModel(config).eval()
    first = model(pixels(config), output_attentions=True).attentions[0].mean(dim=0)
    places = torch.exp(1j * torch.pi * centres(model)).squeeze(-1).repeat(2, 1)  # 4 spots, 8 heads
    seen = (first * places[:, None]).sum(-1) / places  # where a head looks, from where its query is
    offsets = seen.mean(dim=-1)
    assert shortest <= offsets.abs().min() and offsets.abs().max() <= longest
    if reach:
        assert (seen.angle() / torch.pi).abs().mean() < 3 * reach
        assert offsets.angle().std() > reach


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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"local_start_width": 1}, "local_start_width=1 .* between 0 and 1"),
        ({"local_start_width": "narrow"}, "local_start_width='narrow'"),
        ({"position_encoding_type": "none"}, "local_start_width=0.2 .* position_encoding_type='fourier'"),
        ({"d_latents": 8, "num_self_attention_heads": 1}, "num_cross_attention_heads=4 .* at most 2"),
        ({"qk_channels": 8, "v_channels": 8}, "num_cross_attention_heads=4 .* at most 2"),
        ({"local_start_reach": 0}, "local_start_reach=0 .* between 0 and 1"),
        (
            {"local_start_reach": 0.3, "local_start_width": None},
            "local_start_reach=0.3 .* there is a local_start",
        ),
        ({"local_start_reach": 0.3, "use_query_residual": False}, "local_start_reach=0.3 .* and a query residual"),
        ({"local_start_reach": 0.3, "num_self_attention_heads": 32}, "num_self_attention_heads=32 .* at most 16"),
    ],
)
def test_what_does_not_go_together_is_said(fields, message):
    with pytest.raises(ValueError, match=message):
        config_of([8, 8], **fields)
