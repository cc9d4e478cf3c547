"""What label columns hold, read as labels of a problem type.

`single_label_classification`: a class number, from class labels, whole numbers of any type, booleans or strings.
`multi_label_classification`: `(L,)` of 0 and 1, from lists of classes, lists of a 0 or 1 for each class, or a column
for each class.
`several_tasks`: `(L,)` of 0 and 1, from a column for each task: its class, or nothing where a row has none.
`regression`: `(L,)` floats, from a number, a list of as many numbers in each row, or a column for each number.

Strings are classes in alphabetical order, and whole numbers count classes from 0.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lab.data.columns import describe
from lab.data.label_columns import MULTI_LABEL, REGRESSION, SEVERAL_TASKS, SINGLE_LABEL, kind_of
from lab.errors import UserError, listed
from modeling_perceiver_study.several_tasks import SEPARATOR

_MOST_CLASSES = 1_000_000  # a larger whole number is not a class


class BadLabel(Exception):
    """What is wrong with the label of a row, to end a sentence that begins with the row."""


class LabelReader(ABC):
    """Turns what label columns hold in a row into a label.

    Attributes:
        names: of the classes or numbers; None before `fit` where the columns do not declare them.
    """

    names: list[str] | None = None

    def __init__(self, columns: dict[str, Any], split: str):
        """
        Args:
            columns: features by name.
            split: what messages call the data.

        Raises:
            UserError: such columns cannot be labels of this problem type.
        """
        self.columns, self.split = list(columns), split
        self.kinds = []
        for name, feature in columns.items():
            if (kind := kind_of(feature)) is None:
                self.refuse(name, describe(feature), "numbers, booleans, strings, or lists of them")
            self.kinds.append(kind)

    def refuse(self, column: str, found: str, expected: str):
        """Raise a `UserError` about a whole column."""
        raise UserError(f"label column {column} of {self.split} holds {found}; expected {expected}")

    def of_row(self, row: dict[str, Any]) -> Any:
        """What a row holds: the value of the only column, or a list with a value of each."""
        values = [row[name] for name in self.columns]
        return values[0] if len(values) == 1 else values

    @abstractmethod
    def fit(self, values: Sequence[Any]):
        """Take from the values of a split what its columns do not declare, such as names.

        Raises:
            UserError: no label of this problem type can be made of them.
        """

    @abstractmethod
    def read(self, value: Any) -> int | np.ndarray:
        """Return the label for what a row holds.

        Raises:
            BadLabel: it is missing or out of range.
        """

    @abstractmethod
    def number_names(self, count: int):
        """Have `count` classes although the values seen do not show all of them, as the first ones of a stream.

        Raises:
            UserError: classes without a number.
        """


class _Classes:
    """Numbers of single classes, of one column."""

    def __init__(self, reader: LabelReader, column: int = 0):
        self.reader, self.kind, self.column = reader, reader.kinds[column], reader.columns[column]
        self.names = ["False", "True"] if self.kind.element == "bool" else self.kind.names
        self.declared = self.names is not None

    def fit(self, values: Iterable[Any]):
        if self.declared:
            return
        present = [value for value in values if not _is_missing(value)]
        if self.kind.element == "string":
            self.names = sorted(set(present))
            self.numbers = {name: number for number, name in enumerate(self.names)}
            return
        if self.kind.element == "float":
            for value in present:
                if not float(value).is_integer():
                    self.reader.refuse(
                        self.column,
                        str(value),
                        "whole numbers or strings: model.problem_type=regression takes other numbers as they are",
                    )
        highest = int(max(present, default=-1))
        if highest >= _MOST_CLASSES:
            self.reader.refuse(
                self.column, str(highest), "classes that are counted from 0: store other labels as strings"
            )
        self.names = [str(number) for number in range(highest + 1)]

    def number_names(self, count: int):
        if self.kind.element == "string":
            self.reader.refuse(
                self.column,
                "strings",
                "numbers or ClassLabel where data.streaming=true, since the beginning of a stream does not show all "
                "classes: set it to false",
            )
        if not self.declared:
            self.names = [str(number) for number in range(count)]

    def number(self, value: Any) -> int:
        if _is_missing(value):
            raise BadLabel("has no label")
        if self.kind.element == "string":
            if value not in self.numbers:
                raise BadLabel(f"has label {value!r}; expected {listed(self.names)}")
            return self.numbers[value]
        if not 0 <= value < len(self.names) or value != int(value):
            raise BadLabel(f"has label {value}; expected 0 to {len(self.names) - 1}")
        return int(value)


class _OneClass(LabelReader):
    """`()` int64."""

    def __init__(self, columns: dict[str, Any], split: str):
        super().__init__(columns, split)
        if len(columns) > 1 or self.kinds[0].many:
            found = "lists" if len(columns) == 1 else f"one of {len(columns)} labels of a row"
            other = (
                "model.problem_type=regression takes several numbers"
                if self.kinds[0].element == "float"
                else "model.problem_type=multi_label_classification takes several classes"
            )
            self.refuse(self.columns[0], found, f"one class a row: {other}")
        self.classes = _Classes(self)

    @property
    def names(self) -> list[str] | None:
        return self.classes.names

    def fit(self, values: Sequence[Any]):
        self.classes.fit(values)

    def read(self, value: Any) -> int:
        return self.classes.number(value)

    def number_names(self, count: int):
        self.classes.number_names(count)


class _SeveralClasses(LabelReader):
    """`(L,)` of 0 and 1, from a list of classes, a single class, or a 0 or 1 for each class."""

    def __init__(self, columns: dict[str, Any], split: str):
        super().__init__(columns, split)
        self.classes = _Classes(self)
        first = self.kinds[0]
        if len(columns) > 1:
            for name, kind in zip(self.columns, self.kinds, strict=True):
                if kind.many or kind.element == "string":
                    self.refuse(name, "lists" if kind.many else "strings", "0 or 1, as one of several label columns")
        # One for each class: columns say so, and lists of booleans or floats; of lists of whole numbers values tell.
        self.flags = len(columns) > 1 or first.element == "bool" or (first.many and first.element == "float")
        self.flag_names = self.columns if not first.many else None

    @property
    def names(self) -> list[str] | None:
        return self.flag_names if self.flags else self.classes.names

    def fit(self, values: Sequence[Any]):
        first = self.kinds[0]
        if not first.many:
            if not self.flags:
                self.classes.fit(values)
            return
        rows = [value for value in values if value is not None]
        lengths = {len(row) for row in rows}
        length = min(lengths, default=0)
        if first.element == "int":
            plain = len(lengths) == 1 and length > 1
            self.flags = plain and all(element in (0, 1) for row in rows for element in row)
        if not self.flags:
            self.classes.fit(element for row in rows for element in row)
        else:
            self.flag_names = [f"{self.columns[0]}_{index}" for index in range(length)]

    def read(self, value: Any) -> np.ndarray:
        if value is None:
            raise BadLabel("has no label")
        label = np.zeros(len(self.names), np.float32)
        several = isinstance(value, list)
        if not self.flags:
            label[[self.classes.number(element) for element in (value if several else [value])]] = 1
            return label
        flags = value if several else [value]
        if len(flags) != len(label):
            raise BadLabel(f"has {len(flags)} labels; expected {len(label)}, as other rows")
        for index, flag in enumerate(flags):
            if _is_missing(flag):
                raise BadLabel(f"has no label for {self.names[index]}")
            if flag not in (0, 1):
                raise BadLabel(f"has label {flag} for {self.names[index]}; expected 0 or 1")
        label[:] = flags
        return label

    def number_names(self, count: int):
        if not self.flags:
            self.classes.number_names(count)


class _SeveralTasks(LabelReader):
    """`(L,)` of 0 and 1: of the classes of each column, which are a task, one or none."""

    def __init__(self, columns: dict[str, Any], split: str):
        super().__init__(columns, split)
        for name, kind in zip(self.columns, self.kinds, strict=True):
            if kind.many:
                self.refuse(name, "lists", "one class a row, or none, as a column of one of several tasks")
        self.tasks = [_Classes(self, number) for number in range(len(self.columns))]

    @property
    def names(self) -> list[str] | None:
        if any(task.names is None for task in self.tasks):
            return None
        return [
            f"{column}{SEPARATOR}{name}"
            for column, task in zip(self.columns, self.tasks, strict=True)
            for name in task.names
        ]

    def fit(self, values: Sequence[Any]):
        rows = [self._row(value) for value in values]
        for number, task in enumerate(self.tasks):
            task.fit([row[number] for row in rows])

    def read(self, value: Any) -> np.ndarray:
        row = self._row(value)
        if all(map(_is_missing, row)):
            raise BadLabel(f"has no label for any of {listed(self.columns)}")
        label, first = np.zeros(len(self.names), np.float32), 0
        for task, own in zip(self.tasks, row, strict=True):
            if not _is_missing(own):
                label[first + task.number(own)] = 1
            first += len(task.names)
        return label

    def number_names(self, count: int):
        if any(not task.declared for task in self.tasks):
            self.refuse(
                ", ".join(self.columns),
                "classes without names",
                "ClassLabel for several tasks where data.streaming=true",
            )

    def _row(self, value: Any) -> list:
        """A value, or None, for each task; -1 is what `datasets` has for a class that is not known."""
        values = value if isinstance(value, list) else [value]
        return [None if task.declared and own == -1 else own for task, own in zip(self.tasks, values, strict=True)]


class _Numbers(LabelReader):
    """`(L,)` floats."""

    def __init__(self, columns: dict[str, Any], split: str):
        super().__init__(columns, split)
        self.values_of = []  # for each column the numbers that its classes are called; None where it holds numbers
        for name, kind in zip(self.columns, self.kinds, strict=True):
            if kind.element == "string":
                self.refuse(name, "strings", "numbers, as model.problem_type=regression needs them")
            if kind.many and len(columns) > 1:
                self.refuse(name, "lists", "numbers, as one of several label columns")
            self.values_of.append(self._numbers_of(name, kind.names))
        self.names = None if self.kinds[0].many else self.columns

    def _numbers_of(self, column: str, names: list[str] | None) -> list[float] | None:
        try:
            return names and [float(name) for name in names]
        except ValueError:
            self.refuse(column, f"classes ({listed(names)})", "numbers, as model.problem_type=regression needs them")

    def fit(self, values: Sequence[Any]):
        if self.kinds[0].many:
            length = min((len(value) for value in values if value is not None), default=0)
            self.names = [f"{self.columns[0]}_{index}" for index in range(length)]

    def read(self, value: Any) -> np.ndarray:
        numbers = value if isinstance(value, list) else [value]
        if value is None:
            raise BadLabel("has no label")
        if len(numbers) != len(self.names):
            raise BadLabel(f"has {len(numbers)} numbers; expected {len(self.names)}, as other rows")
        tables = self.values_of if len(self.values_of) > 1 else self.values_of * len(numbers)
        label = np.empty(len(numbers), np.float32)
        for index, (number, table) in enumerate(zip(numbers, tables, strict=True)):
            if _is_missing(number):
                raise BadLabel("has no label" if len(numbers) == 1 else f"has no label for {self.names[index]}")
            if table is not None and not 0 <= number < len(table):
                raise BadLabel(f"has label {number}; expected 0 to {len(table) - 1}")
            label[index] = number if table is None else table[number]
            if not np.isfinite(label[index]):
                raise BadLabel(f"has label {number} for {self.names[index]}; expected a finite number")
        return label

    def number_names(self, count: int):
        pass  # columns and lists say how many there are


_READERS: dict[str, type[LabelReader]] = {
    SINGLE_LABEL: _OneClass,
    MULTI_LABEL: _SeveralClasses,
    SEVERAL_TASKS: _SeveralTasks,
    REGRESSION: _Numbers,
}


def label_reader(columns: dict[str, Any], problem_type: str, split: str) -> LabelReader:
    """The reader of some columns, given as features by name. Raises a `UserError` where they do not fit the type."""
    return _READERS[problem_type](columns, split)


def read_labels(reader: LabelReader, values: list, on_error: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a split, and the rows that have them.

    Args:
        values: what `reader.of_row` gives for each row.
        on_error: `raise`, or `skip` to leave out rows without a label that can be used and say how many.

    Returns:
        `(k,)` int64 or `(k, L)` float32, and `(k,)` int64.

    Raises:
        UserError: a label is missing or out of range (names the row), or no row is left.
    """
    labels, kept, first_bad = [], [], None
    for row, value in enumerate(values):
        try:
            labels.append(reader.read(value))
            kept.append(row)
        except BadLabel as error:
            found = f"row {row} of {reader.split} {error}"
            if on_error == "raise":
                raise UserError(f"{found}; data.on_error=skip leaves such out") from None
            first_bad = first_bad or found
    if first_bad:
        print(f"left out {len(values) - len(kept)} of {len(values)} samples of {reader.split}: {first_bad}")
    if not labels:
        raise UserError(f"{reader.split} has no samples")
    return np.stack(labels) if isinstance(labels[0], np.ndarray) else np.array(labels, np.int64), np.array(kept)


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value  # NaN differs from itself
