"""Labels of one split, or of a model, as those of another: matched by name."""

from collections import Counter

import numpy as np


def match_names(of_data: list[str], wanted: list[str], by_number: bool = False) -> np.ndarray:
    """Return the place among the wanted names of each name of the data, or -1.

    They are matched by name where both have names, otherwise by number: bare numbers of the data, unless a class of
    the model is called by another number than its own, and a model whose classes are called `LABEL_0` and so on.
    """
    times = Counter(wanted)
    place = {name: number for number, name in enumerate(wanted) if times[name] == 1}
    numbered = [str(number) for number in range(len(of_data))]
    unnamed = [f"LABEL_{number}" for number in range(len(wanted))]
    # Labels 1 and 2 are those of classes called 1, 2 and other, and not the second and the third of them.
    misnumbered = any(name.removeprefix("-").isdecimal() and int(name) != number for number, name in enumerate(wanted))
    bare = of_data == numbered and not misnumbered
    if by_number or bare or of_data == wanted or wanted == unnamed:
        numbers = np.arange(len(of_data))
        return np.where(numbers < len(wanted), numbers, -1)
    return np.array([place.get(name, -1) for name in of_data], dtype=int)


def used_labels(labels: np.ndarray) -> np.ndarray:
    """Numbers of the classes that some sample has, of labels `(n,)` or `(n, L)`."""
    return np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(axis=0))


def renumber(labels: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
    """Labels with class or column `i` at place `numbers[i]` of `count`; those at -1 are dropped."""
    if labels.ndim == 1:
        return numbers[labels]
    placed = np.zeros((len(labels), count), labels.dtype)
    placed[:, numbers[numbers >= 0]] = labels[:, numbers >= 0]
    return placed
