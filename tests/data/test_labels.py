"""Whatever a label column holds becomes labels of the problem type, or one line that says what to do."""

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, List, Value

from lab.data.label_columns import MULTI_LABEL, REGRESSION, SINGLE_LABEL, find_labels
from lab.data.labels import label_reader, read_labels
from lab.data.matching import match_names, renumber
from lab.errors import UserError

COLOURS = ClassLabel(names=["red", "green"])


def read(problem_type, columns, on_error="raise"):
    """Labels and names of `{name: (feature, values)}`."""
    reader = label_reader({name: feature for name, (feature, _) in columns.items()}, problem_type, "split train of x")
    names = list(columns)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(values for _, values in columns.values()), strict=True)]
    values = [reader.of_row(row) for row in rows]
    reader.fit(values)
    labels, kept = read_labels(reader, values, on_error)
    return labels, list(reader.names), kept.tolist()


@pytest.mark.parametrize(
    ("feature", "values", "labels", "names"),
    [
        (COLOURS, [1, 0, 1], [1, 0, 1], ["red", "green"]),
        (Value("bool"), [True, False, True], [1, 0, 1], ["False", "True"]),
        *(
            (Value(f"{kind}{bits}"), [2, 0, 2], [2, 0, 2], ["0", "1", "2"])
            for kind in ("int", "uint")
            for bits in (8, 64)
        ),
        *((Value(f"float{bits}"), [2.0, 0.0], [2, 0], ["0", "1", "2"]) for bits in (16, 32, 64)),
        *((Value(kind), ["b", "a", "b"], [1, 0, 1], ["a", "b"]) for kind in ("string", "large_string")),
    ],
)
def test_single_labels(feature, values, labels, names):
    found, found_names, _ = read(SINGLE_LABEL, {"label": (feature, values)})
    assert (found.dtype, found.tolist(), found_names) == (np.int64, labels, names)


@pytest.mark.parametrize(
    ("columns", "labels", "names"),
    [
        ({"tags": (List(Value("string")), [["b", "a"], [], ["b"]])}, [[1, 1], [0, 0], [0, 1]], ["a", "b"]),
        ({"tags": (List(Value("uint8")), [[2, 0], [], [1]])}, [[1, 0, 1], [0, 0, 0], [0, 1, 0]], ["0", "1", "2"]),
        ({"tags": (List(COLOURS), [[1], [0, 1]])}, [[0, 1], [1, 1]], ["red", "green"]),
        (
            {"tags": (List(Value("int64")), [[1, 0, 1], [0, 0, 0]])},
            [[1, 0, 1], [0, 0, 0]],
            ["tags_0", "tags_1", "tags_2"],
        ),
        ({"tags": (List(Value("int64")), [[1], [0]])}, [[0, 1], [1, 0]], ["0", "1"]),
        ({"tags": (List(Value("bool")), [[True, False]])}, [[1, 0]], ["tags_0", "tags_1"]),
        ({"tags": (List(Value("float32")), [[1.0, 0.0]])}, [[1, 0]], ["tags_0", "tags_1"]),
        ({"old": (Value("bool"), [True, False]), "big": (Value("int8"), [0, 1])}, [[1, 0], [0, 1]], ["old", "big"]),
        ({"old": (Value("bool"), [True, False])}, [[1], [0]], ["old"]),
        ({"kind": (Value("string"), ["b", "a"])}, [[0, 1], [1, 0]], ["a", "b"]),
        ({"kind": (COLOURS, [1, 0])}, [[0, 1], [1, 0]], ["red", "green"]),
    ],
)
def test_multi_labels(columns, labels, names):
    found, found_names, _ = read(MULTI_LABEL, columns)
    assert (found.dtype, found.tolist(), found_names) == (np.float32, labels, names)


