"""Rows without labels, for tasks that need none: no column is read, and all rows are of one class."""

from collections.abc import Sequence
from typing import Any

from lab.data.labels import LabelReader

UNLABELLED = "unlabelled"  # instead of a problem type


class NoLabels(LabelReader):
    """Of all rows the same class."""

    names = ("row",)

    def __init__(self, split: str):
        super().__init__({}, split)

    def fit(self, values: Sequence[Any]):
        pass

    def read(self, value: Any) -> int:
        return 0

    def number_names(self, count: int):
        pass
