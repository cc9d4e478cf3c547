"""What a point of a cloud knows of the points beside it."""

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast

from .paths import keeps_nothing

# Distances in memory at once, of a part of the points at a time: on CPUs those that caches hold, elsewhere 67 MB.
_MOST_DISTANCES, _MOST_DISTANCES_ON_CPU = 2**23, 2**18
_TIE = 1e-4  # share of a distance by which the direction decides
_MAX = 2  # what torch.embedding_bag calls it


def nearest_points(points: torch.Tensor, count: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Rows of the `count` points that are nearest to each point, itself among them: `(B, M, A) -> (B, M, count)`.

    Hidden points are nobody's neighbors. Where there are fewer than `count`, one of them is there several times. Which
    they are does not depend on the order of the points, but for points at one and the same place.

    Args:
        mask: `(B, M)`, True for points that are there.
    """
    points, count, wanted = points.detach(), min(count, points.shape[1]), count
    # On a regular grid many are equally far: of these, the first along a direction that no two of them share. Of more
    # than three axes some would share it in float32.
    precise = torch.float32 if points.device.type == "mps" else torch.float64
    direction = torch.arange(2, points.shape[2] + 2, dtype=precise, device=points.device).sqrt()
    along = points.to(precise) * (direction / direction.norm())
    first = _TIE * sum(along.unbind(dim=-1))  # a product of matrices rounds rows differently
    if keeps_nothing():
        rows = _nearest(points, points, first, count, mask)
    else:
        rows = torch.empty(*points.shape[:2], count, dtype=torch.int64, device=points.device)
        most = _MOST_DISTANCES_ON_CPU if points.device.type == "cpu" else _MOST_DISTANCES
        most = max(1, most // (points.shape[0] * points.shape[1]))
        for some, rows_of_some in zip(points.split(most, dim=1), rows.split(most, dim=1), strict=True):
            rows_of_some.copy_(_nearest(some, points, first, count, mask))
    return torch.cat([rows, rows[..., :1].expand(-1, -1, wanted - count)], dim=-1)


def _nearest(
    some: torch.Tensor, points: torch.Tensor, first: torch.Tensor, count: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """`(B, R, A), (B, M, A), (B, M) -> (B, R, count)`"""
    distances = _distances(some, points).to(first.dtype) + first[:, None]
    if mask is not None:
        distances = distances.masked_fill(~mask[:, None], torch.inf)
    nearest, rows = distances.topk(count, largest=False)
    return torch.where(nearest.isinf(), rows[..., :1], rows)


def _distances(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """`(B, R, A), (B, M, A) -> (B, R, M)`"""
    if keeps_nothing():  # ONNX has no distances for all sizes
        return (points[:, :, None] - others[:, None]).square().sum(dim=-1).sqrt()
    # Not by a product of matrices, whose rounding depends on the other points.
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


class NeighborStem(nn.Module):
    """`(B, M, A), (B, M, C) or None -> (B, M, C')`: the largest that a linear map makes of any neighbor, then an MLP.

    A neighbor is mapped by its features and by where it is from the point, in units of the root mean square distance
    between neighbors in this cloud: so twice as many points mean nothing else. Distances are computed in float32 or
    better.

    Args:
        num_channels: `C`, features of a point.
        num_neighbors: how many of the nearest points are looked at, the point itself among them.
    """

    def __init__(self, num_axes: int, num_channels: int, stem_channels: int, num_neighbors: int, eps: float):
        super().__init__()
        self.num_neighbors = num_neighbors
        self.places = nn.Linear(num_axes, stem_channels, bias=False)
        self.features = nn.Linear(num_channels, stem_channels, bias=False) if num_channels else None
        self.own_features = nn.Linear(num_channels, stem_channels, bias=False) if num_channels else None
        self.norm = nn.LayerNorm(stem_channels, eps=eps)
        self.output = nn.Linear(stem_channels, stem_channels)
        self.output_norm = nn.LayerNorm(stem_channels, eps=eps)

    def forward(
        self,
        points: torch.Tensor,
        features: torch.Tensor | None,
        dtype: torch.dtype,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            dtype: of the layers, and of what is returned.
            mask: `(B, M)`, True for points that are there; of others the result means nothing.
        """
        features = None if features is None else features.to(dtype)
        with maybe_autocast(points.device.type, enabled=False):
            points = points.to(torch.promote_types(points.dtype, torch.float32))
            rows = nearest_points(points, self.num_neighbors, mask)
            places = _in_units_of_neighbors(points, rows, mask)
            if torch.finfo(dtype).bits < 32:
                # Places are large beside their differences, so these are mapped instead, which takes longer.
                offsets = (_of_rows(places, rows) - places[:, :, None]).to(dtype)
                others = 0.0 if self.features is None else _of_rows(self.features(features), rows)
                hidden = (self.places(offsets) + others).amax(dim=2)
            else:
                mapped = self.places(places.to(dtype))
                others = 0.0 if self.features is None else self.features(features)
                hidden = _largest(mapped + others, rows) - mapped
        if self.own_features is not None:
            hidden = hidden + self.own_features(features)
        return self.output_norm(self.output(nn.functional.gelu(self.norm(hidden))))


def _in_units_of_neighbors(points: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`(B, M, A)` from the mean of the cloud, in units of the distance between neighbors."""
    shown = points.new_ones(points.shape[:2]) if mask is None else mask.to(points.dtype)
    count = shown.sum(dim=1).clamp(min=1)[:, None, None]
    points = points - (points * shown[..., None]).sum(dim=1, keepdim=True) / count
    distances = (_of_rows(points, rows) - points[:, :, None]).square().sum(dim=-1).mean(dim=-1)
    of_neighbors, of_all = (
        (squares * shown).sum(dim=1)[:, None, None] / count for squares in (distances, points.square().sum(dim=-1))
    )
    # Where all neighbors are at one place, any unit will do that makes no numbers too large.
    unit = torch.maximum(of_neighbors, 1e-8 * of_all)
    return points / (unit + (unit == 0)).sqrt()


def _of_rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(B, M, C), (B, M, k) -> (B, M, k, C)`"""
    index = rows.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index).unflatten(1, rows.shape[1:])


def _largest(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(B, M, C), (B, M, k) -> (B, M, C)`: of each channel the largest among the rows."""
    if keeps_nothing():
        return _of_rows(values, rows).amax(dim=2)
    # Which row it is from is found without the array of all neighbors, and alone has a gradient.
    batch, size, channels = values.shape
    flat = values.flatten(0, 1)
    firsts = torch.arange(batch, device=rows.device)[:, None, None] * size
    starts = torch.arange(0, rows.numel(), rows.shape[2], device=rows.device)
    index = (rows + firsts).flatten()
    winners = torch.embedding_bag(flat.detach(), index, starts, False, _MAX)[3]
    return flat.gather(0, winners).view(batch, size, channels)
