"""Small inputs of every kind, and each once more as the byte array that it stands for, for reading.

`array_of` takes the weights of an adapter and nothing else of it, and works in float64, element by element.
"""

import itertools
import math

import torch

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyModel
from tests.models import SMALL, small_model

KINDS = {
    "image": {"image_size": [5, 4], "num_frequency_bands": 3},
    "waveform": {"input_name": "input_values", "num_axes": 1, "image_size": 20, "num_channels": 1, "patch_size": 3},
    "video": {"num_axes": 3, "image_size": [4, 3, 4], "patch_size": [2, 1, 2], "channel_axis": 2, "num_channels": 2},
    "learned": {
        "input_name": "learned_values",
        "num_axes": 1,
        "image_size": 12,
        "num_channels": 2,
        "position_encoding_type": "learned",
        "learned_position_channels": 5,
        "absolute_positions": True,
    },
    "stem": {"input_name": "picture", "image_size": [9, 13], "stem_type": "conv", "stem_channels": 4},
    "plain": {"input_name": "plain_values", "image_size": [3, 4], "position_encoding_type": "none"},
    "points": {"input_type": "points", "num_axes": 3, "num_channels": 2, "max_frequencies": [5.0, 2.0, 3.5]},
    "places": {"input_type": "points", "input_name": "places", "num_axes": 2, "num_channels": 0},
    "neighbors": {
        "input_type": "points",
        "input_name": "cloud",
        "num_axes": 3,
        "num_channels": 2,
        "stem_type": "neighbors",
        "stem_channels": 5,
        "num_neighbors": 4,
        "neighbor_channels": [6, 3],
        "neighbor_points": 5,
    },
    "bytes": {"input_type": "bytes", "vocab_size": 20, "max_position_embeddings": 11, "d_model": 9},
    "array": {"input_type": "array", "num_channels": 7},
}
_INPUT = ("image_size", "num_frequency_bands")
_REST = {name: value for name, value in SMALL.items() if name not in _INPUT}


def fields_of(*kinds: str) -> dict:
    """Fields of a config with the only input of this kind, or with several."""
    own = {kind: {"num_frequency_bands": 2, **KINDS[kind]} for kind in kinds}
    for kind, fields in own.items():
        if fields.get("input_type", "grid") not in ("grid", "points"):
            del fields["num_frequency_bands"]
        elif kind == "video" and len(kinds) > 1:
            fields["input_name"] = "frames"
    return own[kinds[0]] if len(kinds) == 1 else {"modalities": own}


def model_of(*kinds: str, **fields) -> PerceiverStudyModel:
    """In evaluation mode and float64."""
    inputs = fields_of(*kinds)
    unread = {"image_size": 32, "num_frequency_bands": 16}
    return small_model(model_class=PerceiverStudyModel, **{**unread, **inputs, **fields}).double()


def prefix(kinds: tuple[str, ...], kind: str) -> str:
    """What comes before the names of further arguments."""
    return f"{kind}_" if len(kinds) > 1 else ""


def configs_of(config: PerceiverStudyConfig, kinds: tuple[str, ...]) -> dict[str, PerceiverStudyConfig]:
    return {kind: config if config.modalities is None else config.modality_config(kind) for kind in sorted(kinds)}


def arguments_of(config: PerceiverStudyConfig, kinds: tuple[str, ...], batch: int = 3, seed: int = 1) -> dict:
    """Random arguments of `forward`, in float64."""
    torch.manual_seed(seed)
    given = {}
    for kind, own in configs_of(config, kinds).items():
        name, before = own.input_name, prefix(kinds, kind)
        if own.input_type == "points":
            given[name or "points"] = torch.randn(batch, 9, own.num_axes, dtype=torch.float64)
            if own.num_channels:
                features = torch.randn(batch, 9, own.num_channels, dtype=torch.float64)
                given[before + "point_features"] = features
        elif own.input_type == "bytes":
            given["input_ids"] = torch.randint(0, own.vocab_size, (batch, own.max_position_embeddings - 1))
        elif own.input_type == "array":
            given["inputs"] = torch.randn(batch, 8, own.num_channels, dtype=torch.float64)
        else:
            shape = [batch, own.num_channels, *own.grid]
            values = torch.randn(shape, dtype=torch.float64)
            given[name or "pixel_values"] = values.movedim(1, own.channel_axis).contiguous()
    return given


