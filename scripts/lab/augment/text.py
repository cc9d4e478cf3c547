"""Random changes of texts in training, byte by byte.

All choices depend on seed, step and place in the batch alone, so a resumed run repeats them, and how a batch is divided
does not matter.
"""

from dataclasses import dataclass

import numpy as np

from modeling_perceiver_study.tokenization_perceiver_study import FIRST_BYTE


@dataclass
class TextAugmentation:
    """What happens to each training text."""

    window: list[int] | None = None  # a piece of it, of so many bytes, evenly from [fewest, most]; null is all
    case_share: float = 0.0  # share of the texts that become all upper case or all lower case
    typos: float = 0.0  # share of bytes that are left out, doubled, swapped with the next or become one from elsewhere
    mask_share: float = 0.0  # share of bytes that become [MASK]


TEXT_RANGES = {"case_share": (0, 1), "typos": (0, 1), "mask_share": (0, 1)}


def change(ids: np.ndarray, settings: TextAugmentation, mask_id: int, rng: np.random.Generator) -> np.ndarray:
    """`(l,) -> (l',)`: one text, changed."""
    if settings.case_share and rng.random() < settings.case_share:
        ids = recased(ids, upper=rng.random() < 0.5)
    if settings.window:
        fewest, most = settings.window
        length = min(len(ids), int(rng.integers(min(fewest, len(ids)), min(most, len(ids)) + 1)))
        first = int(rng.integers(len(ids) - length + 1))
        ids = ids[first : first + length]
    if settings.typos:
        ids = mistyped(ids, settings.typos, rng)
    if settings.mask_share:
        ids = np.where(rng.random(len(ids)) < settings.mask_share, mask_id, ids)
    return ids


def recased(ids: np.ndarray, upper: bool) -> np.ndarray:
    """`(l,) -> (l',)`: in upper or lower case, of any script that has them."""
    if (ids < FIRST_BYTE).any():  # tokens that are no bytes
        return ids
    text = (ids - FIRST_BYTE).astype(np.uint8).tobytes().decode(errors="surrogateescape")
    text = text.upper() if upper else text.lower()
    return np.frombuffer(text.encode(errors="surrogateescape"), np.uint8).astype(ids.dtype) + FIRST_BYTE


def mistyped(ids: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """`(l,) -> (l',)`: of a share of the places a byte left out, doubled, swapped with the next one, or replaced.

    What replaces it is another byte of the same text, so that no script comes in that is not there. Nothing is left
    out of a text of one byte.
    """
    wrong, kind = rng.random(len(ids)) < share, rng.integers(4, size=len(ids))
    changed = ids.copy()
    replaced = wrong & (kind == 3)
    changed[replaced] = ids[rng.integers(len(ids), size=replaced.sum())] if replaced.any() else changed[replaced]
    for place in np.flatnonzero(wrong[:-1] & (kind[:-1] == 2)):
        changed[[place, place + 1]] = changed[[place + 1, place]]
    counts = np.ones(len(ids), np.int64) + (wrong & (kind == 1)) - (wrong & (kind == 0))
    return np.repeat(changed, counts) if counts.any() else ids


def describe_text_augmentation(settings: TextAugmentation) -> str:
    """The end of a list in a model card."""
    parts = []
    if settings.window:
        parts.append(f"random pieces of {settings.window[0]} to {settings.window[1]} bytes")
    for share, what in (
        (settings.case_share, "in one case"),
        (settings.typos, "typing errors"),
        (settings.mask_share, "masked bytes"),
    ):
        if share:
            parts.append(f"{what} ({100 * share:g} %)")
    return "".join(f", {part}" for part in parts)
