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
