"""Which columns hold the labels of a problem type, and what they may hold."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import datasets

from lab.data.columns import LABEL, describe_all
from lab.errors import UserError

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
SEVERAL_TASKS = "several_tasks"


@dataclass(frozen=True)
class Kind:
    """What a column holds.

    Attributes:
        many: a row holds a list.
        element: `class`, `string`, `bool`, `int` or `float`.
        names: of declared classes.
    """

    many: bool
    element: str
    names: list[str] | None = None


def kind_of(feature: Any) -> Kind | None:
    """What a column holds; None for what cannot be a label."""
    if isinstance(feature, datasets.List | datasets.LargeList):
        inner = kind_of(feature.feature)
        return inner and (None if inner.many else Kind(True, inner.element, inner.names))
    if isinstance(feature, datasets.ClassLabel):
        return Kind(False, "class", feature.names)
    if isinstance(feature, datasets.Value):
        plain = feature.dtype.removeprefix("large_").removeprefix("u").rstrip("0123456789")
        return Kind(False, plain, None) if plain in ("string", "bool", "int", "float") else None
    return None


def find_labels(
    features: datasets.Features,
    chosen: tuple[str, list[str]] | None,
    inputs: Iterable[str],
    problem_type: str,
    split: str,
) -> list[str]:
    """Return the names of the columns of labels.

    Without a choice it is the only column of class labels, the one called `label` or `labels`, or the only one of whole
    numbers, or of anything that can be a label.

    Args:
        chosen: what the recipe says, and the key that says it.
        inputs: columns that are taken.
        split: what messages call the data.

    Raises:
        UserError: a chosen column is not there, or it is not clear which one it is.
    """
    if chosen is not None:
        key, names = chosen
        for name in names:
            if name not in features:
                raise UserError(f"{key}={name}: {split} has columns {', '.join(features)}")
        return names
    taken = set(inputs)
    kinds = {
        name: kind
        for name, feature in features.items()
        if name not in taken and not name.startswith("__") and (kind := kind_of(feature))
    }
    tiers = [
        [name for name, kind in kinds.items() if kind.many and problem_type == MULTI_LABEL],
        [name for name, kind in kinds.items() if kind.element == "class" and problem_type != REGRESSION],
        [name for name in kinds if name in (LABEL, f"{LABEL}s")],
        [name for name, kind in kinds.items() if kind.element == "float" and problem_type == REGRESSION],
        [name for name, kind in kinds.items() if kind.element == "int"],
        list(kinds),
    ]
    if list(features) == ["text"]:  # what `datasets` makes of .txt files
        raise UserError(
            f"{split} has no labels, but texts alone: give a table, such as train.csv, with a column of texts and one "
            "of labels. Folders train/CLASS are not read as classes of texts"
        )
    found = next(filter(None, tiers), [])
    if len(found) != 1:
        raise UserError(
            f"{split} has {len(found)} columns of class labels; expected one among {describe_all(features)}. "
            "Name the right one as data.label_column"
        )
    return found