@pytest.mark.parametrize(
    ("columns", "labels", "names"),
    [
        ({"age": (Value("float64"), [0.5, -2.25])}, [[0.5], [-2.25]], ["age"]),
        ({"age": (Value("uint8"), [200, 3])}, [[200], [3]], ["age"]),
        ({"age": (Value("bool"), [True, False])}, [[1], [0]], ["age"]),
        ({"at": (List(Value("float32")), [[0.5, 1], [2, 3]])}, [[0.5, 1], [2, 3]], ["at_0", "at_1"]),
        ({"at": (List(Value("int64")), [[1, 2]])}, [[1, 2]], ["at_0", "at_1"]),
        ({"x": (Value("float32"), [0.5]), "y": (Value("int64"), [3])}, [[0.5, 3]], ["x", "y"]),
        ({"label": (ClassLabel(names=["10", "2.5"]), [1, 0])}, [[2.5], [10]], ["label"]),
    ],
)
def test_numbers(columns, labels, names):
    found, found_names, _ = read(REGRESSION, columns)
    assert (found.dtype, found.tolist(), found_names) == (np.float32, labels, names)


@pytest.mark.parametrize(
    ("problem_type", "columns", "message"),
    [
        (
            SINGLE_LABEL,
            {"label": (Value("float32"), [1.0, 0.5])},
            r"holds 0.5; expected whole .*problem_type=regression",
        ),
        (SINGLE_LABEL, {"label": (Value("float32"), [float("inf")])}, r"holds inf; expected whole numbers"),
        (SINGLE_LABEL, {"tags": (List(Value("string")), [["a"]])}, r"tags .* holds lists.*=multi_label_classification"),
        (SINGLE_LABEL, {"at": (List(Value("float32")), [[0.5]])}, r"at .* holds lists.*problem_type=regression"),
        (SINGLE_LABEL, {"a": (COLOURS, [0]), "b": (COLOURS, [0])}, r"one of 2 labels of a row.*multi_label"),
        (
            SINGLE_LABEL,
            {"label": (Value("int64"), [0, -1])},
            r"row 1 of split train of x has label -1; expected 0 to 0",
        ),
        (
            SINGLE_LABEL,
            {"label": (Value("int64"), [0, None])},
            r"row 1 of split train of x has no label; data.on_error",
        ),
        (SINGLE_LABEL, {"label": (Value("float64"), [0.0, float("nan")])}, r"row 1 .* has no label"),
        (SINGLE_LABEL, {"label": (Value("string"), ["a", ""])}, r"row 1 .* has no label"),
        (
            SINGLE_LABEL,
            {"label": (Value("int64"), [10**9])},
            r"holds 1000000000; expected .*store other labels as strings",
        ),
        (SINGLE_LABEL, {"label": (COLOURS, [2])}, r"has label 2; expected 0 to 1"),
        (
            SINGLE_LABEL,
            {"when": (Value("timestamp[s]"), [None])},
            r"when of .* holds timestamp\[s\]; expected numbers, bool",
        ),
        (SINGLE_LABEL, {"label": (Value("null"), [None])}, r"label of .* holds null; expected numbers"),
        (MULTI_LABEL, {"tags": (List(Value("string")), [["a"], None])}, r"row 1 of .* has no label"),
        (MULTI_LABEL, {"tags": (List(Value("string")), [["a"], [None]])}, r"row 1 of .* has no label"),
        (MULTI_LABEL, {"tags": (List(Value("int8")), [[0, 5], [-3]])}, r"row 1 .* has label -3; expected 0 to 5"),
        (MULTI_LABEL, {"tags": (List(Value("bool")), [[True], [True, False]])}, r"row 1 .* has 2 labels; expected 1"),
        (MULTI_LABEL, {"tags": (List(Value("float32")), [[0.5]])}, r"has label 0.5 for tags_0; expected 0 or 1"),
        (MULTI_LABEL, {"a": (Value("int8"), [3]), "b": (Value("int8"), [0])}, r"has label 3 for a; expected 0 or 1"),
        (MULTI_LABEL, {"a": (Value("int8"), [1]), "b": (Value("int8"), [None])}, r"has no label for b"),
        (
            MULTI_LABEL,
            {"a": (Value("bool"), [True]), "b": (Value("string"), ["x"])},
            r"b of .* holds strings; expected 0 or 1",
        ),
        (
            REGRESSION,
            {"label": (Value("string"), ["a"])},
            r"holds strings; expected numbers, as model.problem_type=reg",
        ),
        (REGRESSION, {"label": (COLOURS, [1])}, r"holds classes \(red, green\); expected numbers"),
        (REGRESSION, {"at": (List(Value("float32")), [[1, 2], [1, 2, 3]])}, r"row 1 .* has 3 numbers; expected 2"),
        (REGRESSION, {"at": (List(Value("float32")), [[1, None]])}, r"has no label for at_1"),
        (REGRESSION, {"age": (Value("float32"), [float("nan")])}, r"row 0 .* has no label"),
        (REGRESSION, {"age": (Value("float32"), [float("inf")])}, r"has label inf for age; expected a finite number"),
        (
            REGRESSION,
            {"a": (Value("int8"), [3]), "b": (List(Value("int8")), [[0]])},
            r"b of .* holds lists; expected numbers",
        ),
    ],
)
def test_what_is_not_a_label_is_named(problem_type, columns, message):
    with pytest.raises(UserError, match=message):
        read(problem_type, columns)