def masks_of(config: PerceiverStudyConfig, kinds: tuple[str, ...], given: dict, seed: int = 2) -> dict:
    """Masks of everything, about a third hidden; of the second sample all of the first modality, where there are more.

    In units of what is given: before patches, after a stem.
    """
    torch.manual_seed(seed)
    masks = {}
    for index, (kind, own) in enumerate(configs_of(config, kinds).items()):
        size = _given_points(own, given)
        mask = torch.rand(3, size) > 1 / 3
        mask[:, size // 2] = True
        if index == 0 and len(kinds) > 1:
            mask[1] = False
        masks[prefix(kinds, kind) + "attention_mask"] = mask
    return masks


def _main(config: PerceiverStudyConfig) -> str:
    default = {"points": "points", "bytes": "input_ids", "array": "inputs", "grid": "pixel_values"}
    return config.input_name or default[config.input_type]


def _given_points(config: PerceiverStudyConfig, given: dict) -> int:
    if config.input_type != "grid":
        return given[_main(config)].shape[1]
    return math.prod(config.attended_grid if config.stem_type == "conv" else config.grid)


def array_of(
    adapter, given: dict, before: str = "", mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`(B, M, width)` and `(B, M)` or None, from the arguments of a model."""
    config = adapter.config
    value = given[_main(config)]
    if config.input_type == "array":
        return value, mask
    if config.input_type == "bytes":
        table, positions = adapter.embeddings.weight, adapter.position_embeddings.weight
        rows = [[table[byte] + positions[index] for index, byte in enumerate(line)] for line in value.tolist()]
        return torch.stack([torch.stack(row) for row in rows]), mask
    if config.input_type == "points":
        waves = _waves(config, value)
        features = [given[before + "point_features"]] if config.num_channels else []
        if config.stem_type == "neighbors":
            features = [_neighbors(adapter.stem, value, features[0], mask)]
        return torch.cat([*features, waves], dim=-1), mask
    pixels = value.movedim(config.channel_axis, 1)
    if config.patch_size is not None:
        pixels, mask = _patches(config, pixels, mask)
    if config.stem_type == "conv":
        pixels = adapter.stem(pixels)
    grid, flat = list(pixels.shape[2:]), pixels.flatten(2).mT
    if config.position_encoding_type == "none":
        return flat, mask
    if config.position_encoding_type == "learned":
        positions = adapter.learned_positions.weight[: flat.shape[1]]
    elif before + "position_features" in given:
        positions = _given_positions(config, given[before + "position_features"], grid)
    else:
        sizes = config.attended_grid if config.absolute_positions else grid
        places = [
            [-1 + 2 * index / max(size - 1, 1) for index, size in zip(point, sizes, strict=True)]
            for point in itertools.product(*map(range, grid))
        ]
        positions = _waves(config, torch.tensor(places, dtype=torch.float64))
    return torch.cat([flat, positions.expand(len(flat), -1, -1)], dim=-1), mask


def _neighbors(stem, points, features, mask):
    """`(B, M, C')`, one point after the other."""
    count, clouds = stem.num_neighbors, []
    shown = torch.ones(points.shape[:2], dtype=torch.bool) if mask is None else mask
    for places, numbers, there in zip(points, features, shown, strict=True):
        nearest = []
        for index, place in enumerate(places):
            far = (places - place).square().sum(dim=-1).where(there, torch.inf)
            found = [row for row in far.argsort().tolist() if there[row]] or [index]
            ranks = [rank * len(found) // stem.neighbor_points for rank in range(count)]
            nearest.append([found[rank if rank < len(found) else 0] for rank in ranks])
        squares = [
            (places[nearest[index]] - places[index]).square().sum() / count for index in there.nonzero().flatten()
        ]
        unit = torch.stack(squares).mean().sqrt() if squares else torch.tensor(1.0, dtype=torch.float64)
        made = []
        for layer in stem.layers:
            rows = []
            for index, place in enumerate(places):
                others = nearest[index]
                offsets = (places[others] - place) / unit
                mapped = offsets @ layer.places.weight.T + numbers[others] @ layer.features.weight.T
                rows.append(mapped.amax(dim=0) + layer.own_features.weight @ numbers[index])
            rows = torch.stack(rows)
            variance, mean = torch.var_mean(rows[there], correction=0) if there.any() else (0.0, 0.0)
            rows = (rows - mean) / (variance + layer.cloud_norm.eps) ** 0.5
            numbers = torch.nn.functional.gelu(rows * layer.cloud_norm.weight + layer.cloud_norm.bias)
            made.append(numbers)
        clouds.append(stem.output_norm(stem.output(torch.cat(made, dim=-1))))
    return torch.stack(clouds)


def _waves(config: PerceiverStudyConfig, places: torch.Tensor) -> torch.Tensor:
    bands, angles = config.num_frequency_bands, []
    for axis, highest in enumerate(config.axis_max_frequencies):
        for band in range(bands):
            frequency = 1 + (highest - 1) * band / max(bands - 1, 1)
            angles.append(math.pi * frequency * places[..., axis])
    angles = torch.stack(angles, dim=-1)
    return torch.cat([places, angles.sin(), angles.cos()], dim=-1)


def _given_positions(config: PerceiverStudyConfig, features: torch.Tensor, grid: list[int]) -> torch.Tensor:
    """`(1 or B, S_1 + .. + S_A, F) -> (1 or B, M, P)`, one point after the other."""
    axes, bands, positions = features.split(grid, dim=1), config.num_frequency_bands, []
    for point in itertools.product(*map(range, grid)):
        rows = [axis[:, index] for axis, index in zip(axes, point, strict=True)]
        parts = [row.split([row.shape[-1] - 2 * bands, bands, bands], dim=-1) for row in rows]
        positions.append(torch.cat([part[kind] for kind in range(3) for part in parts], dim=-1))
    return torch.stack(positions, dim=1)


def _patches(config, pixels, mask):
    """One patch after the other, each point with its channels; what is hidden or over the edge is 0."""
    grid, patch = list(pixels.shape[2:]), config.patch
    shown = torch.ones(len(pixels), *grid, dtype=torch.bool) if mask is None else mask.view(-1, *grid).bool()
    pixels = pixels * shown[:, None]
    elements, attended = [], []
    counts = [math.ceil(size / step) for size, step in zip(grid, patch, strict=True)]
    for corner in itertools.product(*map(range, counts)):
        channels, seen = [], []
        for offset in itertools.product(*map(range, patch)):
            point = [c * p + o for c, p, o in zip(corner, patch, offset, strict=True)]
            inside = all(index < size for index, size in zip(point, grid, strict=True))
            channels.append(pixels[(..., *point)] if inside else torch.zeros_like(pixels[(..., *([0] * len(grid)))]))
            seen.append(shown[(..., *point)] if inside else torch.zeros(len(pixels), dtype=torch.bool))
        elements.append(torch.cat(channels, dim=1))
        attended.append(torch.stack(seen).any(dim=0))
    array = torch.stack(elements, dim=2).unflatten(2, counts)
    return array, None if mask is None else torch.stack(attended, dim=1)


def joint_array(
    model: PerceiverStudyModel, kinds: tuple[str, ...], given: dict, masks: dict | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The whole byte array of all inputs one after the other, and its mask."""
    masks = masks or {}
    if len(kinds) == 1:
        return array_of(model.inputs, given, mask=masks.get("attention_mask"))
    arrays, shown = [], []
    for kind in sorted(kinds):
        adapter = model.inputs.adapters[kind]
        array, mask = array_of(adapter, given, f"{kind}_", masks.get(f"{kind}_attention_mask"))
        padding = model.inputs.padding[kind].weight.expand(*array.shape[:2], -1)
        arrays.append(torch.cat([array, padding], dim=-1))
        shown.append(torch.ones(array.shape[:2], dtype=torch.bool) if mask is None else mask)
    return torch.cat(arrays, dim=1), torch.cat(shown, dim=1)
