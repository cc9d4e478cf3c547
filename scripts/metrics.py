"""Accuracy and top-k accuracy as a module of `evaluate`, defined here because `evaluate.load` needs the network."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import datasets
import numpy as np


def _import_package(name: str) -> ModuleType:
    """The installed package of that name, also where a command of scripts/ that is called the same comes first."""
    scripts, searched = Path(__file__).resolve().parent, sys.path
    sys.path = [entry for entry in searched if Path(entry).resolve() != scripts]
    try:
        return importlib.import_module(name)
    finally:
        sys.path = searched


evaluate = _import_package("evaluate")


class TopKAccuracy(evaluate.Metric):
    """Share of images whose label is the likeliest class, and whose label is among the `k` likeliest.

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
