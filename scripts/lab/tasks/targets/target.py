"""What labels are, how far answers are from them, and how answers are scored.

Answers are logits `(n, L)` with `L` the model's `num_labels`. The three problem types are those of transformers'
`config.problem_type`, and losses are the ones that a model returns for `labels=`.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.errors import UserError, listed
from lab.recipe import Recipe
from lab.scoring.report import Details

Scores = dict[str, float]
Weights = dict[str, torch.Tensor]


class Target(ABC):
    """Labels of one problem type.

    Attributes:
        best: the score by which the best epoch is chosen; between equal ones the lower loss decides.
        kind: what labels are, to begin a list of their names with.
        wrong: which answers `describe` does not call right.
        confident: an answer comes with how sure the model is of it.
        shown_answers: how many answers of a pipeline a model card's program prints, in Python.
        parts_tasks: logits are those of several tasks, which a pipeline takes one at a time.
        answer_in_code: Python that turns `logits` `(1, L)` of `model` into an answer, for the same programs.
        class_weights: `(L,)`, what each class counts in the loss; None counts all alike.
    """

    best: str
    kind: str
    wrong: str = "wrong ones"
    confident: bool = True
    shown_answers: str
    answer_in_code: str
    parts_tasks: bool = False

    def __init__(self, recipe: Recipe, tasks: dict[str, int] | None = None):
        """
        Args:
            tasks: of a model that has several, each with the number of its classes.
        """
        self.label_smoothing = recipe.optimization.label_smoothing
        self.wanted_weights = recipe.optimization.class_weights
        self.class_weights: torch.Tensor | None = None

    @abstractmethod
    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`(b, L), labels -> ()`: what training makes small."""

    @abstractmethod
    def scores(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """`(n, L)` float32 and labels of a whole split to its scores; `loss` is among them, without weights."""

    def blendable(self, labels: torch.Tensor, num_labels: int) -> torch.Tensor:
        """Labels as floats `(b, L)`, of which a mean makes sense, as mixup needs."""
        return labels.float()

    def fit(self, labels: np.ndarray, names: list[str]):
        """Take what depends on the labels to train on: class weights.

        Raises:
            UserError: the recipe's class weights do not fit them.
        """
        if self.wanted_weights is None:
            return
        if self.wanted_weights == "balanced":
            self.class_weights = torch.from_numpy(self.balance(labels, len(names))).float()
        elif not _are_weights(self.wanted_weights):
            raise UserError(
                f"optimization.class_weights={self.wanted_weights}: "
                "expected balanced, a list of numbers from 0 up, or null"
            )
        elif len(self.wanted_weights) != len(names):
            raise UserError(
                f"optimization.class_weights has {len(self.wanted_weights)} numbers: expected {len(names)}, one for "
                f"each of {listed(names)}"
            )
        else:
            self.class_weights = torch.tensor(self.wanted_weights, dtype=torch.float32)

    @abstractmethod
    def mean(self, logits: list[torch.Tensor]) -> torch.Tensor:
        """The answer `(b, L)` that several looks at the same samples give together."""

    def all_scores(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """`scores`, and what is worth knowing once."""
        return self.scores(logits, labels)

    @abstractmethod
    def details(self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str], samples: str) -> Details:
        """Draw and tabulate into `folder` what an evaluation says beyond scores."""

    @abstractmethod
    def illustrate(
        self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str]
    ) -> list[tuple[str, str]]:
        """Draw into `folder` what a model card shows of answers; returns caption and file of each picture."""

    @abstractmethod
    def distances(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """`(n,)`: how far each answer is from its label, in the terms of the loss."""

    @abstractmethod
    def describe(
        self, logits: np.ndarray, labels: np.ndarray, chosen: np.ndarray, names: list[str]
    ) -> list[tuple[str, bool]]:
        """The answers to some samples in words, each with what is right where it is wrong, and whether it is right.

        Args:
            logits: `(n, L)`, of all samples of a split.
            labels: theirs.
            chosen: `(k,)`, which samples.
        """

    @abstractmethod
    def purpose(self, inputs: str, num_labels: int) -> str:
        """What a model does with its inputs, to end a sentence with."""

    @abstractmethod
    def title(self, label: np.ndarray, names: list[str]) -> str:
        """A label in words."""

    @abstractmethod
    def example(self, size: int, num_labels: int, device: torch.device | str) -> torch.Tensor:
        """Labels of `size` samples, whatever they are."""

    @abstractmethod
    def weakness(self, logits: np.ndarray, labels: np.ndarray, names: list[str]) -> str:
        """Where a model is worst, as a sentence for its card."""

    def in_units(self, logits: torch.Tensor) -> torch.Tensor:
        """What the model answers while it trains, in the units of the labels."""
        return logits

    def begin(self, weights: Weights, head: str) -> Weights:
        """The weights of a finished model as `loss` expects them; the reverse of `finish`.

        Args:
            head: name of the last linear layer.
        """
        return weights

    def finish(self, weights: Weights, head: str) -> Weights:
        """Trained weights as those of a model that answers in the units of the labels."""
        return weights

    @abstractmethod
    def balance(self, labels: np.ndarray, num_labels: int) -> np.ndarray:
        """`(L,)`: weights with which all classes count alike, whatever their number of samples."""

    def _weights(self, like: torch.Tensor) -> torch.Tensor | None:
        return None if self.class_weights is None else self.class_weights.to(like)


def are(names: list[str]) -> str:
    """Such as `is cat` or `are cat, dog`, to end a sentence with."""
    return f"{'is' if len(names) == 1 else 'are'} {listed(names)}"


def _are_weights(wanted: Any) -> bool:
    return isinstance(wanted, list) and all(isinstance(weight, int | float) and weight >= 0 for weight in wanted)
