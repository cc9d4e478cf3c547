"""What all tasks share whose samples carry labels: classes, several classes, or numbers."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lab.data.splits import Splits
from lab.errors import UserError
from lab.recipe import Recipe
from lab.scoring.measures import measure_of
from lab.scoring.report import write_evaluation
from lab.tasks.targets import TARGETS
from lab.tasks.task import Judged, Scores, Task


class LabelledTask(Task):
    """A task whose model gives logits `(b, num_labels)`, with labels as `config.problem_type` says.

    Attributes:
        target: what labels are and how answers are scored.
    """

    def __init__(self, recipe: Recipe, config: Any = None, processor: Any = None):
        super().__init__(recipe, config, processor)
        problem_type = self.config.problem_type or "single_label_classification"
        self.target = TARGETS[problem_type](recipe)
        self.best = self.target.best

    @property
    def label_names(self) -> list[str]:
        """What the labels are called, in the order of the model's logits."""
        return [self.config.id2label[label] for label in range(self.config.num_labels)]

    def fit(self, splits: Splits):
        """Take names of labels, and what losses must know, from the data.

        Raises:
            UserError: the model has another number of labels, or class weights do not fit.
        """
        name_labels(self.config, splits.label_names)
        if hasattr(splits.train, "labels"):
            self.target.fit(splits.train.labels, splits.label_names)
        elif self.recipe.optimization.class_weights is not None:
            raise UserError("optimization.class_weights: labels of a stream are not known before; set it to null")

    def load_split(self, split: str, by_number: bool = False) -> Dataset:
        dataset, names = self.read_split(split)
        numbers = match_labels(names, self.label_names, by_number)
        dataset.labels = self.target.renumber(dataset.labels, numbers, self.config.num_labels)
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
        self._require_numbers(judged)
        return self.target.scores(*_both(judged))

    def all_scores(self, judged: Judged) -> Scores:
        self._require_numbers(judged)
        return self.target.all_scores(*_both(judged))

    def _require_numbers(self, judged: Judged):
        broken = ~np.isfinite(judged["logits"]).all(axis=1)
        if broken.any():
            raise UserError(
                f"answers to {broken.sum()} of {len(broken)} {self.samples} are not finite numbers: try another "
                "--dtype, such as float32, or lower optimization.learning_rate"
            )

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
        names = self.label_names
        listed = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
        return {
            "details": f"{self.target.kind}: {listed}.",
            "weakness": self.target.weakness(*_both(judged), names),
            "tags": ["perceiver", "custom_code", "arxiv:2103.03206"],
            "metric": measure_of(self.best).hub_name,
        }


def match_labels(of_data: list[str], of_model: list[str], by_number: bool) -> np.ndarray:
    """`(len(of_data),)` int64: the model's number for each class of the data, found by name where both have names.

    Raises:
        UserError: the data has a class that the model has not.
    """
    numbered = [str(number) for number in range(len(of_data))]
    unnamed = [f"LABEL_{number}" for number in range(len(of_model))]
    if by_number or of_data in (of_model, numbered) or of_model == unnamed:
        if len(of_data) > len(of_model):
            raise UserError(f"the data has {len(of_data)} classes, but the model knows {len(of_model)}")
        return np.arange(len(of_data))
    times = Counter(of_model)
    known = {name: number for number, name in enumerate(of_model) if times[name] == 1}
    unknown = [name for name in of_data if name not in known]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} and {len(unknown) - 1} more classes of the data are not among those of the model "
            f"({', '.join(of_model[:3])}, ...): choose other --data, or --match_by_number if only the names differ"
        )
    return np.array([known[name] for name in of_data])


_MOST_NAMES = 20


def _both(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    return judged["logits"], judged["labels"]


def name_labels(config: Any, names: list[str]):
    """Write the names of the data's labels into a model's configuration.

    Raises:
        UserError: it has another number of labels.
    """
    if config.num_labels != len(names):
        raise UserError(
            f"model.num_labels={config.num_labels}, but the data has {len(names)} labels "
            f"({', '.join(names[:5])}{', …' if len(names) > 5 else ''}): set it to {len(names)}"
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: label for label, name in config.id2label.items()}