def test_rows_without_a_label_are_left_out(capsys):
    column = {"tags": (List(Value("string")), [["b"], None, ["a"]])}
    labels, names, kept = read(MULTI_LABEL, column, on_error="skip")
    assert (labels.tolist(), names, kept) == ([[0, 1], [1, 0]], ["a", "b"], [0, 2])
    assert (
        "left out 1 of 3 samples of split train of x: row 1 of split train of x has no label" in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="split train of x has no samples"):
        read(SINGLE_LABEL, {"label": (Value("int64"), [None, -1])}, on_error="skip")


@pytest.mark.parametrize(
    ("problem_type", "features", "expected"),
    [
        (SINGLE_LABEL, {"id": Value("int64"), "fine": COLOURS}, ["fine"]),
        (SINGLE_LABEL, {"id": Value("int64"), "label": Value("string")}, ["label"]),
        (SINGLE_LABEL, {"note": Value("string"), "kind": Value("uint8")}, ["kind"]),
        (SINGLE_LABEL, {"__key__": Value("string"), "kind": Value("string")}, ["kind"]),
        (MULTI_LABEL, {"kind": COLOURS, "tags": List(Value("string"))}, ["tags"]),
        (REGRESSION, {"id": Value("int64"), "age": Value("float32")}, ["age"]),
        (REGRESSION, {"name": Value("string"), "labels": List(Value("float32"))}, ["labels"]),
    ],
)
def test_the_column_of_labels_is_found(problem_type, features, expected):
    features = datasets.Features({"image": datasets.Image(), "path": Value("string"), **features})
    assert find_labels(features, None, ["image", "path"], problem_type, "x") == expected


@pytest.mark.parametrize(
    ("of_data", "wanted", "expected"),
    [
        (["0", "1"], ["1", "0"], [1, 0]),  # names, although they look like numbers
        (["0", "1", "2"], ["a", "b"], [0, 1, -1]),
        (["b", "z"], ["a", "b"], [1, -1]),
        (["0", "1", "2"], ["1", "2", "other"], [-1, 0, 1]),  # names, of which the lowest number is none
        (["0", "1"], ["0", "2", "3"], [0, -1]),
        (["0", "1"], ["a", "b", "0"], [2, -1]),
        (["0", "1", "2"], ["000", "001", "002"], [0, 1, 2]),
        (["0", "1", "2", "3"], ["0", "1", "A"], [0, 1, 2, -1]),  # digits and letters, of which the third is meant
    ],
)
def test_names_are_matched(of_data, wanted, expected):
    assert match_names(of_data, wanted).tolist() == expected


def test_labels_are_renumbered():
    assert renumber(np.array([1, 0, 1]), np.array([2, 0]), 3).tolist() == [0, 2, 0]
    several = np.array([[1, 0], [1, 1]], np.float32)
    assert renumber(several, np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 1]]
