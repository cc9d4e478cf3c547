"""Where samples come from: scikit-learn's digits, the Hub, or a local folder. Nothing is decoded here."""

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from lab.data.columns import LABEL, Column, file_of, find_column, is_numbers, located, numbers_of
from lab.data.held_out import made_of_others, regroup, underlying
from lab.data.label_columns import SINGLE_LABEL, find_labels
from lab.data.labels import LabelReader, label_reader, read_labels
from lab.data.opening import Asked, as_files, open_data, readable, reading_shards
from lab.data.unlabelled import UNLABELLED, NoLabels
from lab.errors import UserError
from lab.recipe import Data


@dataclass
class TableRows:
    """Rows of a table on disk. Processes that read ahead get a copy, so neither this nor `ReadRows` holds functions."""

    table: datasets.Dataset
    roles: dict[str, str]  # names of the columns of inputs by role
    folder: str | None

    def fetch(self, rows: np.ndarray) -> dict[str, list]:
        """`(k,)` -> for each role k values, lists of floats as arrays."""
        names = set(self.roles.values())
        numbers = {name for name in names if is_numbers(self.table.features[name])}
        read = {}
        if names > numbers:
            read = (self.table.select_columns([*names - numbers]) if numbers else self.table)[rows]
        if numbers:
            columns = self.table.with_format("arrow", columns=[*numbers])[rows]
            read |= {name: numbers_of(columns[name]) for name in numbers}
        return {role: [located(value, self.folder) for value in read[name]] for role, name in self.roles.items()}

    def files(self) -> list[list[str | None]]:
        """For each role, if it holds files, the path that each row refers to, or None."""
        columns = self.table.with_format("arrow")[:]
        found = [_paths(columns[name], self.folder) for name in self.roles.values()]
        return [paths for paths in found if paths is not None]


@dataclass
class ReadRows:
    """Rows that were read from a stream, in memory."""

    inputs: list[dict[str, Any]]  # of each row the value for each role

    def fetch(self, rows: np.ndarray) -> dict[str, list]:
        """`(k,)` -> for each role k values."""
        return {role: [self.inputs[row][role] for row in rows] for role in self.inputs[0]}

    def files(self) -> list[list[str | None]]:
        """For each role the path of a file that each row refers to, or None."""
        return [[file_of(row[role]) for row in self.inputs] for role in self.inputs[0]]


def _paths(column: Any, folder: str | None) -> list[str | None] | None:
    """Paths of files that a column `(n,)` of Arrow refers to; None where it holds something else."""
    if not hasattr(column.type, "names") or {*column.type.names} != {"bytes", "path"}:
        return None
    paths = pc.if_else(pc.is_null(pc.struct_field(column, "bytes")), pc.struct_field(column, "path"), None)
    return [file_of(located({"bytes": None, "path": path}, folder)) for path in paths.to_pylist()]


@dataclass
class Source:
    """Samples of one split of a dataset, still encoded.

    Attributes:
        name: what error messages call the split.
        fingerprint: equal for equal content, for cached arrays.
        labels: `(n,)` int64, or `(n, L)` float32.
        label_names: names of the classes or numbers, in the order of the model's logits.
        rows: `(n,)`, where the samples are in the split.
        held: all rows of the split.
    """

    name: str
    fingerprint: str
    labels: np.ndarray
    label_names: list[str]
    rows: np.ndarray
    held: "TableRows | ReadRows"

    def read(self, samples: np.ndarray) -> dict[str, list]:
        """`(k,)` -> for each role k values, such as a dict of `bytes` and `path`."""
        return self.held.fetch(self.rows[samples])

    def take(self, samples: np.ndarray) -> "Source":
        """Some of the samples."""
        return dataclasses.replace(self, labels=self.labels[samples], rows=self.rows[samples])

    def files(self) -> list[tuple[int, str]]:
        """Sample and path, of all samples whose rows refer to files."""
        lists = self.held.files()
        return [(sample, path[row]) for path in lists for sample, row in enumerate(self.rows) if path[row] is not None]


