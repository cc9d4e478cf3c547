"""Whether labels fit a model's answers: what torch would say of them is far from the mistake, or nothing at all."""

from typing import TYPE_CHECKING

import torch

from .inputs import check_tensor
from .paths import has_values

if TYPE_CHECKING:
    from .configuration_perceiver_study import PerceiverStudyConfig

NO_LABEL = -100
_CLASS_DTYPES = (torch.int64, torch.uint8)  # that torch's cross-entropy takes


def check_class_labels(labels: torch.Tensor | None, logits: torch.Tensor, config: "PerceiverStudyConfig"):
    """Raise a ValueError unless labels fit logits `(B, num_labels)` as `config.problem_type` says.

    Where it says nothing whole numbers are classes, and others are shares of independent classes; with a single label
    they are a number, as in transformers.

    Args:
        labels: `(B,)` or `(B, num_labels)`.
        logits: `(B, num_labels)`.
    """
    if labels is None:
        return
    check_tensor("labels", labels)
    batch, count = logits.shape
    problem, dtypes = config.problem_type, _CLASS_DTYPES
    if problem is None:
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        problem = "regression" if count == 1 else f"{'single' if whole else 'multi'}_label_classification"
        dtypes = (torch.int64,)  # transformers takes other bytes for shares
    if problem == "single_label_classification":
        if labels.shape not in ((batch,), (batch, 1)) or labels.dtype not in dtypes:
            raise _misfit(labels, f"({batch},), a class for each sample, and torch.int64")
        check_classes(labels, count)
        return
    shapes = [(batch, count)]
    if problem == "regression" and count == 1:
        shapes = [(batch,), (batch, 1)]
    fits = labels.dtype != torch.bool if problem == "regression" else labels.is_floating_point()
    if labels.shape not in shapes or not fits:
        what = "a number" if problem == "regression" else "a share from 0 to 1"
        raise _misfit(labels, f"{shapes[0]}, {what} for each answer (problem_type={problem!r}), and torch.float32")
    if has_values(labels):
        wrong = ~labels.isfinite()
        if problem == "multi_label_classification":
            wrong |= (labels < 0) | (labels > 1)
        if wrong.any():
            span = "finite numbers" if problem == "regression" else "shares from 0 to 1"
            raise ValueError(f"labels hold {float(labels[wrong][0]):g}: expected {span}.")


def share_of_loss(loss: torch.Tensor, labels: torch.Tensor, problem: str, num_items_in_batch) -> torch.Tensor:
    """A mean over labels as their share in that of a batch that comes in parts, as when `Trainer` adds up gradients.

    It adds up what parts of a batch have for a loss, and counts on the model to divide by the labels of all of them.
    transformers' cross-entropy does, but its losses of numbers and of independent classes remain means.

    Args:
        problem: `config.problem_type`.
        num_items_in_batch: as `Trainer` gives it, entries of labels other than -100 of all parts, or None.
    """
    if num_items_in_batch is None or problem == "single_label_classification":
        return loss
    return loss * ((labels != NO_LABEL).sum() / num_items_in_batch).to(loss)


def check_byte_labels(labels: torch.Tensor | None, shape: tuple[int, ...], count: int):
    """Raise a ValueError unless labels are a class below `count`, or -100, for each of the bytes that are asked for."""
    if labels is None:
        return
    check_tensor("labels", labels)
    if labels.shape != shape or labels.dtype not in _CLASS_DTYPES:
        raise _misfit(labels, f"{tuple(shape)}, a class for each byte, and torch.int64")
    check_classes(labels, count)


def _misfit(labels: torch.Tensor, expected: str) -> ValueError:
    return ValueError(f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}: expected {expected}.")


def check_classes(labels: torch.Tensor, count: int, of: str = ""):
    """Raise a ValueError unless all are a class below `count`, or -100; `of` says in the message what they are for."""
    if has_values(labels) and labels.numel():
        labels = labels.long()  # a class, or -100, may be more than a byte holds
        wrong = labels[(labels != NO_LABEL) & ((labels < 0) | (labels >= count))]
        if len(wrong):
            raise ValueError(
                f"labels hold {int(wrong[0])}{of}: expected 0 to {count - 1}, or -100 where there is none."
            )
