"""What settings and samples may be: numbers, numbers that are missing, columns of tables, and saved settings."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

_AUTO_CLASSES = {"feature_extractor_type": "AutoFeatureExtractor", "image_processor_type": "AutoImageProcessor"}


def is_count(value: Any, minimum: int = 1) -> bool:
    """Whether it is a whole number of at least `minimum`; a truth value, which Python takes for one, is not."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= minimum


def is_number(value: Any) -> bool:
    """Whether it is a whole or a floating-point number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def unmasked(values: Any) -> Any:
    """An array with NaN in place of what numpy's mask says is missing, which is any number; anything else as it is."""
    return values.astype(np.float64).filled(np.nan) if np.ma.is_masked(values) else values


def as_list(values: Any) -> Any:
    """A list in place of a column of a table, which holds several things; anything else as it is.

    A column is one of `datasets`, pandas or pyarrow, or an array of objects or texts. One of numbers alone becomes an
    array, and keeps its dtype.
    """
    if hasattr(values, "as_py"):  # a cell of pyarrow
        inner = getattr(values, "values", None)
        values = inner if hasattr(inner, "to_numpy") else values.as_py()
    if hasattr(values, "to_numpy"):
        values = np.asarray(values)
    if isinstance(values, np.ndarray):
        return [_dense(one) for one in values] if values.dtype.kind in "OU" and values.ndim == 1 else values
    kept = (list, tuple, str, bytes, bytearray, memoryview)
    return list(values) if isinstance(values, Sequence) and not isinstance(values, kept) else values


def _dense(cell: Any) -> Any:
    """A cell with arrays in arrays, as tables have nested lists, as one array if it is one; anything else as it is."""
    if not isinstance(cell, np.ndarray) or cell.dtype != object:
        return cell
    parts = [_dense(part) for part in cell]
    try:
        return np.array(parts)
    except ValueError:  # of different lengths
        return parts


def require_saved_as(key: str, settings: Mapping[str, Any]):
    """Raise an OSError unless a preprocessor_config.json is of this kind of processor.

    Auto classes choose by the type of the model alone, which is one for all kinds of input.

    Args:
        key: `"feature_extractor_type"` or `"image_processor_type"`, one of which a saved processor has.
    """
    for other, auto_class in _AUTO_CLASSES.items():
        if key not in settings and other in settings:
            raise OSError(f"preprocessor_config.json holds a {settings[other]}: expected {auto_class} to load it.")


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
