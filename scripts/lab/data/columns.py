"""Which columns of a dataset hold what a task reads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lab.errors import UserError

_FLOATS = ("float32", "float64")
_ARRAYS = (datasets.Array2D, datasets.Array3D, datasets.Array4D, datasets.Array5D)
_FILES = ("binary", "large_binary", "string", "large_string")  # types of files' bytes and of their paths

LABEL = "label"  # the role of labels, beside those of a task's inputs


@dataclass(frozen=True)
class Column:
    """An input that a task reads from each row.

    Attributes:
        role: its key in `data.columns`, and in what `Source.read` returns.
        holds: what its values are, for messages.
        is_certain: whether a column of this feature holds it beyond doubt, so that nobody has to name it.
        is_possible: whether a column of this feature holds it if somebody says so.
        stored_as: from a column's feature to the one that it is read as; None leaves it as it is.
    """

    role: str
    holds: str
    is_certain: Callable[[Any], bool]
    is_possible: Callable[[Any], bool]
    stored_as: Callable[[Any], Any] = lambda feature: None


def media_column(role: str, feature: type) -> Column:
    """A column of files, given by their bytes or their paths, which are read without decoding them.

    Args:
        feature: the type of such columns in `datasets`, such as `datasets.Image`.
    """

    def is_certain(found: Any) -> bool:
        return isinstance(found, feature)

    def is_possible(found: Any) -> bool:
        if isinstance(found, dict):
            return found.keys() <= {"bytes", "path"} and "bytes" in found
        return is_certain(found) or is_file(found)

    return Column(
        role, f"{role}s, bytes of files, or paths", is_certain, is_possible, lambda found: feature(decode=False)
    )


def is_file(feature: Any) -> bool:
    """Whether values may be bytes of files, or their paths."""
    return isinstance(feature, datasets.Value) and feature.dtype in _FILES


def is_numbers(feature: Any) -> bool:
    """Whether values are lists of floats, however deep, or arrays of them."""
    if isinstance(feature, datasets.List | datasets.LargeList):
        inner = feature.feature
        return is_numbers(inner) or (isinstance(inner, datasets.Value) and inner.dtype in _FLOATS)
    return isinstance(feature, _ARRAYS) and feature.dtype in _FLOATS


def numbers_of(column: pa.ChunkedArray) -> list:
    """The rows of such a column as arrays in float64, which takes a fraction of the time that lists do.

    A row is a list where its lists differ in length or something is missing, and None where it is missing itself.
    """
    rows = []
    for chunk in column.chunks:
        for row in getattr(chunk, "storage", chunk):
            array = _array(row.values)
            rows.append(row.as_py() if array is None else array)
    return rows


def _array(values: pa.Array | None) -> np.ndarray | None:
    if values is None or values.null_count:
        return None
    if pa.types.is_floating(values.type):
        return values.to_numpy(zero_copy_only=False).astype(np.float64)
    lengths = pc.unique(pc.list_value_length(values)).to_pylist()
    if len(lengths) > 1:
        return None
    inner = _array(values.flatten())
    return None if inner is None else inner.reshape(len(values), *lengths, *inner.shape[1:])


def find_column(column: Column, features: datasets.Features, chosen: dict[str, Any], split: str, key: str) -> str:
    """Return the name of the column that holds an input.

    Args:
        chosen: the recipe's `data.columns`.
        split: what messages call the data.
        key: what they call the choice.

    Raises:
        UserError: the chosen one is not there or holds something else; or none was chosen and it is not clear which.
    """
    if (name := chosen.get(column.role)) is not None:
        if name not in features:
            raise UserError(f"{key}={name}: {split} has columns {', '.join(features)}")
        if not column.is_possible(features[name]):
            raise UserError(f"{key}={name}: that column holds {describe(features[name])}; expected {column.holds}")
        return name
    found = [name for name, feature in features.items() if column.is_certain(feature)]
    if column.role in found:  # such as a text called `text` beside labels that are texts as well
        return column.role
    if len(found) != 1:
        raise UserError(
            f"{split} has {len(found)} {column.role} columns; expected one among {describe_all(features)}. "
            f"Name the right one as {key}"
        )
    return found[0]


def describe(feature: Any) -> str:
    """What a feature is called in messages, such as `int64` or `List(string)`."""
    if isinstance(feature, datasets.Value):
        return feature.dtype
    if isinstance(feature, datasets.List | datasets.LargeList):
        return f"List({describe(feature.feature)})"
    return type(feature).__name__


def describe_all(features: datasets.Features) -> str:
    """Names and types of all columns."""
    return ", ".join(f"{name} ({describe(feature)})" for name, feature in features.items())


def file_of(value: Any) -> str | None:
    """The path of a file that a row only refers to; None where the row holds the content."""
    is_reference = isinstance(value, dict) and value.get("bytes") is None
    return value.get("path") if is_reference else None


def is_missing(value: Any) -> bool:
    """Whether a row holds nothing: neither content nor the path of a file."""
    return value is None or (isinstance(value, dict) and value.get("bytes") is None and not value.get("path"))


def require_content(value: Any):
    """Raise a ValueError where a row holds nothing."""
    if is_missing(value):
        raise ValueError("there is none")


def content_of(value: Any) -> Any:
    """The bytes of a file that a row holds or refers to; anything else as it is.

    Raises:
        ValueError: there is nothing.
    """
    require_content(value)
    if (path := file_of(value)) is not None:
        with fsspec.open(path, "rb") as file:  # also inside an archive, or on the Hub
            return file.read()
    return value["bytes"] if isinstance(value, dict) else value


def content_or_name(value: Any) -> bytes:
    """What a row has in a column; of a file that it names the name alone, since data may lie elsewhere."""
    if isinstance(value, np.ndarray):
        return "".join(map(repr, value.ravel().tolist())).encode()
    if isinstance(value, list):
        return b"".join(map(content_or_name, value))
    if not isinstance(value, dict) or {*value} != {"bytes", "path"}:
        return repr(value).encode()
    return value["bytes"] or Path(value["path"] or "").name.encode()


def located(value: Any, folder: str | None) -> Any:
    """The value with a relative path as one below the folder of the data."""
    path = file_of(value)
    if path is None or folder is None or "://" in path or Path(path).is_absolute():
        return value
    return {**value, "path": str(Path(folder) / path)}
