"""What all tasks share whose samples carry labels: classes, several classes, or numbers."""

import dataclasses
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from lab.data.columns import LABEL, Column
from lab.data.label_columns import REGRESSION, SEVERAL_TASKS, SINGLE_LABEL
from lab.data.matching import match_names, renumber, used_labels
from lab.data.sources import Reading
from lab.data.splits import Splits
from lab.errors import UserError, listed, one_line
from lab.recipe import Recipe
from lab.scoring.measures import measure_of
from lab.scoring.report import write_evaluation
from lab.tasks.pretrained import Pretrained
from lab.tasks.targets import TARGETS
from lab.tasks.task import TAGS, Judged, Scores, Task
from modeling_perceiver_study.several_tasks import SEPARATOR


class LabelledTask(Task):
    """A task whose model gives logits `(b, num_labels)`, with labels as `config.problem_type` says.

    Attributes:
        columns: what it reads of each row of a dataset beside the label.
        has_modalities: whether samples have several inputs, which may be withheld from the model.
        target: what labels are and how answers are scored.
    """

    columns: ClassVar[tuple[Column, ...]] = ()
    has_modalities: ClassVar[bool] = False

    def __init__(self, recipe: Recipe, config: Any = None, processor: Any = None, pretrained: Pretrained | None = None):
        super().__init__(recipe, config, processor, pretrained)
        if recipe.data.withhold and not self.has_modalities:
            raise UserError(f"data.withhold={recipe.data.withhold}: samples of task={recipe.task} have a single input")
        # Of a head to make anew the data knows the size, unless the recipe says it.
        given = "num_labels" in recipe.model or self.config.tasks is not None
        self.takes_labels = pretrained is not None and not given
        if self.takes_labels:
            self._name_labels(pretrained.label_names)
        self.target = TARGETS[self.problem_type](recipe, self.config.tasks)
        self.best = self.target.best

    @property
    def problem_type(self) -> str:
        """What labels are for: the model's `problem_type`, one class if it has none, or one for each of its tasks.

        Raises:
            UserError: it is unknown.
        """
        if self.config.tasks is not None:
            return SEVERAL_TASKS
        problem_type = self.config.problem_type or SINGLE_LABEL
        known = [name for name in TARGETS if name != SEVERAL_TASKS]  # which model.tasks asks for
        if problem_type not in known:
            raise UserError(f"model.problem_type={problem_type}: expected one of {', '.join(known)}, or null")
        return problem_type

    @property
    def reading(self) -> Reading:
        """What is read of datasets. Columns with the names of the model's tasks hold their labels."""
        settings = self.recipe.data
        if self.config.tasks is not None:
            if settings.label_column is not None or LABEL in settings.columns:
                raise UserError("data.label_column: expected null with model.tasks, which names columns itself")
            settings = dataclasses.replace(settings, columns=settings.columns | {LABEL: list(self.config.tasks)})
            return Reading(settings, self.columns, self.problem_type, "model.tasks", self.validated)
        return Reading(settings, self.columns, self.problem_type, validated=self.validated)

    @property
    def label_names(self) -> list[str]:
        """What the labels are called, in the order of the model's logits."""
        return [self.config.id2label[label] for label in range(self.config.num_labels)]

    def fit(self, splits: Splits):
        """Take names of labels, and what losses must know, from the data.

        Raises:
            UserError: the model has another number of labels, or class weights do not fit.
        """
        self.require_labels(splits.label_names)
        self._name_labels(splits.label_names)
        if hasattr(splits.train, "labels"):
            self.target.fit(splits.train.labels, splits.label_names)
            return
        if self.recipe.optimization.class_weights == "balanced":
            raise UserError(
                "optimization.class_weights=balanced: labels of a stream are not known before; give a number for each "
                "class, or null"
            )
        self.target.fit(splits.validation.labels, splits.label_names)  # the beginning of the stream stands for it

    def _name_labels(self, names: list[str]):
        numbered = dict(enumerate(names))
        self.config.id2label, self.config.label2id = numbered, {name: label for label, name in numbered.items()}

    def require_labels(self, names: list[str]):
        """Raise a `UserError` where the data's labels are more or fewer than the model's."""
        if self.config.tasks is not None:
            found = dict(Counter(name.partition(SEPARATOR)[0] for name in names))
            if found != self.config.tasks:
                raise UserError(f"model.tasks={self.config.tasks}, but the data has classes {found}: set it to these")
        if not self.takes_labels and self.config.num_labels != len(names):
            counted = names == [str(number) for number in range(len(names))]
            gaps = ". Whole numbers count classes from 0, with those that no sample has: store others as strings"
            raise UserError(
                f"model.num_labels={self.config.num_labels}, but the data has {len(names)} labels ({listed(names)}): "
                f"set it to {len(names)}{gaps if counted else ''}"
            )

    def load_split(self, split: str, by_number: bool = False) -> Dataset:
        dataset, names = self.read_split(split)
        used = names if self.problem_type == REGRESSION else [names[label] for label in used_labels(dataset.labels)]
        if self.config.tasks is None:
            numbers = match_labels(names, self.label_names, by_number, used)
        else:
            numbers = match_labels_of_tasks(names, self.label_names, by_number, used)
        if self.problem_type == REGRESSION and len(names) != self.config.num_labels:
            raise UserError(f"the data has {len(names)} numbers, but the model gives {self.config.num_labels}")
        dataset.labels = renumber(dataset.labels, numbers, self.config.num_labels)
        return dataset

    @abstractmethod
    def read_split(self, split: str) -> tuple[Dataset, list[str]]:
        """What `load_split` returns, with labels as the data numbers them, and what the data calls them."""

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return self.target.loss(outputs.logits.float(), targets)

    def judge(self, outputs: Sequence[Any], targets: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.target.mean([one.logits.float() for one in outputs])
        return {"logits": self.target.in_units(logits), "labels": targets}

    def scores(self, judged: Judged) -> Scores:
        self.require_numbers(judged)
        return self.target.scores(*_both(judged))

    def all_scores(self, judged: Judged) -> Scores:
        self.require_numbers(judged)
        return self.target.all_scores(*_both(judged))

    def require_numbers(self, judged: Judged):
        """Raise a `UserError` unless all answers are finite numbers."""
        broken = ~np.isfinite(judged["logits"]).all(axis=1)
        if broken.any():
            raise UserError(
                f"answers to {broken.sum()} of {len(broken)} {self.samples} are not finite numbers: try another "
                "--dtype, such as float32, or lower optimization.learning_rate"
            )

    def keeps_head(self) -> bool:
        names = self.pretrained.label_names
        return names in (self.label_names, [f"LABEL_{number}" for number in range(len(names))])

    def begin(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.target.begin(weights, self.head)

    def finish(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.target.finish(weights, self.head)

    def write_report(self, folder: Path, results: dict, judged: Judged, mirrored: Judged | None):
        details = self.target.details(folder, *_both(judged), self.label_names, self.samples)
        write_evaluation(folder, results, self.samples, details, self.all_scores(mirrored) if mirrored else None)

    def illustrate(
        self, folder: Path, model: Any, dataset: Dataset, judged: Judged, show_samples: bool
    ) -> list[tuple[str, str]]:
        return self.target.illustrate(folder, *_both(judged), self.label_names)

    def card(self, judged: Judged) -> dict[str, Any]:
        names = [one_line(name) for name in self.label_names]
        listed = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
        return {
            "purpose": self.target.purpose(self.samples, self.config.num_labels),
            "details": f"{self.target.kind}: {listed}.",
            "weakness": self.target.weakness(*_both(judged), names),
            "confident": self.target.confident,
            "tags": TAGS,
            "metric": measure_of(self.best).hub_name,
        }


def match_labels(
    of_data: list[str], of_model: list[str], by_number: bool, used: Collection[str] | None = None
) -> np.ndarray:
    """`(len(of_data),)` int64: the model's number for each class of the data, or -1 for unused ones that it has not.

    Args:
        used: names that some sample has; None is all.

    Raises:
        UserError: the data uses a class that the model has not.
    """
    numbers = match_names(of_data, of_model, by_number)
    unknown = [
        name for name, number in zip(of_data, numbers, strict=True) if number < 0 and (used is None or name in used)
    ]
    if unknown and by_number:
        raise UserError(f"the data has {len(of_data)} classes, but the model knows {len(of_model)}")
    if unknown:
        raise UserError(
            f"{unknown[0]!r} and {len(unknown) - 1} more classes of the data are not among those of the model "
            f"({', '.join(of_model[:3])}, ...): choose other --data, or --match_by_number if only the names differ"
        )
    return numbers


def match_labels_of_tasks(
    of_data: list[str], of_model: list[str], by_number: bool, used: Collection[str]
) -> np.ndarray:
    """As `match_labels`, within each task, whose name all of its classes begin with."""
    numbers, owners = np.full(len(of_data), -1), [name.partition(SEPARATOR)[0] for name in of_model]
    for task in dict.fromkeys(owners):
        prefix, first = f"{task}{SEPARATOR}", owners.index(task)
        rows = [row for row, name in enumerate(of_data) if name.startswith(prefix)]
        names = [of_data[row].removeprefix(prefix) for row in rows]
        wanted = [name.removeprefix(prefix) for name, owner in zip(of_model, owners, strict=True) if owner == task]
        asked = [name.removeprefix(prefix) for name in used if name.startswith(prefix)]
        found = match_labels(names, wanted, by_number, asked)
        numbers[rows] = np.where(found < 0, -1, first + found)
    return numbers


_MOST_NAMES = 100


def _both(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    return judged["logits"], judged["labels"]
