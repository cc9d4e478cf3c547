"""From clouds of points in any form to what the model takes: sampled, centred, scaled, and padded with a mask."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin

from .fetching import is_file
from .point_reading import open_points
from .scalars import as_list, is_count, plain, unmasked

_CANDIDATES = 64  # times the points wanted, from which the farthest are taken


class PerceiverStudyPointCloudProcessor(FeatureExtractionMixin):
    r"""Clouds `(m, A + C)` of any size `->` `points` `(B, M, A)`, `point_features` `(B, M, C)`, `attention_mask`.

    A cloud has a row for each point: its coordinates, then its features. What a model learns is without where a cloud
    lies and how large it is, as both are removed; features stay as they are.

    Args:
        num_axes: `A`, coordinates of a point.
        num_features: `C`, further numbers of a point, such as a normal or a colour.
        feature_names: fields of .ply and .pcd files that are the features, such as `["red", "green", "blue"]`; None
            takes all that follow the coordinates where there are to be any.
        center: what becomes the origin: the `"mean"` of the points, the middle of their bounding `"box"`, or None for
            the origin that they have.
        scale: what is divided by: the largest distance from the origin (`"sphere"`, which has the radius 1 then), the
            largest coordinate (`"box"`, which spans from -1 to 1 along its longest side), or None.
        num_points: how many points are taken of a cloud that has more; None keeps all. Centre and size are those of the
            points that are taken. A mesh in a file is sampled evenly over its faces instead, if it has any; with None
            its vertices are the points.
        sampling: which are taken. Either choice is by the numbers of the points alone, so their order does not matter.
            `"random"` takes those whose numbers have the lowest checksums, which is as good as chance. `"farthest"`
            takes the point farthest from the mean, and then again and again the one that is farthest from all taken,
            so that thin parts keep some. Of more than 64 times `num_points` it takes so many by checksum before.
        on_nan: what is done about a point that is NaN or infinite: `"raise"` an error, or `"drop"` it, as clouds of
            depth cameras need.

    Raises:
        ValueError: an argument is none of these; names it.
    """

    model_input_names = ["points", "point_features", "attention_mask"]

    def __init__(
        self,
        num_axes: int = 3,
        num_features: int = 0,
        feature_names: Sequence[str] | None = None,
        center: str | None = "mean",
        scale: str | None = "sphere",
        num_points: int | None = None,
        sampling: str = "random",
        on_nan: str = "raise",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_axes, self.num_features = num_axes, num_features
        fits = feature_names is None or isinstance(feature_names, (list, tuple))
        if not fits or not all(isinstance(name, str) for name in feature_names or ()):
            raise ValueError(f"feature_names={feature_names!r}: expected None or a list of names.")
        self.feature_names = None if feature_names is None else list(feature_names)
        self.center, self.scale = center, scale
        self.num_points, self.sampling, self.on_nan = num_points, sampling, on_nan
        vars(self).update(plain(vars(self)))
        for name, lowest in (("num_axes", 1), ("num_features", 0), ("num_points", 1)):
            value = getattr(self, name)
            if not is_count(value, lowest) and not (name == "num_points" and value is None):
                raise ValueError(f"{name}={value!r}: expected a whole number of at least {lowest}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                expected = ", ".join(map(repr, choices))
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {expected}.")
        if self.feature_names is not None and len(self.feature_names) != num_features:
            raise ValueError(f"feature_names={self.feature_names}: expected num_features={num_features} names.")

    def __call__(self, points, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """Clouds of any size `->` a batch, padded with zeros to the largest.

        Args:
            points: a cloud `(m, A + C)`, a batch of such `(B, m, A + C)`, or a list of clouds of different sizes, also
                as a column of a table. Each is an array, a tensor, nested lists, or a .npy, .ply, .off or .pcd file, by
                its path, its URL or its bytes, opened, or as an undecoded dict of `datasets`.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            float32 `points`, float32 `point_features` if `num_features` is above 0, and always an int64
            `attention_mask` `(B, M)`, which is 1 for points and 0 for padding.

        Raises:
            ValueError: a cloud has no points or another number of columns, or holds NaN; names it.
        """
        if kwargs:
            raise ValueError(f"{next(iter(kwargs))}: expected no arguments but points and return_tensors.")
        clouds = [self.process_cloud(cloud) for cloud in self._clouds(points)]
        if not clouds:
            raise ValueError("points=[]: expected at least one cloud.")
        longest = max(map(len, clouds))
        padded = np.zeros((len(clouds), longest, self.num_columns), np.float32)
        mask = np.zeros((len(clouds), longest), np.int64)
        for number, cloud in enumerate(clouds):
            padded[number, : len(cloud)], mask[number, : len(cloud)] = cloud, 1
        data = {"points": padded[..., : self.num_axes]}
        if self.num_features:
            data["point_features"] = padded[..., self.num_axes :]
        return BatchFeature({**data, "attention_mask": mask}, tensor_type=return_tensors)

    @property
    def num_columns(self) -> int:
        """`A + C`"""
        return self.num_axes + self.num_features

    def is_several(self, value: Any) -> bool:
        """Whether it is several clouds, and not one as a list of points."""
        value = as_list(value)
        if isinstance(value, (list, tuple)):
            return len(value) > 0 and not is_row(value[0])
        return getattr(value, "ndim", 0) > 2

    def read(self, source: Any) -> np.ndarray:
        """`(m, A + C)`: the cloud in a file, which `__call__` takes, too. Errors as those of `open_points`."""
        names = [] if self.feature_names is None and self.num_features == 0 else self.feature_names
        return open_points(source, self.num_axes, names, self.num_points)

    def process_cloud(self, cloud, name: str = "a cloud") -> np.ndarray:
        """`(m, A + C) -> (M, A + C)` float32: one cloud as the model gets it, and as training keeps it.

        Args:
            cloud: as `__call__` takes them.
            name: what messages call it.
        """
        if _is_file(cloud):
            cloud = self.read(cloud)
        cloud = _array(cloud)
        if cloud.ndim != 2 or cloud.shape[1] != self.num_columns:
            parts = f"num_axes={self.num_axes} and num_features={self.num_features}"
            if self.num_features and self.feature_names is None:
                parts += "; feature_names say which fields of a .ply or .pcd file are read, None takes all"
            raise ValueError(f"{name} has shape {cloud.shape}: expected (points, {self.num_columns}) with {parts}.")
        finite = np.isfinite(cloud).all(axis=1)
        if not finite.all():
            if self.on_nan == "raise":
                row = int(np.flatnonzero(~finite)[0])
                raise ValueError(
                    f"{name} has {(~finite).sum()} points that are NaN or infinite, the first of them point {row}: "
                    f"{cloud[row].tolist()}. Expected finite numbers; on_nan='drop' leaves such points out."
                )
            cloud = cloud[finite]
        if len(cloud) == 0:
            raise ValueError(f"{name} has no points: expected at least one.")
        if self.num_points is not None and len(cloud) > self.num_points:
            cloud = _taken(cloud, self.num_points, self.num_axes if self.sampling == "farthest" else 0)
        cloud = torch.from_numpy(cloud.astype(np.float64))
        places = normalize_points(cloud[None, :, : self.num_axes], self.center, self.scale)[0]
        made = torch.cat([places, cloud[:, self.num_axes :]], dim=1).float().numpy()
        if not np.isfinite(made).all():
            largest = torch.finfo(torch.float32).max
            raise ValueError(f"{name} becomes numbers beyond float32: expected at most {largest:.1e} either way.")
        return made

    def _clouds(self, points) -> list:
        if _is_file(points):
            return [points]
        points = as_list(points)
        if isinstance(points, (list, tuple)):
            return [points] if points and is_row(points[0]) else list(points)
        array = _array(points)
        if array.ndim not in (2, 3):
            raise ValueError(
                f"points have shape {array.shape}: expected a cloud (points, columns), or a batch of such."
            )
        return [array] if array.ndim == 2 else list(array)


def normalize_points(
    points: torch.Tensor, center: str | None, scale: str | None, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """`(B, M, A) -> (B, M, A)`: each cloud moved and divided as the processor's `center` and `scale` say.

    A cloud whose points are all the same becomes zeros.

    Args:
        mask: `(B, M)` bool, which are points; the rest becomes zeros. None is all.
    """
    shown = torch.ones_like(points[..., :1]) if mask is None else mask[..., None].to(points.dtype)
    points = points * shown
    magnitude = points.abs().amax(dim=(1, 2), keepdim=True)
    if scale is not None:
        # Squares of very large numbers are infinite, and those of very small ones 0. A power of 2 rounds nothing.
        unit = torch.where(magnitude > 0, magnitude / (2 * magnitude.frexp().mantissa), 1)
        points, magnitude = points / unit, magnitude / unit
    if center == "mean":
        points = (points - points.sum(dim=1, keepdim=True) / shown.sum(dim=1, keepdim=True)) * shown
    elif center == "box":
        low = points.masked_fill(shown == 0, torch.inf).amin(dim=1, keepdim=True)
        high = points.masked_fill(shown == 0, -torch.inf).amax(dim=1, keepdim=True)
        points = (points - (low + high) / 2) * shown
    if scale is None:
        return points
    lengths = points.norm(dim=-1, keepdim=True) if scale == "sphere" else points.abs().amax(dim=-1, keepdim=True)
    largest = lengths.amax(dim=1, keepdim=True)
    # What is left of equal points, whose mean is rounded, is not a shape.
    alike = largest <= 4 * torch.finfo(points.dtype).eps * points.shape[1] ** 0.5 * magnitude
    return points / torch.where(alike, 1, largest) * ~alike


def _is_file(cloud) -> bool:
    return isinstance(cloud, Mapping) or is_file(cloud)


def is_row(value) -> bool:
    """Whether it is the numbers of one point."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and isinstance(value[0], numbers.Number)
    is_column = isinstance(value, np.ndarray) and value.dtype.kind == "O"
    return getattr(value, "ndim", 0) == 1 and not is_column and not _is_file(value)


