"""Random changes of clouds of points, and the choice of some of their points, for whole batches on their device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lab.augment.describing import listed_changes
from lab.augment.mixing import neighbours
from lab.augment.padding import padded, shown
from lab.augment.seeds import fold_seed
from lab.errors import UserError
from modeling_perceiver_study import PerceiverStudyPointCloudProcessor
from modeling_perceiver_study.point_cloud_processing_perceiver_study import normalize_points

Generators = Sequence[np.random.Generator]  # one for each cloud


@dataclass
class PointAugmentation:
    """What happens to each training cloud, in this order; before `shift` it is centred and scaled as by the processor.

    The paper (section 4.4) has `point_scale: 0.01` alone, and found rotation and shifts of points to be no use on
    ModelNet40.
    """

    num_points: int | None = None  # train on so many points of each cloud, others at each step; null is all
    mirror: list[int] = field(default_factory=list)  # axes along which half of the clouds are mirrored, 0 for the first
    rotation: float = 0.0  # degrees, at most, either way, about the vertical axis
    vertical_axis: int = 2
    tilt: float = 0.0  # degrees, at most, about a random axis; of 3 coordinates
    stretch: float = 0.0  # each axis is multiplied by a number from 1 - stretch to 1 + stretch
    point_scale: float = 0.0  # the same for each coordinate of each point
    jitter: float = 0.0  # standard deviation of what is added to each coordinate
    shift: float = 0.0  # at most, of the whole cloud along each axis
    mix_alpha: float = 0.0  # a share of the points, from Beta(alpha, alpha), and of the label is another cloud's
    # Number of the feature that is the first of a normal, which turns with the cloud; null finds the field nx of
    # feature_extractor.feature_names.
    normals: int | None = None

    @property
    def mixes(self) -> bool:
        """Whether clouds come in pairs, and labels as probabilities."""
        return self.mix_alpha > 0


# Lowest and highest values.
POINT_RANGES = {
    "num_points": (1, None),
    "rotation": (0, 180),
    "vertical_axis": (0, None),
    "tilt": (0, 180),
    "stretch": (0, 0.99),
    "point_scale": (0, 0.99),
    "jitter": (0, None),
    "shift": (0, None),
    "mix_alpha": (0, None),
    "normals": (0, None),
}


class PointTrainingInputs:
    """Turn a training batch into points, features, mask and targets, with random choices that a resumed run repeats.

    Each cloud has a generator of its own, seeded by seed, step and its place in the batch. So the choices do not depend
    on how the batch is divided among processes and accumulated parts.

    Raises:
        UserError: the settings do not fit the number of coordinates.
    """

    def __init__(
        self,
        settings: PointAugmentation,
        processor: PerceiverStudyPointCloudProcessor,
        seed: int,
        blendable: Callable[[torch.Tensor], torch.Tensor],
    ):
        """
        Args:
            blendable: turns labels into floats that can be averaged; called if clouds are mixed.
        """
        self.settings, self.processor, self.seed, self.blendable = settings, processor, seed, blendable
        axes = processor.num_axes
        if not set(settings.mirror) <= set(range(axes)):
            raise UserError(f"augmentation.mirror={settings.mirror}: expected axes from 0 to {axes - 1}")
        if settings.rotation and (axes < 2 or settings.vertical_axis >= axes):
            raise UserError(f"augmentation.vertical_axis={settings.vertical_axis}: points have {axes} coordinates")
        if settings.tilt and axes != 3:
            raise UserError(f"augmentation.tilt={settings.tilt} is for 3 coordinates, not {axes}")
        names = processor.feature_names or []
        self.normals = names.index("nx") if settings.normals is None and "nx" in names else settings.normals
        if self.normals is not None and self.normals + axes > processor.num_features:
            raise UserError(
                f"augmentation.normals={self.normals}: a normal has {axes} numbers, and points have "
                f"{processor.num_features} features"
            )

    def __call__(
        self, values: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, step: int, first: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Points with features `(n, M', A + C)`, how many of them are shown `(n,)`, and labels or probabilities.

        Args:
            values: `(n, M, A + C)`, padded.
            lengths: `(n,)`.
            first: `values` are rows `first` to `first + n` of the batch of `step`; both are even if clouds are mixed.
        """
        settings, axes, count = self.settings, self.processor.num_axes, len(values)
        generators = [np.random.default_rng(fold_seed(self.seed, step, first + row)) for row in range(count)]
        if settings.num_points is not None:
            values, lengths = _chosen(values, lengths, settings.num_points, generators)
        mask = shown(lengths, values.shape[1])
        points = values[..., :axes]
        matrices = np.stack([draw_matrix(settings, axes, rng) for rng in generators])
        points = points @ torch.from_numpy(matrices).to(points)
        if self.normals is not None:
            values = torch.cat([values[..., :axes], self.turned_normals(values[..., axes:], matrices)], dim=-1)
        if settings.point_scale:
            points = points * (1 + settings.point_scale * (2 * _noise(generators, lengths, points, "random") - 1))
        if settings.jitter:
            points = points + settings.jitter * _noise(generators, lengths, points, "standard_normal")
        points = self.normalize(points, mask)
        if settings.shift:
            moves = np.stack([rng.uniform(-settings.shift, settings.shift, (1, axes)) for rng in generators])
            points = (points + torch.from_numpy(moves).to(points)) * mask[..., None]
        values = torch.cat([points, values[..., axes:]], dim=-1)
        if settings.mixes:
            values, lengths, labels = self._mix(values, lengths, self.blendable(labels), generators)
        return values, lengths, labels

    def turned_normals(self, features: torch.Tensor, matrices: np.ndarray) -> torch.Tensor:
        """`(n, M, C)` with normals of surfaces whose points were multiplied by `(n, A, A)`, as long as they were."""
        own = slice(self.normals, self.normals + self.processor.num_axes)
        normals = features[..., own]
        turned = normals @ torch.from_numpy(np.linalg.inv(matrices).swapaxes(1, 2)).to(normals)
        lengths = normals.norm(dim=-1, keepdim=True) / turned.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        features = features.clone()
        features[..., own] = turned * lengths
        return features

    def normalize(self, points: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(n, M, A)` as the processor centres and scales."""
        return normalize_points(points, self.processor.center, self.processor.scale, mask)

    def _mix(
        self, values: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor, generators: Generators
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Clouds whose last points are those of their neighbour in the batch, 0 and 1, 2 and 3, and so on."""
        alpha = self.settings.mix_alpha
        shares = torch.tensor([rng.beta(alpha, alpha) for rng in generators])
        others = neighbours(values)
        of_others = neighbours(lengths)
        shares = shares.to(lengths.device)
        # Whole points of either cloud, at least one of its own.
        kept = (lengths - (shares * lengths).long()).clamp(min=1)
        taken = torch.minimum((shares * of_others).long(), lengths - kept)
        place = torch.arange(values.shape[1], device=values.device)
        own = place < kept[:, None]
        # The points come in the order that they were stored or chosen in, so those of the neighbour are its first.
        source = (place - kept[:, None]).clamp(min=0)[..., None].expand_as(values)
        mixed = torch.where(own[..., None], values, others.gather(1, source))
        lengths = kept + taken
        mixed = mixed * shown(lengths, mixed.shape[1])[..., None]
        share = (taken / lengths).to(targets)[:, None]
        return mixed, lengths, torch.lerp(targets, neighbours(targets), share)


def draw_matrix(settings: PointAugmentation, axes: int, rng: np.random.Generator) -> np.ndarray:
    """`(A, A)` float64 that coordinates are multiplied with, as rows: mirrored, rotated, tilted and stretched."""
    matrix = np.diag([-1.0 if axis in settings.mirror and rng.random() < 0.5 else 1.0 for axis in range(axes)])
    if settings.rotation:
        plane = [axis for axis in range(axes) if axis != settings.vertical_axis or axes == 2][:2]
        matrix = matrix @ rotation_in_plane(axes, *plane, rng.uniform(-settings.rotation, settings.rotation))
    if settings.tilt:
        axis = rng.standard_normal(3)
        matrix = matrix @ rotation_about(axis, rng.uniform(-settings.tilt, settings.tilt))
    if settings.stretch:
        matrix = matrix * rng.uniform(1 - settings.stretch, 1 + settings.stretch, axes)
    return matrix


def rotation_in_plane(axes: int, first: int, second: int, degrees: float) -> np.ndarray:
    """`(A, A)`: turns from axis `first` towards axis `second`, for coordinates as rows."""
    angle, matrix = np.deg2rad(degrees), np.eye(axes)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = np.sin(angle), -np.sin(angle)
    return matrix


def rotation_about(axis: np.ndarray, degrees: float) -> np.ndarray:
    """`(3, 3)`: turns about an axis `(3,)` in space, for coordinates as rows (Rodrigues' formula)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.deg2rad(degrees)
    return (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross).T


def describe_point_augmentation(settings: PointAugmentation) -> str:
    """What happens to each training cloud, as the end of a list; empty if nothing does."""
    kinds = {
        f"{settings.num_points} points of each cloud, others at each step": settings.num_points,
        f"clouds mirrored along axes {', '.join(map(str, settings.mirror))}": settings.mirror,
        f"rotation by up to {settings.rotation:g} degrees about axis {settings.vertical_axis}": settings.rotation,
        f"tilts of up to {settings.tilt:g} degrees": settings.tilt,
        f"axes stretched by up to {100 * settings.stretch:g} %": settings.stretch,
        f"coordinates of points scaled by up to {100 * settings.point_scale:g} %": settings.point_scale,
        f"points jittered by {settings.jitter:g}": settings.jitter,
        f"clouds shifted by up to {settings.shift:g}": settings.shift,
        f"points of pairs of clouds mixed ({settings.mix_alpha:g})": settings.mixes,
    }
    return listed_changes(kinds)


def _noise(generators: Generators, lengths: torch.Tensor, points: torch.Tensor, kind: str) -> torch.Tensor:
    """Numbers for each coordinate of points `(n, M, A)`; as many are drawn as a cloud has, however long the padding."""
    noise = np.zeros(points.shape, np.float32)
    for row, rng, length in zip(noise, generators, lengths.tolist(), strict=True):
        row[:length] = getattr(rng, kind)((length, points.shape[2]), np.float32)
    return torch.from_numpy(noise).to(points)


def _chosen(
    values: torch.Tensor, lengths: torch.Tensor, most: int, generators: Generators
) -> tuple[torch.Tensor, torch.Tensor]:
    """Some points of each cloud by chance, `(n, at most `most`, ..)`, and how many."""
    chosen = [rng.permutation(length)[:most] for rng, length in zip(generators, lengths.tolist(), strict=True)]
    index = padded(chosen)
    rows = index["values"].to(values.device)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, rows), index["lengths"].to(lengths.device)
