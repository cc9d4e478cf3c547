"""The stem of points: which neighbors a point has, and what odd clouds become. Its numbers stand in tests/kinds.py."""

import re

import pytest
import torch

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyModel, neighbors
from modeling_perceiver_study.neighbors import CloudNorm, NeighborStem, nearest_points
from tests.kinds import arguments_of, model_of

CLOUD = torch.randn(2, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("most", [2**23, 7 * 80])
@pytest.mark.parametrize("hidden", [0, 12, 37])
def test_the_nearest_of_those_that_are_shown(monkeypatch, hidden, most):
    """Also where distances are computed for a part of the points at a time, and where there are too few points."""
    monkeypatch.setattr(neighbors, "_MOST_DISTANCES_ON_CPU", most)
    mask = torch.arange(40) < 40 - hidden
    rows = nearest_points(CLOUD, 5, mask.expand(2, -1) if hidden else None)
    distances = (CLOUD[:, :, None] - CLOUD[:, None]).norm(dim=-1).masked_fill(~mask, torch.inf)
    expected = distances.argsort(dim=-1)[..., : min(5, 40 - hidden)]
    for found, wanted in zip(rows.flatten(0, 1).tolist(), expected.flatten(0, 1).tolist(), strict=True):
        assert sorted({*found}) == sorted(wanted)
    assert torch.equal(rows[:, mask, 0], torch.arange(40)[mask].expand(2, -1))  # each point is its own nearest


@pytest.mark.parametrize("among", [None, 10])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_point_that_is_nowhere_is_near_to_none(sign, among):
    """NaN has a sign, which differs between processors and between ways to make one."""
    points = CLOUD.clone()
    points[:, 7] = torch.tensor(torch.nan).copysign(torch.tensor(float(sign)))
    others = torch.arange(40) != 7
    assert not (nearest_points(points, 5, among=among)[:, others] == 7).any()


@pytest.mark.parametrize("most", [2**23, 7 * 80])
@pytest.mark.parametrize("hidden", [0, 12, 37])
@pytest.mark.parametrize("among", [3, 10, 40, 100])
def test_neighbors_of_a_cloud_with_more_or_fewer_points_than_they_are_meant_for(monkeypatch, among, hidden, most):
    """Each n-th of n times as many, and where there are too few, some several times."""
    monkeypatch.setattr(neighbors, "_MOST_DISTANCES_ON_CPU", most)
    count = 40 - hidden
    mask = torch.arange(40) < count
    rows = nearest_points(CLOUD, 5, mask.expand(2, -1) if hidden else None, among)
    ranks = [rank * count // among for rank in range(5)]
    nearest = nearest_points(CLOUD[:, :count], count)
    expected = nearest[..., [rank if rank < count else 0 for rank in ranks]]
    assert torch.equal(rows[:, :count], expected)


def test_a_point_sees_as_large_a_part_of_a_cloud_with_twice_as_many_points():
    """On a line, on which each distance is known; units are the same too."""
    found = []
    for count in (200, 400):
        points = torch.linspace(-1, 1, count, dtype=torch.float64)[None, :, None]
        rows = nearest_points(points, 9, among=200)
        places = neighbors._in_units_of_neighbors(points, rows, None)[0]
        middle = count // 2
        found.append((places[rows[0, middle]] - places[middle]).abs().max())
    torch.testing.assert_close(*found, rtol=0.1, atol=0)


def stem_of(num_channels: int = 0) -> NeighborStem:
    torch.manual_seed(1)
    return NeighborStem(3, num_channels, [5, 7], stem_channels=6, num_neighbors=8, eps=1e-5).double()


@torch.no_grad()
@pytest.mark.parametrize("scale, shift", [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e4)])
def test_size_and_place_of_a_cloud_mean_nothing(scale, shift):
    stem = stem_of()
    torch.testing.assert_close(
        stem(CLOUD * scale + shift, None, torch.float64), stem(CLOUD, None, torch.float64), rtol=0, atol=1e-8
    )
    single = stem.float()(CLOUD.float() * scale + shift, None, torch.float32)
    torch.testing.assert_close(
        single.double(), stem.double()(CLOUD, None, torch.float64), rtol=0, atol=5e-2 if shift else 1e-4
    )


@pytest.mark.parametrize("count", [500, 4000, 8000])
def test_points_on_a_line_are_in_units_of_their_distance(count):
    """Which is small beside the cloud, and large beside what float32 can tell apart."""
    points = torch.rand(1, count, 1, generator=torch.Generator().manual_seed(0))
    rows = nearest_points(points, 4)
    places = neighbors._in_units_of_neighbors(points, rows, None)
    offsets = places[0][rows[0]] - places[0][:, None]
    torch.testing.assert_close(offsets.square().sum(dim=-1).mean(), torch.tensor(1.0), rtol=0, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("axes", [2, 3, 4, 5])
def test_the_order_of_points_on_a_grid_means_nothing(axes):
    """Of which a few are equally far, and near one another along the direction that then decides."""
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        points = (torch.randn(1000, axes, generator=rng) * 3).round().unique(dim=0)[None]
        points = points / points.norm(dim=-1).max()
        order = torch.randperm(points.shape[1], generator=rng)
        rows, others = nearest_points(points, 16), nearest_points(points[:, order], 16)
        assert torch.equal(rows[0, order].sort(dim=1).values, order[others[0]].sort(dim=1).values)


GRID = torch.cartesian_prod(*[torch.arange(5.0, dtype=torch.float64)] * 3).expand(2, -1, -1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("points", [CLOUD, GRID, 0.1 * GRID - 7.3], ids=["by chance", "grid", "grid elsewhere"])
def test_the_order_of_points_and_padding_mean_nothing(points, dtype):
    """Also where many are equally far."""
    stem, points = stem_of(4).to(dtype), points.to(dtype)
    count = points.shape[1]
    features = torch.randn(2, count, 4, dtype=dtype)
    expected = stem(points, features, dtype)
    for _ in range(3):
        order = torch.randperm(count)
        shuffled = stem(points[:, order], features[:, order], dtype)
        torch.testing.assert_close(shuffled, expected[:, order], rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-3)
    padded, mask = torch.cat([points, points], dim=1), torch.arange(2 * count) < count
    found = stem(padded, torch.cat([features, features], dim=1), dtype, mask.expand(2, -1))[:, :count]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-3)


ODD = {
    "one point": CLOUD[:, :1],
    "fewer than neighbors": CLOUD[:, :3],
    "one place": CLOUD[:, :1].expand(-1, 30, -1),
    "one place, far away": CLOUD[:, :1].expand(-1, 30, -1) + 1e3,
    "two places": CLOUD[:, :2].repeat(1, 20, 1),
    "a line": CLOUD * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ODD)
def test_odd_clouds_have_finite_numbers_and_gradients(name, dtype):
    stem = stem_of().to(dtype)
    points = ODD[name].to(dtype).clone().requires_grad_()
    features = stem(points, None, dtype)
    features.square().sum().backward()
    assert features.shape == (*points.shape[:2], 6)
    assert features.dtype == dtype
    assert features.isfinite().all()
    assert points.grad.isfinite().all()
    assert points.grad.abs().max() < 1e5


def test_gradients_of_points():
    """Through their differences, their distances and the mean of the cloud."""
    stem, features = stem_of(2), torch.randn(2, 12, 2, dtype=torch.float64)
    mask = (torch.arange(12) < 9).expand(2, -1)
    points = CLOUD[:, :12].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda points: stem(points, features, torch.float64, mask)[:, :9], (points,))


@pytest.mark.parametrize("most", [2**19, 24, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_largest_of_each_channel(monkeypatch, dtype, most):
    """Also where it is found for some points at a time, and where several are largest: of these one has a gradient."""
    monkeypatch.setattr(neighbors, "_MOST_VALUES_ON_CPU", most)
    values = CLOUD.to(dtype).round().requires_grad_()  # many are equal
    rows = nearest_points(CLOUD, 5)
    found = neighbors._largest(values, rows)
    expected = torch.stack([cloud[places] for cloud, places in zip(values, rows, strict=True)]).amax(dim=2)
    assert torch.equal(found, expected)
    weights = torch.rand_like(found)
    (gradient,) = torch.autograd.grad((found * weights).sum(), values)
    torch.testing.assert_close(gradient.sum(), weights.sum())
    winners = neighbors._winners(values.detach(), rows)
    assert torch.equal(values.flatten(1).gather(1, winners), found.flatten(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden", [0, 12, 39, 40])
def test_a_norm_over_a_cloud(dtype, hidden):
    """Torch's group norm of the points that are there, whatever the others are; they become the bias."""
    norm = CloudNorm(3, eps=1e-5).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    shown, mask = 40 - hidden, (torch.arange(40) >= hidden).expand(2, -1)
    values = (300 * CLOUD + 900).to(dtype).requires_grad_()
    expected = norm.bias.expand(2, 40, 3)
    if shown:
        group = (values[:, hidden:].double().mT, 1, norm.weight, norm.bias, norm.eps)
        expected = torch.cat([expected[:, :hidden], torch.nn.functional.group_norm(*group).mT], dim=1)
    spoiled = torch.where(mask[..., None], values, torch.nan)
    norm = norm.to(dtype)
    found = norm(spoiled, mask if hidden else None)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    close = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=close)
    (gradient,) = torch.autograd.grad(found.square().sum(), values)
    assert gradient.isfinite().all()
    assert not gradient[:, :hidden].any()


def test_transforms_have_the_same_numbers():
    model = model_of("neighbors")
    given = arguments_of(model.config, ("neighbors",))
    expected = model(**given).last_hidden_state

    def latents(cloud, features):
        return model(cloud=cloud[None], point_features=features[None]).last_hidden_state[0]

    mapped = torch.func.vmap(latents)(given["cloud"], given["point_features"])
    torch.testing.assert_close(mapped, expected, rtol=0, atol=1e-10)


def test_16_bit_models_compute_distances_exactly():
    """Places in units of the distance between neighbors are large beside their differences."""
    stem = stem_of()
    exact = stem(CLOUD, None, torch.float64)
    error = (stem.bfloat16()(CLOUD.float(), None, torch.bfloat16).double() - exact).abs()
    assert error.max() < 0.05


def test_autocast_computes_distances_exactly():
    stem = stem_of().float()
    exact = stem(CLOUD.float(), None, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = stem(CLOUD.float(), None, torch.float32)
    assert (rounded - exact).abs().max() < 0.05


class Rounding(torch.nn.Module):
    """A linear map in bfloat16, as quantized layers and adapters may be."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.weight = linear.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(inputs.bfloat16(), self.weight.bfloat16()).to(inputs.dtype)


@torch.no_grad()
@pytest.mark.parametrize("num_channels", [0, 2])
def test_a_layer_that_rounds_is_given_differences(num_channels):
    """Of places, which would be large beside them."""
    points = torch.randn(1, 4000, 3, generator=torch.Generator().manual_seed(0))
    stem, features = stem_of(num_channels).float(), torch.randn(1, 4000, num_channels) if num_channels else None
    exact = stem(points, features, torch.float32)
    for layer in stem.layers:
        layer.places = Rounding(layer.places)
    assert (stem(points, features, torch.float32) - exact).abs().max() < 0.05


def test_one_layer_is_as_wide_as_the_stem_where_nothing_else_is_said():
    fields = {"input_type": "points", "num_axes": 3, "num_channels": 0, "stem_type": "neighbors", "stem_channels": 8}
    stem = PerceiverStudyModel(PerceiverStudyConfig(**fields)).inputs.stem
    assert [layer.cloud_norm.num_channels for layer in stem.layers] == [8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_are_called(dtype):
    """So that hooks, adapters and offloading work."""
    stem, called = stem_of(2).to(dtype), set()
    layers = {name: layer for name, layer in stem.named_modules() if not list(layer.children())}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
    stem(CLOUD.float(), torch.randn(2, 40, 2), dtype)
    assert called == {*layers}


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own
def test_forward_mode():
    stem, tangent = stem_of(), torch.randn_like(CLOUD)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(CLOUD, tangent)
        found = torch.autograd.forward_ad.unpack_dual(stem(dual, None, torch.float64)).tangent
    with torch.no_grad():
        ahead, behind = (stem(CLOUD + step * tangent, None, torch.float64) for step in (1e-7, -1e-7))
    torch.testing.assert_close(found, (ahead - behind) / 2e-7, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"stem_type": "conv"}, "stem_type='conv' in PerceiverStudyConfig: expected one of 'none', 'neighbors' with"),
        ({"stem_type": "neighbors", "num_neighbors": 0}, "num_neighbors=0"),
        ({"stem_type": "neighbors", "neighbor_points": 0}, "neighbor_points=0 in PerceiverStudyConfig: expected None"),
        ({"stem_type": "neighbors", "neighbor_channels": []}, "neighbor_channels=[] in PerceiverStudyConfig: expected"),
        ({"stem_type": "neighbors", "neighbor_channels": [4, 0]}, "neighbor_channels=[4, 0]"),
        ({"stem_type": "neighbors", "neighbor_channels": 64}, "neighbor_channels=64"),
        ({"input_type": "grid", "neighbor_channels": [4]}, "neighbor_channels=[4] in PerceiverStudyConfig: expected"),
        ({"input_type": "grid", "stem_type": "neighbors"}, "expected one of 'none', 'linear', 'conv' with input_type="),
    ],
)
def test_wrong_stems(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PerceiverStudyConfig(**{"input_type": "points", "num_axes": 2, **fields})