@dataclass(frozen=True)
class Reading:
    """What to read, and where from.

    Attributes:
        inputs: what a task reads of each row beside its label.
        problem_type: what labels are for, as transformers' `config.problem_type` calls it.
        label_key: of the recipe, for messages, where it is not one of those that name columns of labels.
        validated: `Rows.fingerprint` of the samples that the run validated on whose data these are; None where nothing
            is known of them.

    Raises:
        UserError: the recipe names a column for what the task does not read, or two sets of columns for labels.
    """

    settings: Data
    inputs: Sequence[Column]
    problem_type: str = SINGLE_LABEL
    label_key: str | None = None
    validated: str | None = None

    def __post_init__(self):
        roles = [column.role for column in self.inputs]
        if self.problem_type != UNLABELLED:
            roles.append(LABEL)
        elif self.settings.label_column is not None:
            raise UserError(f"data.label_column={self.settings.label_column}: this task has no labels; set it to null")
        if self.settings.text_column is not None:
            if "text" not in roles:
                raise UserError(f"data.text_column={self.settings.text_column}: this task reads {', '.join(roles)}")
            if "text" in self.settings.columns:
                raise UserError(
                    f"data.text_column={self.settings.text_column} and data.columns.text="
                    f"{self.settings.columns['text']}: keep one of them"
                )
        for role, chosen in self.settings.columns.items():
            if role not in roles:
                raise UserError(f"data.columns.{role}: this task reads {', '.join(roles)}")
            names = chosen if role == LABEL and isinstance(chosen, list) else [chosen]
            if not names or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
                several = ", or a list of different ones" if role == LABEL else ""
                raise UserError(f"data.columns.{role}={chosen}: expected the name of a column{several}")
        if self.settings.label_column is not None and LABEL in self.settings.columns:
            raise UserError(
                f"data.label_column={self.settings.label_column} and data.columns.{LABEL}="
                f"{self.settings.columns[LABEL]}: keep one of them"
            )

    @property
    def chosen_inputs(self) -> dict[str, Any]:
        """The columns of inputs that the recipe names, by role."""
        text = self.settings.text_column
        return self.settings.columns if text is None else {"text": text} | self.settings.columns

    def key_of(self, role: str) -> str:
        """The key of the recipe that names the column of an input."""
        by_text = role == "text" and self.settings.text_column is not None
        return "data.text_column" if by_text else f"data.columns.{role}"

    @property
    def chosen_labels(self) -> tuple[str, list[str]] | None:
        """The columns of labels that the recipe names, and the key that names them."""
        key, chosen = "data.label_column", self.settings.label_column
        if chosen is None:
            key, chosen = f"data.columns.{LABEL}", self.settings.columns.get(LABEL)
        key = self.label_key or key
        return chosen and (key, [chosen] if isinstance(chosen, str) else list(chosen))

    def describe(self, split: str) -> str:
        """What error messages call a split."""
        return f"split {split} of {self.where}"

    @property
    def where(self) -> str:
        """The folder, or the name."""
        return self.settings.path or self.settings.name


