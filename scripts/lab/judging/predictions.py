"""What a model says of a set of images, each counted once on any number of processes, and how well it does."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from lab.augment.images import Normalization
from lab.judging.scores import TopKAccuracy


@dataclass
class Predictions:
    """Of `n` images.

    Attributes:
        labels: `(n,)` int64, the right classes.
        top: `(n, k)` int64, the `k` likeliest classes, likeliest first; 5, or all where there are fewer.
        confidence: `(n,)` float32, the probability of the likeliest.
        loss: `(n,)` float32, cross-entropy in nats.
    """

    labels: np.ndarray
    top: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray

    def scores(self) -> dict[str, float]:
        """`accuracy`, `top_k_accuracy` with the number in place of `k`, and the mean `loss`."""
        metric = TopKAccuracy(k=self.top.shape[1])
        return {
            **metric.compute(predictions=self.top, references=self.labels),
            "loss": float(self.loss.mean(dtype=np.float64)),
        }


@torch.no_grad()
def predict(
    accelerator: Accelerator, model, loader: Iterable[dict], normalize: Normalization, flip: bool = False
) -> list[Predictions]:
    """Predictions for all images of a prepared loader, the same on every process.

    Args:
        loader: batches of `pixels` `(b, C, H, W)` uint8 and `labels` `(b,)`, prepared by `accelerator`.
        flip: add a second entry, in which probabilities are the mean of those for the image and for its mirror image.
    """
    model.eval()
    batches = []
    for batch in loader:
        pixels, labels = normalize(batch["pixels"]), batch["labels"]
        found = [_log_probabilities(model, pixels)]
        if flip:
            found.append(torch.logaddexp(found[0], _log_probabilities(model, pixels.flip(-1))) - math.log(2))
        found = [_predictions(log_probabilities, labels) for log_probabilities in found]
        found = accelerator.gather_for_metrics(found)  # drops what fills up the last batch
        batches.append([[tensor.cpu() for tensor in of_view] for of_view in found])
    return [
        Predictions(*(torch.cat(tensors).numpy() for tensors in zip(*of_view, strict=True)))
        for of_view in zip(*batches, strict=True)
    ]


def evaluate(accelerator: Accelerator, model, loader: Iterable[dict], normalize: Normalization) -> dict[str, float]:
    """The `scores` of a model for all images of a prepared loader."""
    return predict(accelerator, model, loader, normalize)[0].scores()


def _log_probabilities(model, pixels: torch.Tensor) -> torch.Tensor:
    return F.log_softmax(model(pixel_values=pixels).logits.float(), dim=-1)


def _predictions(log_probabilities: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    likeliest = log_probabilities.topk(min(5, log_probabilities.shape[-1]))
    confidence = likeliest.values[:, 0].exp()
    loss = F.nll_loss(log_probabilities, labels, reduction="none")
    return [labels, likeliest.indices, confidence, loss]
