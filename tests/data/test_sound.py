"""Columns of recordings and of series, and what is left out of them."""

import json

import datasets
import numpy as np
import pytest

from lab.data.sound import AUDIO, SoundDecoder
from lab.data.sources import Reading, open_splits
from lab.data.splits import choose_splits
from lab.errors import UserError
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyFeatureExtractor
from tests.task_kinds import RATE, encoded_sound, tones

LABELS = {"label": ["a", "b"] * 4}
RECORDINGS = tones(8, 0)[0]


def decode(folder, channels=1, do_rescale=True, **settings):
    data = Data(path=str(folder), validation_samples=2, test_split=None, **settings)
    train, validation, _ = choose_splits(Reading(data, (AUDIO,)))
    decoder = SoundDecoder(data, PerceiverStudyFeatureExtractor(channels, sampling_rate=RATE, do_rescale=do_rescale))
    return decoder.decode(train), decoder.decode(validation)


def write(folder, values, feature=None, name="sound"):
    table = datasets.Dataset.from_dict({name: values, **LABELS})
    if feature is not None:
        table = table.cast_column(name, feature)
    table.to_parquet(folder / "train.parquet")
    return folder


def lengths(*parts):
    return sorted(int(length) for part in parts for length in part.lengths)


@pytest.mark.parametrize("content", [b"", b"no sound"])
def test_a_broken_recording_is_named(tmp_path, content):
    for number in range(3):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"[ab]/\d.wav is not a recording that can be read: Format not") as caught:
        decode(tmp_path)
    assert " object at " not in str(caught.value)


EXPECTED = sorted(len(one) for one in RECORDINGS)


def test_columns_that_nobody_has_to_name(tmp_path):
    files = [{"bytes": encoded_sound(one), "path": None} for one in RECORDINGS]
    forms = {
        "audio": (files, datasets.Audio(decode=False)),
        "numbers": (RECORDINGS, None),
        "channels": ([[one] for one in RECORDINGS], None),
        "moments": ([one[:, None] for one in RECORDINGS], None),
    }
    for name, (values, feature) in forms.items():
        (tmp_path / name).mkdir()
        assert lengths(*decode(write(tmp_path / name, values, feature))) == EXPECTED, name


def test_a_series_of_as_many_moments_as_channels_is_as_others_are(tmp_path):
    moments = [np.arange(3.0 * length).reshape(length, 3) for length in (3, 5, 4, 3, 3, 6, 3, 4)]
    for form, values in (("moments", moments), ("channels", [one.T for one in moments])):
        (tmp_path / form).mkdir()
        for part in decode(write(tmp_path / form, values), channels=3, do_rescale=False):
            assert all((np.diff(part.sample(row), axis=1) == 1).all() for row in range(len(part))), form


def test_whole_numbers_need_a_range(tmp_path):
    whole = write(tmp_path, [[1, 2, 3]] * 8, datasets.List(datasets.Value("int16")))
    with pytest.raises(UserError, match="it holds whole numbers, and a list does not say how large they can be"):
        decode(whole)
    assert decode(whole, do_rescale=False)[0].sample(0).tolist() == [[1], [2], [3]]


def test_paths_and_bytes_have_to_be_named(tmp_path):
    for number, one in enumerate(RECORDINGS):
        (tmp_path / f"{number}.wav").write_bytes(encoded_sound(one))
    paths = tmp_path / "paths"
    paths.mkdir()
    write(paths, [str(tmp_path / f"{number}.wav") for number in range(8)])
    with pytest.raises(UserError, match=r"0 audio columns; .* Name the right one as data.columns.audio"):
        decode(paths)
    assert lengths(*decode(paths, columns={"audio": "sound"})) == EXPECTED
    content = tmp_path / "content"
    content.mkdir()
    write(content, [encoded_sound(one) for one in RECORDINGS])
    assert lengths(*decode(content, columns={"audio": "sound"})) == EXPECTED


def test_a_folder_of_files_by_class(tmp_path):
    for number, one in enumerate(RECORDINGS):
        folder = tmp_path / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.flac").write_bytes(encoded_sound(one, "FLAC"))
    train, validation = decode(tmp_path)
    assert lengths(train, validation) == EXPECTED
    assert sorted(train.labels.tolist() + validation.labels.tolist()) == [0] * 4 + [1] * 4