@dataclass
class OpenSplit:
    """One split with the columns that are read.

    Attributes:
        name: what error messages call it.
        rows: the split, of these columns alone, encoded.
        roles: names of the columns of inputs by role.
        labels: reads the columns of labels.
    """

    name: str
    rows: datasets.Dataset | datasets.IterableDataset
    roles: dict[str, str]
    labels: LabelReader
    folder: str | None

    def inputs_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the row holds for each role."""
        return {role: located(row[column], self.folder) for role, column in self.roles.items()}

    def source(self, on_error: str) -> Source:
        """The whole split, with its labels read. Errors as those of `LabelReader.fit` and `read_labels`."""
        if isinstance(self.rows, datasets.IterableDataset):
            rows = list(readable(self.rows, self.name))
            self.labels.fit([self.labels.of_row(row) for row in rows])
            return self.source_of(rows, on_error)
        columns = self.rows.with_format("arrow")[:]
        lists = [columns[name].to_pylist() for name in self.labels.columns]
        values = lists[0] if len(lists) == 1 else [list(row) for row in zip(*lists, strict=True)]
        values = values if lists else [[]] * len(self.rows)
        self.labels.fit(values)
        labels, kept = read_labels(self.labels, values, on_error)
        fingerprint, held = f"{self.rows._fingerprint} {self.roles}", TableRows(self.rows, self.roles, self.folder)
        return Source(self.name, fingerprint, labels, list(self.labels.names), kept, held)

    def source_of(self, rows: list[dict], on_error: str) -> Source:
        """Rows that were read of a stream, with their labels as `labels` was fitted to read them."""
        values = [self.labels.of_row(row) for row in rows]
        inputs = [self.inputs_of(row) for row in rows]
        content = hashlib.sha256(repr(values).encode())
        for value in (value for row in inputs for value in row.values()):
            content.update(value["bytes"] if isinstance(value, dict) and value.get("bytes") else repr(value).encode())
        labels, kept = read_labels(self.labels, values, on_error)
        return Source(self.name, content.hexdigest(), labels, list(self.labels.names), kept, ReadRows(inputs))


def load_sources(reading: Reading) -> list[Source]:
    """The split to train on and, where wanted, that to test on.

    Raises:
        UserError: there is no such dataset, split or column, it is empty, or a label is out of range (names the row).
    """
    settings = reading.settings
    wanted = {"data.train_split": settings.train_split, "data.test_split": settings.test_split}
    return load_named_sources(reading, {key: split for key, split in wanted.items() if split is not None})


def load_named_sources(reading: Reading, wanted: dict[str, str], may_lack: Collection[str] = ()) -> list[Source]:
    """The splits that `wanted` names; its keys are what a user calls the choice. Errors as those of `load_sources`.

    Args:
        may_lack: splits that are left out where the data has none of that name.
    """
    return [split.source(reading.settings.on_error) for split in open_splits(reading, wanted, may_lack)]


def open_splits(reading: Reading, wanted: dict[str, str], may_lack: Collection[str] = ()) -> list[OpenSplit]:
    """The splits that `wanted` names, with their columns found: streams where the settings ask for them."""
    settings = reading.settings
    asked = Asked(underlying(settings, wanted), made_of_others(settings) | {*may_lack}, reading.where)
    roles = [column.role for column in reading.inputs]
    opened = regroup(open_data(settings, roles, asked), settings)
    return [_with_columns(opened[split], split, reading) for split in wanted.values() if split in opened]


def _with_columns(dataset: datasets.Dataset | datasets.IterableDataset, split: str, reading: Reading) -> OpenSplit:
    name, settings = reading.describe(split), reading.settings
    if dataset.features is None:  # a stream of files that do not say what they hold
        with reading_shards(name):
            dataset = dataset._resolve_features()
    features = dataset.features
    taken = reading.chosen_labels[1] if reading.label_key else []
    free = {column: feature for column, feature in features.items() if column not in taken}
    roles = {
        column.role: find_column(column, free, reading.chosen_inputs, name, reading.key_of(column.role))
        for column in reading.inputs
    }
    if reading.problem_type == UNLABELLED:
        labels, reader = [], NoLabels(name)
    else:
        labels = find_labels(features, reading.chosen_labels, roles.values(), reading.problem_type, name)
        for role, column in roles.items():
            if column in labels:  # the answer would be in the question
                raise UserError(
                    f"{name} has one column, {column}, for {role} and {LABEL}: name another as "
                    f"{reading.key_of(role)}, or as {reading.chosen_labels[0]}"
                )
        reader = label_reader({label: features[label] for label in labels}, reading.problem_type, name)
    rows = dataset.select_columns(list(dict.fromkeys([*roles.values(), *labels])))
    for column in reading.inputs:
        stored_as = column.stored_as(features[roles[column.role]])
        if stored_as is not None:
            rows = as_files(rows, roles[column.role], stored_as)
    return OpenSplit(name, rows, roles, reader, settings.path)
