"""Numbers to come near."""

from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import (
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)

from lab.errors import UserError
from lab.recipe import Recipe
from lab.scoring.details import regression_details
from lab.scoring.pictures import draw_answers
from lab.scoring.report import Details
from lab.tasks.targets.target import Scores, Target, Weights, are


class Regression(Target):
    """`(n, L)` floats: numbers to come near. Mean squared error; R² decides, in which each number counts alike.

    A recipe must not depend on the units of the labels. While it trains, the model therefore answers in deviations from
    the mean of the training labels, in units of their standard deviation. At the end both move into its last layer
    (`finish`), so that a saved model answers in the labels' own units.
    """

    best = "r2"
    kind = "Numbers"
    wrong = "those farther off than a standard deviation of the labels"
    confident = False
    shown_answers = "classify.model.config.num_labels"
    answer_in_code = "dict(zip(model.config.id2label.values(), logits[0].tolist()))"

    def __init__(self, recipe: Recipe, tasks: dict[str, int] | None = None):
        super().__init__(recipe, tasks)
        self.label_mean, self.label_deviation = torch.zeros(()), torch.ones(())  # a finished model has them inside

    def fit(self, labels: np.ndarray, names: list[str]):
        super().fit(labels, names)
        if self.label_smoothing:
            raise UserError(
                f"optimization.label_smoothing={self.label_smoothing}: a regression has no classes to smooth; "
                "set it to 0"
            )
        self.label_mean = torch.from_numpy(labels.mean(axis=0)).float()
        self.label_deviation = torch.from_numpy(_deviation(labels)).float()

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        errors = (logits - (labels.to(logits) - self.label_mean.to(logits)) / self.label_deviation.to(logits)).square()
        weights = self._weights(logits)
        return (errors if weights is None else errors * weights).mean()

    def in_units(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * self.label_deviation.to(logits) + self.label_mean.to(logits)

    def begin(self, weights: Weights, head: str) -> Weights:
        weight, bias = weights[f"{head}.weight"], weights[f"{head}.bias"]
        mean, deviation = self.label_mean.to(bias), self.label_deviation.to(bias)
        return weights | {f"{head}.weight": weight / deviation[:, None], f"{head}.bias": (bias - mean) / deviation}

    def finish(self, weights: Weights, head: str) -> Weights:
        weight, bias = weights[f"{head}.weight"], weights[f"{head}.bias"]
        return weights | {
            f"{head}.weight": weight * self.label_deviation[:, None].to(bias),
            f"{head}.bias": self.in_units(bias),
        }

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """`mean_squared_error`, `mean_absolute_error` and `r2`, each a mean over the numbers; `loss` is the first."""
        error = float(mean_squared_error(labels, logits))
        return {
            "mean_squared_error": error,
            "mean_absolute_error": float(mean_absolute_error(labels, logits)),
            "r2": float(r2_score(labels, logits)) if len(labels) > 1 else 0.0,
            "loss": error,
        }

    def mean(self, logits: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(logits).mean(dim=0)

    def details(self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str], samples: str) -> Details:
        return regression_details(folder, labels, logits, names)

    def illustrate(
        self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str]
    ) -> list[tuple[str, str]]:
        draw_answers(labels, logits, names, folder / "answers.png")
        return [("Answers against labels of the test samples", "answers.png")]

    def distances(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """In standard deviations of the labels, squared, so that each number counts alike."""
        return (((logits - labels) / _deviation(labels)) ** 2).mean(axis=1)

    def describe(
        self, logits: np.ndarray, labels: np.ndarray, chosen: np.ndarray, names: list[str]
    ) -> list[tuple[str, bool]]:
        """An answer is right if each number is nearer to its label than one standard deviation of the labels."""
        near = (np.abs(logits - labels) <= _deviation(labels)).all(axis=1)
        texts = [f"{self.title(logits[row], names)}\nis {self.title(labels[row], names)}" for row in chosen]
        return list(zip(texts, near[chosen].tolist(), strict=True))

    def purpose(self, inputs: str, num_labels: int) -> str:
        return f"answers {inputs} with {'a number' if num_labels == 1 else f'{num_labels} numbers'}"

    def title(self, label: np.ndarray, names: list[str]) -> str:
        return ", ".join(f"{value:.3g}" for value in label)

    def example(self, size: int, num_labels: int, device: torch.device | str) -> torch.Tensor:
        return torch.zeros(size, num_labels, device=device)

    def weakness(self, logits: np.ndarray, labels: np.ndarray, names: list[str]) -> str:
        errors = np.abs(logits - labels).mean(axis=0) / np.maximum(labels.std(axis=0), 1e-12)
        away = f"answers are {errors.max():.2f} of the labels' standard deviation away on average."
        if len(names) == 1:
            return away.capitalize()
        worst = [name for name, error in zip(names, errors, strict=True) if error == errors.max()]
        return f"The {'number that is' if len(worst) == 1 else 'numbers that are'} told worst {are(worst)}: {away}"

    def balance(self, labels: np.ndarray, num_labels: int) -> np.ndarray:
        raise UserError("optimization.class_weights=balanced: a regression has no classes; give numbers or null")


def _deviation(labels: np.ndarray) -> np.ndarray:
    """`(n, L) -> (L,)`: the standard deviation of each number, or 1 where all are equal."""
    deviation = labels.std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)
