"""Which bytes of a text are masked, to be guessed: single ones, whole words, or spans.

The collators of transformers draw from torch's and Python's own generators, in the order in which batches come; here
choices depend on seed and place alone, as those of all random changes. Their 80, 10 and 10 % are the defaults here.
"""

from dataclasses import dataclass

import numpy as np

from modeling_perceiver_study.tokenization_perceiver_study import FIRST_BYTE

UNITS = ("bytes", "words", "spans")
NO_LABEL = -100
_REACH = 6  # times the average of geometrically distributed spans, which one in 400 exceeds
_SPACE = np.isin(np.arange(256), np.frombuffer(b" \t\n\r\v\f", np.uint8))


@dataclass
class Masking:
    """What is to be guessed of each text."""

    masked: str = "bytes"  # what is chosen: single bytes, whole words (what stands between spaces), or spans
    share: float = 0.15  # of the bytes of a text, or of its words
    span: float = 5.0  # bytes of a span, on average; their lengths are geometrically distributed
    random_share: float = 0.1  # of the chosen bytes, become any byte instead of [MASK]
    kept_share: float = 0.1  # of the chosen bytes, stay as they are


MASKING_RANGES = {"share": (0, 1), "span": (1, None), "random_share": (0, 1), "kept_share": (0, 1)}


def mask(ids: np.ndarray, settings: Masking, mask_id: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`(l,) -> (l,), (l,)`: the text with chosen bytes masked, and as labels what they were, -100 for others.

    At least one byte is chosen; special tokens never are.
    """
    chosen = _CHOOSE[settings.masked](ids, settings, rng) & (ids >= FIRST_BYTE)
    if not chosen.any() and (ids >= FIRST_BYTE).any():
        chosen[rng.choice(np.flatnonzero(ids >= FIRST_BYTE))] = True
    labels = np.where(chosen, ids, NO_LABEL)
    draw = rng.random(len(ids))
    anything = rng.integers(FIRST_BYTE, FIRST_BYTE + 256, size=len(ids))
    is_random, is_kept = draw < settings.random_share, draw >= 1 - settings.kept_share
    instead = np.where(is_random, anything, np.where(is_kept, ids, mask_id))
    return np.where(chosen, instead, ids), labels


def _single(ids: np.ndarray, settings: Masking, rng: np.random.Generator) -> np.ndarray:
    return rng.random(len(ids)) < settings.share


def _words(ids: np.ndarray, settings: Masking, rng: np.random.Generator) -> np.ndarray:
    """All bytes of some words, none of the spaces between them."""
    byte = ids - FIRST_BYTE
    space = (byte < 0) | _SPACE[byte.clip(0, 255)]
    starts = ~space & np.concatenate([[True], space[:-1]])
    word = np.cumsum(starts)
    chosen = rng.random(word[-1] + 1) < settings.share
    return chosen[word] & ~space


def _spans(ids: np.ndarray, settings: Masking, rng: np.random.Generator) -> np.ndarray:
    """Bytes on and after the beginnings of spans, so many that spans cover the share, overlaps included."""
    # Each byte is left open by all spans that could reach it: (1 - p)^E = 1 - share for spans of E bytes on average.
    begins = 1 - (1 - settings.share) ** (1 / settings.span)
    before = round(_REACH * settings.span)  # where spans may begin that reach into the text
    place = np.arange(before + len(ids))
    reach = np.where(rng.random(len(place)) < begins, rng.geometric(1 / settings.span, size=len(place)), 0)
    return (np.maximum.accumulate(place + reach) > place)[before:]


_CHOOSE = {"bytes": _single, "words": _words, "spans": _spans}
