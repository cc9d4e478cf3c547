import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lab.data.decoded_images import IMAGE
from lab.data.opening import DIGITS_TEST_IMAGES
from lab.data.sources import Reading, Source, load_sources
from lab.data.stratified import stratified_order
from lab.errors import UserError
from lab.recipe import Data
from tests.small_data import CLASSES, coloured_images, make_image_folder, make_parquet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(settings: Data) -> list[Source]:
    return load_sources(Reading(settings, (IMAGE,)))


def pictures(source: Source, samples) -> list[Image.Image]:
    return [Image.open(io.BytesIO(value["bytes"])) for value in source.read(np.array(samples))["image"]]


def write_parquet(folder, columns, features, split="train"):
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(folder / f"{split}.parquet")


def test_every_stretch_of_the_order_is_stratified():
    labels = np.repeat([0, 1, 2], [500, 300, 10])
    order = stratified_order(labels, seed=0)
    assert sorted(order) == list(range(len(labels)))
    for start, stop in ((0, 81), (81, 243), (500, 581)):
        counts = np.bincount(labels[order[start:stop]], minlength=3)
        expected = (stop - start) * np.array([500, 300, 10]) / 810
        assert np.abs(counts - expected).max() <= 1
    assert not np.array_equal(order, stratified_order(labels, seed=1))
    assert np.array_equal(order, stratified_order(labels, seed=0))


def test_digits():
    train, test = load(Data(name="digits"))
    assert len(test.labels) == DIGITS_TEST_IMAGES
    assert len(train.labels) == 1797 - DIGITS_TEST_IMAGES
    assert train.label_names == [str(digit) for digit in range(10)]
    assert np.bincount(test.labels).min() >= 34
    images = [np.asarray(image) for image in pictures(train, range(len(train.labels)))]
    assert {image.shape for image in images} == {(8, 8)}
    assert max(image.max() for image in images) == 255
    # All 1797 images are different, so none of the test images may be among the others.
    seen = {image.tobytes() for image in images}
    assert not any(np.asarray(image).tobytes() in seen for image in pictures(test, range(DIGITS_TEST_IMAGES)))


def test_a_local_folder_wins_over_the_name(tmp_path):
    make_parquet(tmp_path / "data", names=("picture", "kind"))
    train, test = load(Data(name="digits", path=str(tmp_path / "data")))
    assert train.label_names == CLASSES
    assert (len(train.labels), len(test.labels)) == (60, 21)
    assert train.labels[:4].tolist() == [0, 1, 2, 0]
    assert set(train.read(np.array([5]))["image"][0]) == {"bytes", "path"}
    assert train.fingerprint != test.fingerprint


def test_a_folder_of_images(tmp_path):
    train, test = load(Data(path=str(make_image_folder(tmp_path / "data"))))
    assert train.label_names == sorted(CLASSES)
    assert np.bincount(train.labels).tolist() == [4, 4, 4]
    assert len(test.labels) == 6
    assert "train" in train.read(np.array([0]))["image"][0]["path"]


def test_labels_may_be_bare_numbers(tmp_path):
    images, labels = coloured_images(6, seed=0)
    for split in ("train", "test"):
        features = {"image": datasets.Image(), "label": datasets.Value("int64")}
        write_parquet(tmp_path / "data", {"image": images, "label": labels}, features, split)
    assert load(Data(path=str(tmp_path / "data")))[0].label_names == ["0", "1", "2"]


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"data.path=.*nowhere: no such folder"):
        load(Data(path=str(tmp_path / "nowhere")))


def test_folder_without_data(tmp_path):
    with pytest.raises(UserError, match=r"data.path=.* cannot be loaded .*expected parquet, JSONL or CSV files"):
        load(Data(path=str(tmp_path)))


def test_name_that_cannot_be_loaded(monkeypatch):
    def refuse(name, streaming):
        raise ConnectionError(f"no network for {name}")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"data.name=some/where .*no network.*data.path"):
        load(Data(name="some/where"))


@pytest.mark.parametrize("key", ["train_split", "test_split"])
def test_missing_split(key):
    with pytest.raises(UserError, match=f"data.{key}=holdout: no such split in digits; there are train, test"):
        load(Data(name="digits", **{key: "holdout"}))


def test_empty_split(tmp_path):
    make_parquet(tmp_path / "data", test=0)
    with pytest.raises(UserError, match=r"data.path=.* cannot be loaded .*\"test\" corresponds to no data"):
        load(Data(path=str(tmp_path / "data")))


def test_no_image_column(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / "data", {"label": [0]}, {"label": datasets.ClassLabel(names=["a"])}, split)
    with pytest.raises(UserError, match=r"has 0 image columns; expected one among label \(ClassLabel\)"):
        load(Data(path=str(tmp_path / "data")))


def test_two_label_columns_need_a_choice(tmp_path):
    fine, coarse = datasets.ClassLabel(names=CLASSES), datasets.ClassLabel(names=["warm", "cold"])
    columns = {"img": [Image.new("RGB", (8, 8))], "fine": [2], "coarse": [1]}
    for split in ("train", "test"):
        write_parquet(tmp_path / "data", columns, {"img": datasets.Image(), "fine": fine, "coarse": coarse}, split)
    settings = Data(path=str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"2 columns of class labels.*Name the right one as data.label_column"):
        load(settings)
    settings.label_column = "coarse"
    assert load(settings)[0].label_names == ["warm", "cold"]
    settings.label_column = "other"
    with pytest.raises(UserError, match=r"data.label_column=other: .* has columns img, fine, coarse"):
        load(settings)


@pytest.mark.parametrize(("label", "message"), [(-1, "has label -1; expected 0 to 2"), (None, "has no label")])
def test_label_out_of_range_is_named_or_left_out(tmp_path, capsys, label, message):
    make_parquet(tmp_path / "data")
    images, labels = coloured_images(6, seed=0)
    labels[4] = label
    features = {"img": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    write_parquet(tmp_path / "data", {"img": images, "label": labels}, features, "test")
    with pytest.raises(UserError, match=f"row 4 of split test of .* {message}"):
        load(Data(path=str(tmp_path / "data")))

    test = load(Data(path=str(tmp_path / "data"), on_error="skip"))[1]
    assert test.labels.tolist() == labels[:4] + labels[5:]
    assert pictures(test, [4])[0].tobytes() == images[5].tobytes()
    assert "left out 1 of 6 samples of split test" in capsys.readouterr().out


def test_label_above_the_range_names_the_row(tmp_path):
    # `datasets` refuses to write such a file, but other programs do write them.
    file = make_parquet(tmp_path / "data") / "test.parquet"
    table = pq.read_table(file)
    labels = table["label"].to_pylist()
    labels[7] = 3
    table = table.set_column(table.column_names.index("label"), table.field("label"), pa.array(labels))
    pq.write_table(table, file)
    with pytest.raises(UserError, match=r"row 7 of split test of .* has label 3; expected 0 to 2"):
        load(Data(path=str(tmp_path / "data")))


def test_a_name_without_an_owner_is_no_data_set(tmp_path, monkeypatch):
    """`datasets` would take a folder of that name that it has loaded before, whatever that held."""
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **kwargs: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"data.name=udhr is not OWNER/NAME, .*: say where the data are, by data.path="):
        load_sources(Reading(Data(name="udhr"), (IMAGE,)))