def _array(values) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        # float() since numpy has no bfloat16.
        values = values.detach().float() if values.dtype in (torch.bfloat16, torch.float16) else values.detach()
        values = values.cpu().numpy()
    try:
        array = np.asarray(unmasked(as_list(values)))
    except ValueError:
        raise ValueError("a cloud has rows of different lengths: expected as many numbers for each point.") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"a cloud holds {array.dtype}: expected numbers.")
    return array


def _taken(cloud: np.ndarray, count: int, num_axes: int) -> np.ndarray:
    """`count` rows of a cloud, whatever their order is; those far apart in the first `num_axes` columns if above 0."""
    if num_axes == 0:
        return _lowest_checksums(cloud, count)
    candidates = _lowest_checksums(cloud, min(len(cloud), _CANDIDATES * count))
    places = candidates[:, :num_axes].astype(np.float64)
    places = np.ldexp(places, -np.frexp(np.abs(places).max())[1])  # or squares of very large numbers were infinite
    distances = ((places - places.mean(axis=0)) ** 2).sum(axis=1)
    taken = np.empty(count, np.int64)
    taken[0], distances = distances.argmax(), np.full(len(places), np.inf)
    for number in range(1, count):
        distances = np.minimum(distances, ((places - places[taken[number - 1]]) ** 2).sum(axis=1))
        distances[taken[number - 1]] = -1  # of others at the same place it is 0
        taken[number] = distances.argmax()
    return candidates[taken]


