"""How well a classifier of clouds of points does when clouds are turned, and when points are missing."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from lab.augment.points import rotation_in_plane
from lab.data.ragged import RaggedDataset
from lab.looking.style import COLOURS, MARKERS, tidy
from lab.tasks.labelled import LabelledTask
from lab.tasks.point_cloud_classification import PointCloudClassification
from lab.tasks.task import Arguments, concatenate

ANGLES = (0, 10, 20, 30, 45, 60, 90, 135, 180)
KEPT = (1.0, 0.75, 0.5, 0.25, 0.125, 0.0625, 0.03125)


@dataclasses.dataclass
class Curve:
    """Accuracies in [0, 1] at some places."""

    name: str
    places: list[float]
    accuracies: list[float]


def rotation_curves(
    task: PointCloudClassification,
    model: PreTrainedModel,
    dataset: RaggedDataset,
    batch_size: int,
    angles: Sequence[float] = ANGLES,
) -> list[Curve]:
    """Accuracy by the angle in degrees by which each cloud is turned, about each of three axes."""
    curves = []
    as_they_are = accuracy(task, model, dataset, batch_size, lambda given: given) if 0 in angles else None
    for axis, name in enumerate("xyz"):
        plane = [other for other in range(3) if other != axis]
        found = []
        for angle in tqdm(angles, desc=f"turned about {name}", disable=None, leave=False):
            matrix = torch.from_numpy(rotation_in_plane(3, *plane, angle)).float()
            turned = functools.partial(task.turned, matrix=matrix)
            found.append(accuracy(task, model, dataset, batch_size, turned) if angle else as_they_are)
        curves.append(Curve(f"about {name}", list(angles), found))
    return curves


def missing_points_curve(
    task: PointCloudClassification,
    model: PreTrainedModel,
    dataset: RaggedDataset,
    batch_size: int,
    kept: Sequence[float] = KEPT,
) -> Curve:
    """Accuracy by the share of points that are kept, by chance, at least one of each cloud; centre and size stay."""
    found = []
    for share in tqdm(kept, desc="missing points", disable=None, leave=False):
        rng = np.random.default_rng(0)
        found.append(
            accuracy(task, model, dataset, batch_size, lambda given, of=share, by=rng: _thinned(given, of, by))
        )
    return Curve("points kept", list(kept), found)


def accuracy(
    task: PointCloudClassification,
    model: PreTrainedModel,
    dataset: RaggedDataset,
    batch_size: int,
    change: Callable[[Arguments], Arguments],
) -> float:
    """Accuracy on clouds that were changed."""
    batches = (task.inputs(dataset.__getitems__(list(rows))) for rows in rows_of_batches(dataset, batch_size))
    return accuracy_of(task, model, ((change(arguments), targets) for arguments, targets in batches))


@torch.no_grad()
def accuracy_of(task: LabelledTask, model: PreTrainedModel, batches: Iterable[tuple[Arguments, Any]]) -> float:
    """Accuracy on batches of the model's arguments and what is right."""
    return task.scores(concatenate([task.judge([model(**given)], targets) for given, targets in batches]))["accuracy"]


def rows_of_batches(dataset: RaggedDataset, batch_size: int) -> Iterator[range]:
    """All rows, a batch at a time."""
    for first in range(0, len(dataset), batch_size):
        yield range(first, min(first + batch_size, len(dataset)))


def draw_robustness(rotations: Sequence[Curve], missing: Curve) -> Figure:
    """Both as curves, side by side."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for curve, colour, marker in zip(rotations, COLOURS, MARKERS, strict=False):
        left.plot(curve.places, 100 * np.array(curve.accuracies), color=colour, marker=marker, label=curve.name)
    left.set(xlabel="degrees by which clouds are turned", ylabel="accuracy in %", ylim=(0, 100))
    left.set_xticks([0, 45, 90, 135, 180])
    left.legend(frameon=False)
    right.plot(missing.places, 100 * np.array(missing.accuracies), color=COLOURS[0], marker=MARKERS[0])
    right.set_xscale("log", base=2)
    right.set_xticks(missing.places, [f"{100 * share:.3g}" for share in missing.places])
    right.set_xlabel("% of the points kept")
    tidy(left, right)
    return figure


def _thinned(arguments: Arguments, share: float, rng: np.random.Generator) -> Arguments:
    mask = arguments["attention_mask"]
    order = torch.from_numpy(rng.random(tuple(mask.shape))).to(mask.device).masked_fill(~mask, 2.0)
    counts = (share * mask.sum(dim=1, keepdim=True)).ceil().clamp(min=1)
    return arguments | {"attention_mask": mask & (order.argsort(dim=1).argsort(dim=1) < counts)}
