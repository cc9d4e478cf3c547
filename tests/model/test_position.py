"""Fourier positions: against transformers' Perceiver, and against the formula of the paper written as loops."""

import itertools
import math

import pytest
import torch
from transformers.models.perceiver.modeling_perceiver import build_linear_positions, generate_fourier_features

from modeling_perceiver_study.position import (
    byte_array,
    count_axis_features,
    fourier_axis_features,
    join_axis_features,
    resolve_max_frequencies,
    split_position_columns,
)

GRIDS = [(7,), (5, 5), (4, 9), (32, 32), (1, 3), (3, 2, 5), (2, 1, 1)]


def nyquist(grid):
    return [size / 2 for size in grid]


def naive(grid, bands, max_frequencies, concat_positions):
    """`(M, P)` in Python's floats: point by point, channel by channel, in the order of transformers' Perceiver."""
    points = []
    for indices in itertools.product(*(range(size) for size in grid)):
        coordinates = [
            -1 + 2 * index / (size - 1) if size > 1 else -1.0 for index, size in zip(indices, grid, strict=True)
        ]
        angles = []
        for coordinate, highest in zip(coordinates, max_frequencies, strict=True):
            steps = [band / (bands - 1) if bands > 1 else 0.0 for band in range(bands)]
            angles += [math.pi * coordinate * (1 + step * (highest - 1)) for step in steps]
        waves = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        points.append((coordinates if concat_positions else []) + waves)
    return torch.tensor(points, dtype=torch.float64)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("concat_positions", [True, False])
@pytest.mark.parametrize("bands", [1, 6])
def test_explicit_array_is_that_of_the_formula(grid, concat_positions, bands):
    highest = [3.0, 10.5, 0.25][: len(grid)]
    axes = fourier_axis_features(grid, bands, highest, concat_positions, dtype=torch.float64)
    num_features = count_axis_features(bands, concat_positions)
    assert [axis.shape for axis in axes] == [(size, num_features) for size in grid]
    actual = join_axis_features(axes)
    assert actual.shape == (math.prod(grid), len(grid) * num_features)
    # Angles reach 33 radians, known to 2**-52 of that.
    torch.testing.assert_close(actual, naive(grid, bands, highest, concat_positions), rtol=0, atol=2e-14)


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if 1 not in grid])
@pytest.mark.parametrize("concat_positions", [True, False])
def test_explicit_array_is_that_of_transformers(grid, concat_positions):
    positions = build_linear_positions(grid).flatten(0, -2)[None]
    theirs = generate_fourier_features(positions, 6, grid, concat_positions).flatten(0, -2)
    ours = join_axis_features(fourier_axis_features(grid, 6, nyquist(grid), concat_positions))
    # Angles reach 50 radians; float32 knows them to 4e-6, and the two multiply in different orders.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_float32_is_as_exact_as_float32_angles_allow():
    exact = fourier_axis_features([224], 64, [112.0], dtype=torch.float64)[0]
    single = fourier_axis_features([224], 64, [112.0])[0]
    assert single.dtype == torch.float32
    # 352 radians, and three roundings of 2**-24 each: of coordinate, frequency and product.
    assert (single - exact).abs().max() < 3 * 112 * math.pi * 2**-24


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_rounds_only_the_result(dtype):
    exact = fourier_axis_features([224], 64, [112.0])[0]
    rounded = fourier_axis_features([224], 64, [112.0], dtype=dtype)[0]
    assert torch.equal(rounded, exact.to(dtype))
    # In the low precision itself positions would be noise.
    coordinate = torch.linspace(-1, 1, 224, dtype=dtype)[:, None]
    careless = (math.pi * (coordinate * torch.linspace(1, 112, 64, dtype=dtype))).sin()
    assert (careless.float() - exact[:, 1:65]).abs().max() > 0.1


@pytest.mark.parametrize("default_dtype", [torch.bfloat16, torch.float64])
def test_features_depend_on_neither_default_dtype_nor_autocast(default_dtype):
    expected = fourier_axis_features([9, 4], 5, [4.5, 2.0])
    torch.set_default_dtype(default_dtype)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = fourier_axis_features([9, 4], 5, [4.5, 2.0])
    finally:
        torch.set_default_dtype(torch.float32)
    for axis, other in zip(expected, actual, strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(axis, other)


def test_opposite_borders_and_symmetry():
    (features,) = fourier_axis_features([8], 3, [4.0])
    torch.testing.assert_close(features[[0, -1], 0], torch.tensor([-1.0, 1.0]), rtol=0, atol=0)
    # Coordinates and sines are odd, cosines even; angles reach 13 radians, known to 1e-6.
    sign = torch.tensor([-1.0] * 4 + [1.0] * 3)
    torch.testing.assert_close(features, features.flip(0) * sign, rtol=0, atol=4e-6)


@pytest.mark.parametrize(
    "given, expected",
    [(None, [16.0, 112.0]), (7, [7.0, 7.0]), (2.5, [2.5, 2.5]), ([3, 4.5], [3.0, 4.5]), ((3, 4.5), [3.0, 4.5])],
)
def test_max_frequencies(given, expected):
    resolved = resolve_max_frequencies(given, [32, 224])
    assert resolved == expected
    assert all(type(frequency) is float for frequency in resolved)


def test_an_axis_without_its_frequency_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        fourier_axis_features([4, 4], 3, [2.0])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("concat_positions", [True, False])
def test_split_undoes_join(grid, concat_positions):
    axes = fourier_axis_features(grid, 4, nyquist(grid), concat_positions)
    split = split_position_columns(join_axis_features(axes).unflatten(0, grid), len(grid))
    for axis, features in enumerate(axes):
        shape = [size if other == axis else 1 for other, size in enumerate(grid)]
        expected = features.reshape(*shape, -1).expand(*grid, -1)
        assert torch.equal(split[..., axis, :], expected)


def test_join_takes_features_that_differ_by_sample():
    first, second = (fourier_axis_features([3, 4], 2, highest) for highest in ([1.5, 2.0], [6.0, 7.0]))
    batch = [torch.stack(pair) for pair in zip(first, second, strict=True)]
    assert torch.equal(join_axis_features(batch), torch.stack([join_axis_features(first), join_axis_features(second)]))


@pytest.mark.parametrize("grid", [(6,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_byte_array_puts_pixels_beside_their_positions(grid, per_sample):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 5, *grid, generator=generator, dtype=torch.float64)
    axes = [axis[None] for axis in fourier_axis_features(grid, 3, nyquist(grid), dtype=torch.float64)]
    if per_sample:
        axes = [torch.cat([axis, -axis]) for axis in axes]
    actual = byte_array(pixels, axes)
    assert actual.shape == (2, math.prod(grid), 5 + 7 * len(grid))
    positions = naive(grid, 3, nyquist(grid), True)
    for sample, row in itertools.product(range(2), range(math.prod(grid))):
        indices = torch.unravel_index(torch.tensor(row), grid)
        assert torch.equal(actual[sample, row, :5], pixels[(sample, slice(None), *indices)])
        sign = -1 if per_sample and sample == 1 else 1
        torch.testing.assert_close(actual[sample, row, 5:], sign * positions[row], rtol=0, atol=2e-14)


def test_byte_array_has_the_type_of_the_pixels():
    axes = [axis[None] for axis in fourier_axis_features([3, 4], 2, [1.5, 2.0])]
    assert byte_array(torch.zeros(2, 1, 3, 4, dtype=torch.bfloat16), axes).dtype == torch.bfloat16
