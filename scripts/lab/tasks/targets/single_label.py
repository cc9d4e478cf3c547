"""One class a sample."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax as _softmax
from sklearn.utils.class_weight import compute_class_weight

from lab.errors import counted
from lab.scoring.details import single_label_details
from lab.scoring.pictures import draw_confusions
from lab.scoring.report import Details
from lab.scoring.scores import TopKAccuracy, calibrate, confusions
from lab.tasks.targets.target import Scores, Target, are


class SingleLabel(Target):
    """`(n,)` int64: the one class of each sample. Cross-entropy; accuracy decides."""

    best = "accuracy"
    kind = "Classes"
    shown_answers = "3"
    answer_in_code = "model.config.id2label[logits.argmax(dim=-1).item()]"

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Labels are classes `(b,)`, or probabilities `(b, L)` where samples were mixed.

        A weight is that of a whole sample, of mixed ones the mean by their shares: one of each term of the sum over
        classes, as torch has it, would smooth labels towards the classes of large weights. Losses are divided by the
        number of samples, not by the sum of their weights, so that a batch that is cut into parts trains the same.
        """
        weights, smoothing = self._weights(logits), self.label_smoothing
        if weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        of_samples = labels.to(weights) @ weights if labels.is_floating_point() else weights[labels]
        return (losses * of_samples).mean()

    def blendable(self, labels: torch.Tensor, num_labels: int) -> torch.Tensor:
        return F.one_hot(labels, num_labels).float()

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """`accuracy`, `top_5_accuracy` (fewer where there are fewer classes) and the mean cross-entropy in nats."""
        answers = torch.from_numpy(logits)
        likeliest = answers.topk(min(5, logits.shape[1])).indices.numpy()
        loss = F.cross_entropy(answers, torch.from_numpy(labels), reduction="none").mean(dtype=torch.float64)
        return {
            **TopKAccuracy(k=likeliest.shape[1]).compute(predictions=likeliest, references=labels),
            "loss": loss.item(),
        }

    def mean(self, logits: list[torch.Tensor]) -> torch.Tensor:
        """Logarithms of mean probabilities."""
        return torch.stack([F.log_softmax(one, dim=-1) for one in logits]).logsumexp(dim=0) - math.log(len(logits))

    def all_scores(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """`scores`, and the expected calibration error."""
        probabilities = softmax(logits)
        right = probabilities.argmax(axis=1) == labels
        error = calibrate(probabilities.max(axis=1), right).error
        return {**self.scores(logits, labels), "expected_calibration_error": error}

    def details(self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str], samples: str) -> Details:
        return single_label_details(folder, labels, softmax(logits), names, samples)

    def illustrate(
        self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str]
    ) -> list[tuple[str, str]]:
        draw_confusions(confusions(labels, logits.argmax(axis=1), len(names)), names, folder / "confusions.png")
        return [("Confusion matrix of the test samples", "confusions.png")]

    def distances(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none").numpy()

    def describe(
        self, logits: np.ndarray, labels: np.ndarray, chosen: np.ndarray, names: list[str]
    ) -> list[tuple[str, bool]]:
        described = []
        for probabilities, label in zip(softmax(logits[chosen]), labels[chosen], strict=True):
            answer = probabilities.argmax()
            text, right = f"{names[answer]}, {100 * probabilities[answer]:.0f} %", bool(answer == label)
            described.append((text if right else f"{text}\nis {names[label]}", right))
        return described

    def purpose(self, inputs: str, num_labels: int) -> str:
        return f"classifies {inputs} into {counted(num_labels, 'class', 'classes')}"

    def title(self, label: np.ndarray, names: list[str]) -> str:
        return names[label]

    def example(self, size: int, num_labels: int, device: torch.device | str) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.long, device=device)

    def weakness(self, logits: np.ndarray, labels: np.ndarray, names: list[str]) -> str:
        matrix = confusions(labels, logits.argmax(axis=1), len(names))
        counts, wrong = matrix.sum(axis=1), matrix - np.diag(matrix.diagonal())
        if not wrong.any():
            return "No test sample was taken for one of another class."
        recalls = np.where(counts > 0, matrix.diagonal() / counts.clip(min=1), 1.0)  # without samples none is missed
        missed = [names[label] for label in np.flatnonzero(recalls == recalls.min())]
        mistakes = [f"{names[row]} taken for {names[column]}" for row, column in np.argwhere(wrong == wrong.max())]
        found = f"{100 * recalls.min():.1f} % found{'' if len(missed) == 1 else ' of each'}"
        return (
            f"The {'class that is' if len(missed) == 1 else 'classes that are'} most often missed "
            f"{are(missed)} ({found}), and the most frequent "
            f"{'mistake' if len(mistakes) == 1 else 'mistakes'} {are(mistakes)}."
        )

    def balance(self, labels: np.ndarray, num_labels: int) -> np.ndarray:
        weights = np.ones(num_labels)
        found = np.unique(labels)  # a class without samples weighs what it likes
        weights[found] = compute_class_weight("balanced", classes=found, y=labels)
        return weights


def softmax(logits: np.ndarray) -> np.ndarray:
    """`(n, L) -> (n, L)`: probabilities of classes that exclude each other."""
    return _softmax(logits, axis=-1)
