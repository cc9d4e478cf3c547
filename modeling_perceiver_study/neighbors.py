"""What a point of a cloud knows of the points beside it."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast

from .paths import keeps_nothing

# Distances in memory at once, of a part of the points at a time: on CPUs those that caches hold, elsewhere 67 MB.
_MOST_DISTANCES, _MOST_DISTANCES_ON_CPU = 2**23, 2**18
_MOST_VALUES_ON_CPU = 2**19  # of neighbors in memory at once, for the same reason
_TIE = 1e-4  # share of a distance by which the direction decides
_MAX = 2  # what torch.embedding_bag calls it


def nearest_points(
    points: torch.Tensor, count: int, mask: torch.Tensor | None = None, among: int | None = None
) -> torch.Tensor:
    """Rows of the `count` points that are nearest to each point, itself among them: `(B, M, A) -> (B, M, count)`.

    Hidden points are nobody's neighbors. Where there are fewer than `count`, one of them is there several times. Which
    they are does not depend on the order of the points, but for points at one and the same place.

    Args:
        mask: `(B, M)`, True for points that are there.
        among: the number of points that `count` is meant for: of a cloud with `n` times as many, each `n`-th of the
            `n * count` nearest, and of one with fewer, fewer, some several times. So they lie in as large a part of the
            cloud, however many points it has. None takes the nearest.
    """
    points, size = points.detach(), points.shape[1]
    ranks = torch.arange(count, device=points.device)[None]
    if among is not None:
        ranks = ranks * (size if mask is None else mask.sum(dim=1, keepdim=True)) // among
    most = min(size, count if among is None else 1 + (count - 1) * size // among)
    ranks = torch.where(ranks < most, ranks, 0)[:, None]
    # On a regular grid many are equally far: of these, the first along a direction that no two of them share. Of more
    # than three axes some would share it in float32.
    precise = torch.float32 if points.device.type == "mps" else torch.float64
    direction = torch.arange(2, points.shape[2] + 2, dtype=precise, device=points.device).sqrt()
    along = points.to(precise) * (direction / direction.norm())
    first = _TIE * sum(along.unbind(dim=-1))  # a product of matrices rounds rows differently
    if keeps_nothing():
        rows = _nearest(points, points, first, first, ranks, most, mask)
    else:
        rows = torch.empty(*points.shape[:2], count, dtype=torch.int64, device=points.device)
        part = _MOST_DISTANCES_ON_CPU if points.device.type == "cpu" else _MOST_DISTANCES
        part = max(1, part // (points.shape[0] * size))
        parts = (array.split(part, dim=1) for array in (points, first, rows))
        for some, first_of_some, rows_of_some in zip(*parts, strict=True):
            rows_of_some.copy_(_nearest(some, points, first_of_some, first, ranks, most, mask))
    return rows


def _nearest(
    some: torch.Tensor,
    points: torch.Tensor,
    first_of_some: torch.Tensor,
    first: torch.Tensor,
    ranks: torch.Tensor,
    most: int,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """`(B, R, A), (B, M, A), (B, R), (B, M), (1 or B, 1, count) -> (B, R, count)`: those of these ranks, below `most`.

    What is added to a distance is less than it, so no sum is negative.
    """
    distances = first[:, None] - first_of_some[..., None] + _distances(some, points)
    if mask is not None:
        distances = distances.masked_fill(~mask[:, None], torch.inf)
    if distances.device.type == "cpu" and not keeps_nothing():
        # Bits of positive numbers, as integers, are in the order of the numbers, NaN without its sign last. CPUs find
        # the smallest integers up to three times as fast, as they need not ask which are NaN.
        nearest, rows = distances.abs().view(torch.int64).topk(most, largest=False)
        nearest = nearest.view(distances.dtype)
    else:
        nearest, rows = distances.topk(most, largest=False)
    rows = torch.where(nearest.isinf(), rows[..., :1], rows)
    return rows.gather(2, ranks.expand(*rows.shape[:2], -1))


def _distances(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """`(B, R, A), (B, M, A) -> (B, R, M)`, not by a product of matrices, whose rounding depends on the other points."""
    axes = zip(points.unbind(dim=-1), others.unbind(dim=-1), strict=True)
    along_one, *along_others = (own[:, :, None] - other[:, None] for own, other in axes)
    squares = along_one.square()
    for differences in along_others:
        squares = torch.addcmul(squares, differences, differences)
    return squares.sqrt()


class NeighborStem(nn.Module):
    """`(B, M, A), (B, M, C) or None -> (B, M, C')`: layers that look at neighbors, and a linear map of what all make.

    All layers look at the same neighbors, which are the nearest in space. Where they are from the point is measured in
    units of the root mean square distance between neighbors in this cloud, so that the size of a cloud means nothing.
    Distances are computed in float32 or better. A norm follows the map.

    Args:
        num_channels: `C`, features of a point.
        neighbor_channels: channels of each layer, the first of which sees the features, and each other what the one
            before made of them.
        stem_channels: `C'`, what all layers together become.
        num_neighbors: how many of the nearest points are looked at, the point itself among them.
        neighbor_points: the number of points that `num_neighbors` is meant for, `among` of `nearest_points`.
    """

    def __init__(
        self,
        num_axes: int,
        num_channels: int,
        neighbor_channels: Sequence[int],
        stem_channels: int,
        num_neighbors: int,
        eps: float,
        neighbor_points: int | None = None,
    ):
        super().__init__()
        self.num_neighbors, self.neighbor_points = num_neighbors, neighbor_points
        widths = pairwise([num_channels, *neighbor_channels])
        self.layers = nn.ModuleList(NeighborLayer(num_axes, given, made, eps) for given, made in widths)
        self.output = nn.Linear(sum(neighbor_channels), stem_channels)
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
            rows = nearest_points(points, self.num_neighbors, mask, self.neighbor_points)
            places = _in_units_of_neighbors(points, rows, mask)
        made = []
        for layer in self.layers:
            features = layer(places, features, rows, dtype, mask)
            made.append(features)
        return self.output_norm(self.output(torch.cat(made, dim=-1)))


class NeighborLayer(nn.Module):
    """`(B, M, A), (B, M, C) or None -> (B, M, C')`: of each channel the largest that a map makes of any neighbor.

    A neighbor is mapped by its features and by where it is from the point. What another map makes of the point's own
    features is added (an edge convolution: DGCNN, Wang et al. 2019, https://arxiv.org/abs/1801.07829). A norm over the
    cloud and GELU follow.
    """

    def __init__(self, num_axes: int, num_channels: int, neighbor_channels: int, eps: float):
        super().__init__()
        self.places = ExactLinear(num_axes, neighbor_channels)
        self.features = nn.Linear(num_channels, neighbor_channels, bias=False) if num_channels else None
        self.own_features = nn.Linear(num_channels, neighbor_channels, bias=False) if num_channels else None
        self.cloud_norm = CloudNorm(neighbor_channels, eps)

    def forward(
        self,
        places: torch.Tensor,
        features: torch.Tensor | None,
        rows: torch.Tensor,
        dtype: torch.dtype,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            places: of points, in units of the distance between neighbors, in float32 or better.
            rows: `(B, M, k)`, the neighbors of each point.
            dtype: of what is returned.
            mask: `(B, M)`, True for points that are there.
        """
        others = None if self.features is None else self.features(features)
        if type(self.places) is ExactLinear:
            mapped = self.places(places)
            hidden = _largest(mapped if others is None else mapped + others, rows) - mapped
        else:
            # A quantized layer or an adapter may round, so it maps differences, which takes longer.
            mapped = self.places(_of_rows(places, rows) - places[:, :, None])
            hidden = (mapped if others is None else mapped + _of_rows(others, rows)).amax(dim=2)
        if self.own_features is not None:
            hidden = hidden + self.own_features(features)
        return nn.functional.gelu(self.cloud_norm(hidden, mask).to(dtype))


class CloudNorm(nn.GroupNorm):
    """`(B, M, C) -> (B, M, C)`: a norm over all points and channels of a cloud, then a gain and a bias of each channel.

    So it leaves what is large at one point of a cloud and small at another, which a LayerNorm takes from each point. It
    is a group norm of one group (Wu & He 2018, https://arxiv.org/abs/1803.08494) to which hidden points are nothing:
    they become the bias. It computes in float32 or better, and returns that.
    """

    def __init__(self, num_channels: int, eps: float):
        super().__init__(1, num_channels, eps=eps)

    def forward(self, values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            mask: `(B, M)`, True for points that are there.
        """
        with maybe_autocast(values.device.type, enabled=False):
            values = values.to(torch.promote_types(values.dtype, torch.float32))
            if mask is None:
                shape = values.shape[1:]
                weight, bias = (of_channels.to(values.dtype).expand(shape) for of_channels in (self.weight, self.bias))
                return nn.functional.layer_norm(values, shape, weight, bias, self.eps)
            hidden = ~mask[..., None]
            count = mask.sum(dim=1)[:, None, None].clamp(min=1) * values.shape[2]
            values = values.masked_fill(hidden, 0.0)
            values = (values - values.sum(dim=(1, 2), keepdim=True) / count).masked_fill(hidden, 0.0)
            variance = values.square().sum(dim=(1, 2), keepdim=True) / count
            return values * (self.weight / (variance + self.eps).sqrt()) + self.bias


class ExactLinear(nn.Linear):
    """A linear map without a bias that computes in the dtype of its input, also under autocast.

    For places, which are large beside the differences between them that matter.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with maybe_autocast(inputs.device.type, enabled=False):
            return nn.functional.linear(inputs, self.weight.to(inputs.dtype))


def _in_units_of_neighbors(points: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`(B, M, A)` from the mean of the cloud, in units of the distance between neighbors."""
    shown = points.new_ones(points.shape[:2]) if mask is None else mask.to(points.dtype)
    count = shown.sum(dim=1).clamp(min=1)[:, None, None]

    def mean(squares):
        return (squares * shown).sum(dim=1)[:, None, None] / count

    centered = points - (points * shown[..., None]).sum(dim=1, keepdim=True) / count
    of_neighbors = mean((_of_rows(centered, rows) - centered[:, :, None]).square().sum(dim=-1).mean(dim=-1))
    of_all, from_origin = (mean(values.square().sum(dim=-1)) for values in (centered, points.detach()))
    # Where all neighbors are at one place, any unit will do that makes neither numbers nor gradients too large, such as
    # the size of the cloud. Where that is nothing but what rounding leaves of its place, it is 1.
    unit = torch.where(of_neighbors > 1e-10 * of_all, of_neighbors, of_all)
    rounding = (16 * torch.finfo(points.dtype).eps) ** 2
    return centered / torch.where(of_all > rounding * from_origin, unit, 1.0).sqrt()


def _of_rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(B, M, C), (B, M, k) -> (B, M, k, C)`"""
    index = rows.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index).unflatten(1, rows.shape[1:])


def _largest(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(B, M, C), (B, M, k) -> (B, M, C)`: of each channel the largest among the rows."""
    if keeps_nothing():
        return _of_rows(values, rows).amax(dim=2)
    # Where it is in its cloud is found without the array of all neighbors, and alone has a gradient. CPUs add up
    # gradients within flat clouds several times as fast as along an axis.
    winners = _winners_on_cpu if values.device.type == "cpu" else _winners
    return values.flatten(1).gather(1, winners(values.detach(), rows)).view(values.shape)


def _winners(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`(B, M, C), (B, M, k) -> (B, M * C)`: where in its flat cloud each channel is largest among the rows."""
    batch, size, channels = values.shape
    shifts = torch.arange(batch, device=rows.device)[:, None, None] * size
    starts = torch.arange(0, rows.numel(), rows.shape[2], device=rows.device)
    won = torch.embedding_bag(values.flatten(0, 1), (rows + shifts).flatten(), starts, False, _MAX)[3]
    won = won.view(values.shape) - shifts
    return (won * channels + torch.arange(channels, device=rows.device)).flatten(1)


def _winners_on_cpu(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The same, several times as fast there: max-pooling of some rows at a time compares many channels at once."""
    batch, size, channels = values.shape
    count, values = rows.shape[2], values.flatten(0, 1)
    shifts = torch.arange(batch, device=rows.device)[:, None, None] * size
    winners = rows.new_empty(batch * size, channels)
    in_batch, in_cloud = (rows + shifts).flatten(0, 1), (rows * channels).flatten(0, 1)
    places = torch.arange(channels, device=rows.device)
    some = max(1, _MOST_VALUES_ON_CPU // (count * channels))
    for part, starts, won in zip(in_batch.split(some), in_cloud.split(some), winners.split(some), strict=True):
        pixels = values.index_select(0, part.flatten()).view(1, -1, count, channels).permute(0, 3, 1, 2)
        which = nn.functional.max_pool2d(pixels, (1, count), return_indices=True)[1]
        torch.index_select(starts.flatten(), 0, which[0, :, :, 0].T.flatten(), out=won.view(-1))
        won.add_(places)
    return winners.view(batch, -1)
