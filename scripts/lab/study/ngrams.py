"""Bits per byte of n-gram models: counts of runs of bytes, each length smoothed by the one below it (Witten and Bell).

With `T` different bytes behind a context that was seen `c` times, `P_n(b | context) = (c(context b) + T P_(n-1)(b)) /
(c + T)`, and below the shortest context all bytes are alike.
"""

import numpy as np

BYTES = 256
MOST = 8  # bytes that fit into a number of 64 bits


class NgramModel:
    """Chances of a byte by the `order - 1` bytes before it.

    Args:
        text: `(L,)` uint8.
    """

    def __init__(self, text: np.ndarray, order: int):
        if not 1 <= order <= MOST:
            raise ValueError(f"order={order}: expected 1 to {MOST}")
        self.order, self.counts, self.contexts = order, [], []
        for length in range(1, order + 1):
            runs, counts = np.unique(_runs(text, length), return_counts=True)
            self.counts.append((runs, counts))
            contexts, first = np.unique(runs >> np.uint64(8), return_index=True)
            different = np.diff([*first, len(runs)])
            self.contexts.append((contexts, np.add.reduceat(counts, first), different))

    def chances(self, before: np.ndarray) -> np.ndarray:
        """`(n, order - 1) -> (n, 256)`: chances of each byte, given the bytes before it."""
        found = np.full((len(before), BYTES), 1 / BYTES)
        for length in range(1, self.order + 1):
            context = _joined(before[:, before.shape[1] - length + 1 :])
            seen, different = self._of_context(context, length)
            runs = (context[:, None] << np.uint64(8)) + np.arange(BYTES, dtype=np.uint64)
            counts = _looked_up(*self.counts[length - 1], runs)
            known = seen > 0
            found[known] = (counts + different[:, None] * found)[known] / (seen + different)[known, None]
        return found

    def _of_context(self, context: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        contexts, seen, different = self.contexts[length - 1]
        return _looked_up(contexts, seen, context), _looked_up(contexts, different, context)


def bits_of_both_sides(text: np.ndarray, of: np.ndarray, places: np.ndarray, order: int) -> tuple[float, float]:
    """Bits per byte at some places of a text: by the bytes before each, and by those before and behind it.

    Args:
        text: `(L,)` uint8, what is counted.
        of: `(M,)` uint8, what is asked for.
        places: `(n,)`, where in it.
    """
    forward, backward = NgramModel(text, order), NgramModel(text[::-1], order)
    before = forward.chances(_before(of, places, order))
    behind = backward.chances(_before(of[::-1], len(of) - 1 - places, order))
    alone = NgramModel(text, 1).chances(np.zeros((1, 0), np.uint8))
    # As if both sides were independent of each other, given the byte.
    both = before * behind / alone
    both /= both.sum(axis=1, keepdims=True)
    rows = np.arange(len(places))
    return tuple(float(-np.log2(chances[rows, of[places]]).mean()) for chances in (before, both))


def _before(text: np.ndarray, places: np.ndarray, order: int) -> np.ndarray:
    """`(n, order - 1)`: the bytes before places; before the beginning there are zeros."""
    padded = np.concatenate([np.zeros(order - 1, np.uint8), text])
    return padded[places[:, None] + np.arange(order - 1)]


def _runs(text: np.ndarray, length: int) -> np.ndarray:
    return _joined(np.lib.stride_tricks.sliding_window_view(text, length))


def _joined(rows: np.ndarray) -> np.ndarray:
    """`(n, length) -> (n,)` uint64."""
    joined = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        joined = (joined << np.uint64(8)) + column
    return joined


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of sorted keys, 0 for others."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
