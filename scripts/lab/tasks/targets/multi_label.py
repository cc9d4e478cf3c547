"""Any number of classes a sample."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, f1_score

from lab.errors import UserError, counted
from lab.scoring.details import multi_label_details
from lab.scoring.pictures import draw_precision_recall
from lab.scoring.report import Details
from lab.tasks.targets.target import Scores, Target, are


class MultiLabel(Target):
    """`(n, L)` floats of 0 and 1: which classes a sample has, any number of them. Binary cross-entropy; mAP decides."""

    best = "mean_average_precision"
    kind = "Classes, of which a sample may have several"
    shown_answers = "classify.model.config.num_labels"
    answer_in_code = "[model.config.id2label[label] for label in (logits[0] > 0).nonzero().flatten().tolist()]"

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        labels = labels.float()
        smooth = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = self._weights(logits)
        # Of samples that have the class. As a pos_weight they would make much of an absence that is smoothed.
        of_labels = None if weights is None else 1 + labels * (weights - 1)
        return F.binary_cross_entropy_with_logits(logits, smooth, of_labels)

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """`mean_average_precision` and `f1` over the classes that some sample has, and the mean loss in nats.

        F1 is of answers above a probability of one half.
        """
        there = labels.any(axis=0)
        if not there.any():
            raise UserError("no sample of this split has any class: there is nothing to score")
        loss = F.binary_cross_entropy_with_logits(torch.from_numpy(logits).double(), torch.from_numpy(labels).double())
        # Class by class, as of a single column sklearn would take the absence of the class for another class.
        classes = [(labels[:, index], logits[:, index]) for index in np.flatnonzero(there)]
        return {
            "mean_average_precision": float(np.mean([average_precision_score(*one) for one in classes])),
            "f1": float(np.mean([f1_score(truth, answer > 0, zero_division=0.0) for truth, answer in classes])),
            "loss": loss.item(),
        }

    def mean(self, logits: list[torch.Tensor]) -> torch.Tensor:
        """Logits of mean probabilities."""
        return torch.stack(logits).double().sigmoid().mean(dim=0).logit(eps=1e-12).float()

    def details(self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str], samples: str) -> Details:
        return multi_label_details(folder, labels, logits, names, samples)

    def illustrate(
        self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str]
    ) -> list[tuple[str, str]]:
        draw_precision_recall(labels, logits, names, folder / "precision_recall.png")
        return [("Precision against recall on the test samples", "precision_recall.png")]

    def distances(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        answers, truth = torch.from_numpy(logits).double(), torch.from_numpy(labels).double()
        return F.binary_cross_entropy_with_logits(answers, truth, reduction="none").mean(dim=1).numpy()

    def describe(
        self, logits: np.ndarray, labels: np.ndarray, chosen: np.ndarray, names: list[str]
    ) -> list[tuple[str, bool]]:
        described = []
        for answer, label in zip(logits[chosen] > 0, labels[chosen] > 0, strict=True):
            text, right = self.title(answer, names), bool((answer == label).all())
            described.append((text if right else f"{text}\nis {self.title(label, names)}", right))
        return described

    def purpose(self, inputs: str, num_labels: int) -> str:
        return f"tells which of {counted(num_labels, 'class', 'classes')} {inputs} have"

    def title(self, label: np.ndarray, names: list[str]) -> str:
        return ", ".join(name for name, there in zip(names, label, strict=True) if there) or "none"

    def example(self, size: int, num_labels: int, device: torch.device | str) -> torch.Tensor:
        return torch.zeros(size, num_labels, device=device)

    def weakness(self, logits: np.ndarray, labels: np.ndarray, names: list[str]) -> str:
        there = np.flatnonzero(labels.any(axis=0))
        found = [average_precision_score(labels[:, index], logits[:, index]) for index in there]
        worst = [names[label] for label, precision in zip(there, found, strict=True) if precision == min(found)]
        if min(found) == 1:
            return "Each class has an average precision of 100 % on the test samples."
        told = "The class that is" if len(worst) == 1 else "The classes that are"
        return f"{told} told worst {are(worst)}, with an average precision of {100 * min(found):.1f} %."

    def balance(self, labels: np.ndarray, num_labels: int) -> np.ndarray:
        positive = labels.sum(axis=0)
        return np.where(positive > 0, (len(labels) - positive) / np.maximum(positive, 1), 1.0)
