"""Fourier position features of an n-dimensional grid, as pure functions.

A grid has `A` axes of sizes `S_1 .. S_A` and `M = S_1 * .. * S_A` points. The features of a point are a concatenation
of features of its coordinate on each axis, so `S_1 + .. + S_A` rows of `F` numbers hold what the explicit `(M, P)`
array repeats (`P = A * F`). Everything here works on those rows; `join_axis_features` builds the explicit array.

Frequencies and coordinates follow section 3.2 of the Perceiver paper (arXiv 2103.03206): coordinates span [-1, 1],
`sin(pi f x)` and `cos(pi f x)` for `K` frequencies equally spaced from 1 to the Nyquist frequency.
"""

from collections.abc import Sequence

import torch

# Features that differ by less are the same but for rounding; another highest band soon makes a difference of 1.
SAME_FEATURES = 0.1


def resolve_max_frequencies(max_frequencies: float | Sequence[float] | None, grid: Sequence[int]) -> list[float]:
    """The highest frequency of each axis: the given one, or the axis's Nyquist frequency `size / 2`.

    A frequency `f` makes `f` full waves between the coordinates -1 and 1.
    """
    if max_frequencies is None:
        return [size / 2 for size in grid]
    if isinstance(max_frequencies, (int, float)):
        return [float(max_frequencies)] * len(grid)
    return [float(frequency) for frequency in max_frequencies]


def count_axis_features(num_frequency_bands: int, concat_positions: bool) -> int:
    """`F`, the number of features of one coordinate: a sine and a cosine a band, and perhaps the coordinate itself."""
    return 2 * num_frequency_bands + int(concat_positions)


def fourier_axis_features(
    grid: Sequence[int],
    num_frequency_bands: int,
    max_frequencies: Sequence[float],
    concat_positions: bool = True,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    counted_on: Sequence[int] | None = None,
) -> list[torch.Tensor]:
    """`(S_1, .., S_A) -> [(S_1, F), .., (S_A, F)]`, each row `[coordinate, K sines, K cosines]`.

    Computed in float32 or better and only then rounded to `dtype`, since `pi * f * x` reaches hundreds of radians.

    Args:
        grid: number of points along each axis, at least 1.
        num_frequency_bands: `K`, at least 0.
        max_frequencies: highest frequency of each axis (see `resolve_max_frequencies`).
        concat_positions: put the coordinate itself first.
        counted_on: a grid whose coordinates span [-1, 1], and on which points are counted from its first on. None is
            `grid` itself, so that every grid spans the same coordinates.
    """
    exact = dtype if dtype == torch.float64 else torch.float32
    features = []
    for axis, (size, max_frequency) in enumerate(zip(grid, max_frequencies, strict=True)):
        if counted_on is None:
            coordinate = torch.linspace(-1.0, 1.0, size, dtype=exact, device=device)
        else:
            step = 2 / max(counted_on[axis] - 1, 1)
            coordinate = torch.arange(size, dtype=exact, device=device) * step - 1
        features.append(_waves(coordinate, num_frequency_bands, max_frequency, concat_positions).to(dtype))
    return features


def fourier_features(
    coordinates: torch.Tensor,
    num_frequency_bands: int,
    max_frequencies: Sequence[float],
    concat_positions: bool = True,
) -> torch.Tensor:
    """`(.., A) -> (.., P)`, of any coordinates, in float32 or better, in the order of `join_axis_features`."""
    exact = coordinates.to(torch.promote_types(torch.float32, coordinates.dtype))
    axes = [
        _waves(axis, num_frequency_bands, max_frequency, concat_positions)
        for axis, max_frequency in zip(exact.unbind(-1), max_frequencies, strict=True)
    ]
    return join_position_columns(torch.stack(axes, dim=-2))