def streamed(folder, **settings):
    """Lengths of what a stream without labels to learn shows of recordings."""
    data = Data(path=str(folder), streaming=True, test_split=None, **settings)
    (split,) = open_splits(Reading(data, (AUDIO,)), {"data.train_split": "train"})
    decoder = SoundDecoder(data, PerceiverStudyFeatureExtractor(1, sampling_rate=RATE))
    return sorted(len(decoder.decode_row(split.inputs_of(row))) for row in split.rows)


@pytest.mark.parametrize("inner", ["", "train"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_table_says_what_recordings_are(tmp_path, inner, form):
    folder = tmp_path / inner
    (folder / "files").mkdir(parents=True)
    rows = []
    for number, one in enumerate(RECORDINGS):
        (folder / "files" / f"{number}.wav").write_bytes(encoded_sound(one))
        rows.append({"file_name": f"files/{number}.wav", "label": "ab"[number % 2], "speaker": f"s{number // 4}"})
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    text = {"csv": "\n".join(lines), "jsonl": "\n".join(map(json.dumps, rows))}[form]
    (folder / f"metadata.{form}").write_text(text + "\n")
    assert lengths(*decode(tmp_path)) == streamed(tmp_path) == EXPECTED
    train, validation = decode(tmp_path, validate_on={"speaker": "s1"})
    assert lengths(validation) == sorted(len(one) for one in RECORDINGS[4:]) and len(train) == 4


def test_a_csv_that_names_recordings(tmp_path):
    for number, one in enumerate(RECORDINGS):
        (tmp_path / f"{number}.wav").write_bytes(encoded_sound(one))
    lines = ["audio,label", *(f"{number}.wav,{'ab'[number % 2]}" for number in range(8))]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    chosen = {"columns": {"audio": "audio"}}
    assert lengths(*decode(tmp_path, **chosen)) == streamed(tmp_path, **chosen) == EXPECTED


@pytest.mark.parametrize("ending", ["npy", "csv"])
def test_a_folder_of_series_by_class(tmp_path, ending):
    for number, one in enumerate(RECORDINGS):
        folder = tmp_path / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_series = {"npy": np.save, "csv": lambda path, values: np.savetxt(path, values, delimiter=",")}[ending]
        write_series(folder / f"{number}.{ending}", one)
    train, validation = decode(tmp_path, do_rescale=False)
    assert lengths(train, validation) == EXPECTED
    assert sorted(train.labels.tolist() + validation.labels.tolist()) == [0] * 4 + [1] * 4


@pytest.mark.parametrize("beside", ["{number}.npy", "list.csv", "metadata.txt"])
def test_what_lies_beside_recordings_is_left_out(tmp_path, beside):
    for number, one in enumerate(RECORDINGS):
        folder = tmp_path / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.wav").write_bytes(encoded_sound(one))
        with (folder / beside.format(number=number)).open("wb") as file:
            np.save(file, np.ones((64, 100), np.float32))
    assert lengths(*decode(tmp_path)) == EXPECTED


@pytest.mark.parametrize("broken", [b"no sound", encoded_sound(np.zeros(0, np.float32)), None])
def test_broken_recordings(tmp_path, broken):
    files = [{"bytes": encoded_sound(one), "path": f"{number}.wav"} for number, one in enumerate(RECORDINGS)]
    files[3] = {"bytes": broken, "path": None if broken is None else "3.wav"}
    write(tmp_path, files, datasets.Audio(decode=False))
    with pytest.raises(UserError, match=r"row 3 of .* is not a usable recording: .*data.on_error=skip"):
        decode(tmp_path)
    assert len(lengths(*decode(tmp_path, on_error="skip"))) == 7


def test_nothing_is_usable(tmp_path):
    write(tmp_path, [{"bytes": b"no", "path": None}] * 8, datasets.Audio(decode=False))
    with pytest.raises(UserError, match="has no usable recording"):
        decode(tmp_path, on_error="skip")


def test_batches_are_padded(tmp_path):
    train, _ = decode(write(tmp_path, RECORDINGS))
    batch = train.__getitems__([0, 3, 5])
    assert batch["values"].shape == (3, int(batch["lengths"].max()), 1)
    for row, index in enumerate([0, 3, 5]):
        length = int(batch["lengths"][row])
        np.testing.assert_array_equal(batch["values"][row, :length].numpy(), train.sample(index))
        assert not batch["values"][row, length:].any()
