"""Folders of `.ts` files."""

import numpy as np
import pytest

from lab.data.sound import AUDIO, SoundDecoder
from lab.data.sources import Reading
from lab.data.splits import choose_splits
from lab.errors import UserError
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyFeatureExtractor

HEADER = "#Made up for a test.\n@problemName Two\n@timeStamps false\n@univariate false\n"
CLASSES = "@classLabel true down up\n@data\n"
ROWS = ["1,2,3:0,0,0:up", "3,2,1:0,0,0:down", "0,1:1,1:up", "5,4,3,2:1,1,1,1:down"]


def write(folder, rows=ROWS, header=HEADER + CLASSES, name="Two", test=ROWS[:2]):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_TRAIN.ts").write_text(header + "\n".join(rows) + "\n")
    if test:
        (folder / f"{name}_TEST.ts").write_text(header + "\n".join(test) + "\n")
    return folder


def read(folder, channels=2, problem_type="single_label_classification", **settings):
    data = Data(path=str(folder), validation_samples=2, **settings)
    decoder = SoundDecoder(data, PerceiverStudyFeatureExtractor(channels, do_rescale=False))
    return [rows and decoder.decode(rows) for rows in choose_splits(Reading(data, (AUDIO,), problem_type))]


def test_series_of_different_lengths(tmp_path):
    train, validation, test = read(write(tmp_path))
    assert len(train) == 2 and len(validation) == 2 and len(test) == 2
    np.testing.assert_array_equal(test.sample(0), [[1, 0], [2, 0], [3, 0]])
    assert test.labels.tolist() == [1, 0]  # up, down


def test_numbers_to_predict(tmp_path):
    rows = [f"1,2,{number}:{number / 2}" for number in range(5)]
    folder = write(tmp_path, rows, HEADER + "@targetLabel true\n@data\n", test=rows[:1])
    train, _, test = read(folder, 1, "regression")
    assert test.labels.tolist() == [[0.0]] and len(train) == 3


def test_a_header_that_says_that_there_are_no_numbers(tmp_path):
    header = HEADER.replace("@timeStamps", "@TimeStamps") + "@targetlabel False\n" + CLASSES.replace("true", "True")
    assert read(write(tmp_path, header=header))[2].labels.tolist() == [1, 0]


def test_a_mark_of_byte_order_is_no_line(tmp_path):
    assert read(write(tmp_path, header="\ufeff" + HEADER + CLASSES))[2].labels.tolist() == [1, 0]


def test_hidden_files_are_left_out(tmp_path):
    (write(tmp_path) / "._Two_TRAIN.ts").write_bytes(b"\0")
    assert len(read(tmp_path)[0]) == 2


def test_the_one_that_is_called_like_the_folder(tmp_path):
    folder = write(write(tmp_path / "Two"), ROWS[:1], name="Two_eq", test=None)
    assert len(read(folder)[0]) == 2
    with pytest.raises(UserError, match="holds One, Two"):
        read(write(write(tmp_path / "other"), name="One"))


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["1,a:0,0:up"], HEADER + CLASSES, r"Two_TRAIN.ts, line 7 is not a series"),
        (["1,2:0,0:sideways"], HEADER + CLASSES, r"label sideways is none of those that @classLabel says, down, up"),
        (["1,2:0,0"], HEADER + "@classLabel false\n@data\n", r"expected @classLabel true"),
        (ROWS, HEADER + "@targetLabel false\n@data\n", r"expected @classLabel true or @targetLabel true"),
        (["1,2:0,0:up"], HEADER + "@targetLabel true\n@data\n", r"target up is not a number"),
        ([], HEADER + CLASSES, r"is not a .ts file with labels"),
        (ROWS, "@timeStamps true\n" + CLASSES, r"has time stamps"),
        (["1,?,3:0,0,0:up", *ROWS], HEADER + CLASSES, r"holds nan at sample 1"),
        (["1,2,3:up", "2,1,0:down"] * 2, HEADER + CLASSES, r"shape \(1, 3\): expected 2 channels"),
    ],
)
def test_what_is_refused(tmp_path, rows, header, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, rows, header))


def test_streams_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data.streaming=true: .* holds .ts files"):
        read(write(tmp_path), streaming=True, train_samples=2)
