"""Scores beyond accuracy: of every class, and of the confidence that a model claims."""

from dataclasses import dataclass

import datasets
import evaluate
import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

BINS = 15  # as in the tables of Guo et al.


@dataclass
class Calibration:
    """How confidence and accuracy agree.

    Attributes:
        error: the expected calibration error, from 0 to 1.
        counts: `(bins,)`, samples in each bin of confidence.
        confidences: `(bins,)`, their mean confidence; NaN where there are none.
        accuracies: `(bins,)`, the share of them that is right; NaN where there are none.
    """

    error: float
    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray


def calibrate(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Calibration:
    """The expected calibration error of Guo et al. 2017, https://arxiv.org/abs/1706.04599, equations 2 to 5.

    Bin `m` of `M` has the samples whose confidence is in `((m - 1) / M, m / M]`; the error is the mean over samples of
    the distance between accuracy and mean confidence of their bin.

    Args:
        confidence: `(n,)`, probabilities of the likeliest classes.
        right: `(n,)` bool.
    """
    confidence = confidence.astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts, sums, hits = (np.bincount(index, weights, bins) for weights in (None, confidence, right))
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins
        return Calibration(float(np.abs(hits - sums).sum() / len(index)), counts, sums / counts, hits / counts)


def class_table(labels: np.ndarray, predicted: np.ndarray, names: list[str]) -> list[dict]:
    """For each class its `name`, `precision`, `recall`, `f1` and number of `samples`.

    A score is None where it is not defined: precision of a class that is never predicted, recall of one that no sample
    has.
    """
    columns = precision_recall_fscore_support(labels, predicted, labels=range(len(names)), zero_division=np.nan)
    return [
        {
            "name": name,
            **{
                score: None if np.isnan(value) else float(value)
                for score, value in zip(("precision", "recall", "f1"), scores, strict=True)
            },
            "samples": int(samples),
        }
        for name, *scores, samples in zip(names, *columns, strict=True)
    ]


def confusions(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """`(classes, classes)` counts; rows are what samples are, columns what they are taken for."""
    return confusion_matrix(labels, predicted, labels=range(classes))


class TopKAccuracy(evaluate.Metric):
    """Share of samples whose label is the likeliest class, and whose label is among the `k` likeliest.

    Predictions are `(n, k)` class indices, likeliest first; references are `(n,)` labels. `compute` returns `accuracy`
    and, for k above 1, `top_k_accuracy` with the number in place of `k`, all from 0 to 1.
    """

    def __init__(self, k: int, **kwargs):
        self.k = k
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64"), length=self.k),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        hits = np.asarray(predictions) == np.asarray(references)[:, None]
        scores = {"accuracy": float(hits[:, 0].mean())}
        if self.k > 1:
            scores[f"top_{self.k}_accuracy"] = float(hits.any(axis=1).mean())
        return scores
