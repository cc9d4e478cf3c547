"""Splits by the value of a column."""

import datasets
import pytest

from lab.data.sound import AUDIO
from lab.data.sources import Reading
from lab.data.splits import choose_split, choose_splits
from lab.errors import UserError
from lab.recipe import Data

SPEAKERS = ["ann", "bob", "cid"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held-out")
    for split, count in (("train", 24), ("test", 6)):
        rows = {
            "series": [[float(index)] for index in range(count)],
            "label": ["ab"[index % 2] for index in range(count)],
            "speaker": [SPEAKERS[index % 3] for index in range(count)],
            "take": list(range(count)),
        }
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"{split}.parquet")
    return folder


def reading(folder, **settings):
    settings = {"validation_samples": 4, **settings}
    return Reading(Data(path=str(folder), columns={"label": "label", "audio": "series"}, **settings), (AUDIO,))


def values(rows):
    """Which samples these are; 0 to 23 in the train split, 0 to 5 in the test split."""
    return sorted(int(series[0]) for series in rows.source.read(rows.rows)["audio"])


def test_a_speaker_is_tested_on_wherever_its_rows_are(folder):
    train, validation, test = choose_splits(reading(folder, hold_out={"speaker": "bob"}))
    assert values(test) == sorted([*range(1, 24, 3), 1, 4])
    others = sorted([*(index for index in range(24) if index % 3 != 1), 0, 2, 3, 5])
    assert sorted(values(train) + values(validation)) == others
    assert len(validation.rows) == 4
    assert values(choose_split(reading(folder, hold_out={"speaker": "bob"}), "test")) == values(test)


def test_one_to_validate_on_and_one_to_test_on(folder):
    settings = {"hold_out": {"speaker": "bob"}, "validate_on": {"speaker": ["ann"]}}
    train, validation, test = choose_splits(reading(folder, **settings))
    assert values(validation) == sorted([*range(0, 24, 3), 0, 3])
    assert values(train) == sorted([*range(2, 24, 3), 2, 5])
    assert values(test) == sorted([*range(1, 24, 3), 1, 4])
    for split, expected in (("train", train), ("validation", validation), ("test", test)):
        assert values(choose_split(reading(folder, **settings), split)) == values(expected)
    without_test = choose_splits(reading(folder, **settings, test_split=None))  # whose file is not read then
    assert values(without_test[0]) == list(range(2, 24, 3)) and without_test[2] is None
    assert len(choose_splits(reading(folder, **settings, train_samples=5))[0].rows) == 5


def test_validation_alone(folder):
    train, validation, test = choose_splits(reading(folder, validate_on={"speaker": "ann"}))
    assert values(validation) == list(range(0, 24, 3)) and values(test) == list(range(6))
    assert values(train) == [index for index in range(24) if index % 3]


def test_several_columns(folder):
    _, _, test = choose_splits(reading(folder, hold_out={"speaker": "bob", "take": [1, 4]}))
    assert values(test) == [1, 1, 4, 4]


def write(folder, split, speakers, names=("a", "b"), labels=None, feature=None):
    """Series 0, 1, .. of these speakers, in classes with these names."""
    labels = labels or [index % 2 for index in range(len(speakers))]
    features = {
        "series": datasets.List(datasets.Value("float64")),
        "label": datasets.ClassLabel(names=list(names)),
        "speaker": feature or datasets.Value("string"),
    }
    rows = {"series": [[float(index)] for index in range(len(speakers))], "label": labels, "speaker": speakers}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(folder / f"{split}.parquet")
    return folder


def test_data_of_a_single_split(tmp_path):
    write(tmp_path, "train", ["ann", "bob"] * 6, labels=[0, 0, 1, 1] * 3)
    settings = reading(tmp_path, hold_out={"speaker": "bob"})
    train, _, test = choose_splits(settings)
    assert values(test) == values(choose_split(settings, "test")) == list(range(1, 12, 2))
    assert not {*values(train)} & {*values(test)}
    with pytest.raises(UserError, match=r"data.test_split=test: no such split"):
        choose_splits(reading(tmp_path))


@pytest.mark.parametrize("hold_out", [{}, {"speaker": "bob"}], ids=str)
def test_no_split_is_both_to_train_and_to_test_on(folder, hold_out):
    with pytest.raises(UserError, match=r"data.test_split=train: that is what the model trains on"):
        choose_splits(reading(folder, test_split="train", hold_out=hold_out))


@pytest.mark.parametrize(
    ("speakers", "feature", "asked"),
    [
        ([0, 1], datasets.ClassLabel(names=["ann", "bob"]), "bob"),
        ([6, 7], datasets.Value("int64"), 7),
        ([6, 7], datasets.Value("int64"), "7"),
        (["06", "07"], datasets.Value("string"), "07"),
        (["yes", "no"], datasets.Value("string"), "no"),
    ],
    ids=str,
)
def test_values_are_those_that_people_write(tmp_path, speakers, feature, asked):
    write(tmp_path, "train", speakers * 6, labels=[0, 0, 1, 1] * 3, feature=feature)
    assert values(choose_splits(reading(tmp_path, hold_out={"speaker": asked}))[2]) == list(range(1, 12, 2))


@pytest.mark.parametrize(
    ("speakers", "feature"),
    [
        (["ann", "bob", None], datasets.Value("string")),
        ([0, 1, -1], datasets.ClassLabel(names=["ann", "bob"])),
    ],
    ids=["text", "class"],
)
def test_rows_of_nobody_are_refused_or_left_out(tmp_path, capsys, speakers, feature):
    write(tmp_path, "train", speakers * 6, feature=feature)
    with pytest.raises(UserError, match=r"data.hold_out: 6 of 18 rows have no speaker, and may be of either side"):
        choose_splits(reading(tmp_path, hold_out={"speaker": "bob"}))
    train, validation, test = choose_splits(reading(tmp_path, hold_out={"speaker": "bob"}, on_error="skip"))
    assert sorted(values(train) + values(validation)) == list(range(0, 18, 3))
    assert values(test) == list(range(1, 18, 3))
    assert "left out: data.hold_out: 6 of 18 rows" in capsys.readouterr().out


def test_splits_may_number_their_classes_differently(tmp_path):
    write(tmp_path, "train", ["ann", "bob"] * 6, names="ab", labels=[0] * 6 + [1] * 6)
    write(tmp_path, "test", ["bob"] * 4, names="cba", labels=[2, 1, 1, 1])
    test = choose_splits(reading(tmp_path, hold_out={"speaker": "bob"}))[2]
    assert [test.source.label_names[label] for label in test.source.labels] == list("aaabbbabbb")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hold_out": {"person": "bob"}}, r"data.hold_out.person: the data has columns series, label, speaker, take"),
        ({"hold_out": {"speaker": "dan"}}, r"data.hold_out.speaker=dan: no row has it; there are ann, bob, cid"),
        ({"hold_out": {"speaker": SPEAKERS}}, r"leaves nothing to train on"),
        ({"hold_out": {"speaker": "ann", "take": 1}}, r"leaves nothing to hold out"),
        ({"hold_out": {"speaker": "ann"}, "validate_on": {"speaker": ["bob", "cid"]}}, r"validate_on=.* to train on"),
        ({"validate_on": {"speaker": "ann"}, "train_samples": 17}, r"data.train_samples=17: .* has 16 samples"),
        ({"hold_out": {"speaker": "ann"}, "streaming": True}, r"data.hold_out: rows of a stream are not known before"),
    ],
)
def test_what_is_refused(folder, settings, message):
    with pytest.raises(UserError, match=message):
        choose_splits(reading(folder, **settings))
