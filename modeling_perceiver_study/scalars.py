"""What a setting that is a number may be, and numbers that are missing."""

from numbers import Integral, Real
from typing import Any

import numpy as np


def is_count(value: Any, minimum: int = 1) -> bool:
    """Whether it is a whole number of at least `minimum`; a truth value, which Python takes for one, is not."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= minimum


def is_number(value: Any) -> bool:
    """Whether it is a whole or a floating-point number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def unmasked(values: Any) -> Any:
    """An array with NaN in place of what numpy's mask says is missing, which is any number; anything else as it is."""
    return values.astype(np.float64).filled(np.nan) if np.ma.is_masked(values) else values


def plain(value: Any) -> Any:
    """Python's own numbers and lists in place of those of numpy and torch, also inside of lists, tuples and dicts.

    Settings are kept like that, as they are saved as JSON.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {name: plain(one) for name, one in value.items()}
    return value
