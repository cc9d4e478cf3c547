"""Random orders in which classes keep their proportions."""

import numpy as np


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order of `labels` `(n,)` of which every stretch has the classes in their overall proportions.

    Of labels that are not one class each, `(n, L)`, it is any random order.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim > 1:
        return order
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(position, kind="stable")]