def _lowest_checksums(cloud: np.ndarray, count: int) -> np.ndarray:
    """The rows `(count, ..)` with the lowest checksums, in the order of these."""
    checksums = np.zeros(len(cloud), np.uint64)
    exponent = np.frexp(np.abs(cloud).max())[1]
    # Beyond what float32 holds, all numbers would be infinite or 0, and have the same checksums.
    given = np.ldexp(cloud, -exponent) if abs(exponent) > 100 else cloud
    for column in given.T:
        # Of float32, so that a cloud has the same ones in either precision; and -0 is 0.
        words = (np.ascontiguousarray(column, np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)
        checksums = _mixed(checksums ^ words)
    order = np.argsort(checksums)
    checksums = checksums[order]
    # Equal points have equal checksums. The second of them, the third and so on get others, or all or none were taken.
    again = np.concatenate([[False], checksums[1:] == checksums[:-1]])
    if again.any():
        place = np.arange(len(order))
        number = place - np.maximum.accumulate(np.where(again, 0, place))
        checksums = np.where(again, _mixed(checksums + number.astype(np.uint64)), checksums)
        order = order[np.argsort(checksums)]
    return cloud[order[:count]]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, one to one, so that near numbers become unrelated ones (the finaliser of SplitMix64)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


_CHOICES = {
    "center": ("mean", "box", None),
    "scale": ("sphere", "box", None),
    "sampling": ("random", "farthest"),
    "on_nan": ("raise", "drop"),
}

PerceiverStudyPointCloudProcessor.register_for_auto_class("AutoFeatureExtractor")

__all__ = ["PerceiverStudyPointCloudProcessor"]