def _waves(
    coordinate: torch.Tensor, num_frequency_bands: int, max_frequency: float, concat_positions: bool
) -> torch.Tensor:
    """`(..) -> (.., F)`: `[coordinate, K sines, K cosines]`, of one axis."""
    coordinate = coordinate[..., None]
    frequency = torch.linspace(
        1.0, max_frequency, num_frequency_bands, dtype=coordinate.dtype, device=coordinate.device
    )
    angle = torch.pi * (coordinate * frequency)
    parts = [coordinate] if concat_positions else []
    return torch.cat([*parts, angle.sin(), angle.cos()], dim=-1)


def find_max_frequency(axis_features: torch.Tensor) -> float | None:
    """`(S, F)` -> the `max_frequency` from which `fourier_axis_features` makes them, nearly; also rounded to 16 bits.

    Returns:
        None if it makes them from none, or too little tells which: fewer than 3 points or 2 bands.
    """
    size, num_features = axis_features.shape
    num_bands = num_features // 2
    if size < 3 or num_bands < 2:
        return None
    features = axis_features.detach().to("cpu", torch.float64)
    sines, cosines = features[:, -2 * num_bands : -num_bands], features[:, -num_bands:]
    waves = torch.complex(cosines, sines)  # exp(i pi f x)
    turns = waves[:, 1:] * waves[:, :-1].conj()  # exp(i pi d x), for bands at distances d
    steps = turns[1:] * turns[:-1].conj()  # exp(2 i pi d / (S - 1))
    distance = steps.mean().angle().item() / (2 * torch.pi) * (size - 1)
    max_frequency = 1 + (num_bands - 1) * distance
    (made,) = fourier_axis_features([size], num_bands, [max_frequency], num_features % 2 == 1, torch.float64)
    return max_frequency if (made - features).abs().max() < SAME_FEATURES else None


def split_position_columns(columns: torch.Tensor, num_axes: int) -> torch.Tensor:
    """`(.., P) -> (.., A, F)`: undo `join_position_columns`, on anything indexed by position channel."""
    bands = columns.shape[-1] // num_axes // 2
    coordinates = columns.shape[-1] - 2 * num_axes * bands  # A, or 0 without the coordinate itself
    groups = columns.split([coordinates, num_axes * bands, num_axes * bands], dim=-1)
    return torch.cat([group.unflatten(-1, (num_axes, group.shape[-1] // num_axes)) for group in groups], dim=-1)


def join_position_columns(columns: torch.Tensor) -> torch.Tensor:
    """`(.., A, F) -> (.., P)`: coordinates of all axes, then sines of all axes, then cosines of all axes.

    The order of transformers' Perceiver, so that weights carry over. An odd `F` says that the coordinate is there.
    """
    num_features = columns.shape[-1]
    groups = columns.split([num_features % 2, num_features // 2, num_features // 2], dim=-1)
    return torch.cat([group.flatten(-2) for group in groups], dim=-1)


def join_axis_features(axis_features: Sequence[torch.Tensor]) -> torch.Tensor:
    """`[(.., S_1, F), .., (.., S_A, F)] -> (.., M, P)`: the explicit array, points in row-major order."""
    num_axes, num_features = len(axis_features), axis_features[0].shape[-1]
    grid = [features.shape[-2] for features in axis_features]
    spread = []
    for axis, features in enumerate(axis_features):
        lead, shape = features.shape[:-2], [1] * num_axes
        shape[axis] = grid[axis]
        spread.append(features.reshape(*lead, *shape, num_features).expand(*lead, *grid, num_features))
    return join_position_columns(torch.stack(spread, dim=-2)).flatten(-1 - num_axes, -2)


def byte_array(pixels: torch.Tensor, axis_features: Sequence[torch.Tensor]) -> torch.Tensor:
    """`(B, C, S_1, .., S_A), [(1 or B, S_a, F)] -> (B, M, C + P)`: pixels beside their positions (paper, section 3.2).

    This is the array that other implementations attend to; here it serves study, tests and the argument `inputs`.
    """
    positions = join_axis_features(axis_features)
    flat = pixels.flatten(2).transpose(1, 2)
    return torch.cat([flat, positions.to(flat.dtype).expand(flat.shape[0], -1, -1)], dim=-1)
