"""Splits are where a person put them; no sample is trained on and tested with."""

import json
import os
import shutil

import datasets
import numpy as np
import pytest

from lab.data.decoded_images import IMAGE
from lab.data.folders import find_splits
from lab.data.points import POINTS
from lab.data.sound import AUDIO
from lab.data.sources import Reading, load_named_sources
from lab.data.splits import choose_split, choose_splits
from lab.data.text import TEXT
from lab.data.video import VIDEO
from lab.errors import UserError
from lab.recipe import Data
from tests.small_data import CLASSES, coloured_images, make_parquet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def make_pictures(folder, *names):
    """A different picture at each of these places."""
    for image, name in zip(coloured_images(len(names), seed=len(names))[0], names, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


def in_classes(split, *classes):
    return [f"{split}/{name}/{number}.png" for name in classes for number in range(2)]


def splits_of(folder, **settings):
    """Paths below the folder and labels by name, of the splits to train on and to test on."""
    reading = Reading(Data(path=str(folder), validation_samples=1, **settings), (IMAGE,))
    wanted = {"data.train_split": reading.settings.train_split}
    if reading.settings.test_split:
        wanted["data.test_split"] = reading.settings.test_split
    found = []
    for source in load_named_sources(reading, wanted):
        labels = [source.label_names[label] for label in source.labels]
        paths = [os.path.relpath(path, folder) for _, path in source.files()]
        found.append(dict(zip(paths, labels, strict=True)))
    return found


def expected(*names):
    return {name: name.split("/")[-2] for name in names}


@pytest.mark.parametrize("odd", ["train", "test", "valid", "blood_test", "eval 2", "my-dev"])
def test_class_folders_may_have_any_name(tmp_path, odd):
    """Today's names of `datasets` for splits, as whole words of a class, put its pictures into two splits."""
    train, test = in_classes("train", "urine", odd), in_classes("test", "urine", odd)
    folder = make_pictures(tmp_path / "data", *train, *test)
    assert splits_of(folder) == [expected(*train), expected(*test)]


UNREAD = {
    "clips": (VIDEO, ".WebM", ".mkv", r"video .* read with \.avi, \.mkv, \.mov"),
    "recordings": (AUDIO, ".m4a", ".wav", r"audio .* \.flac, .* such as by ffmpeg -i IN OUT.flac"),
    "pictures": (IMAGE, ".avif", ".png", r"image .* \.png, .* or name the files in a table"),
}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("place", ["cat/new", "train/cat/new"])
@pytest.mark.parametrize(("data_input", "ending", "known", "message"), UNREAD.values(), ids=UNREAD)
def test_files_that_would_be_left_out_of_classes_are_named(tmp_path, place, data_input, ending, known, message, alone):
    path = tmp_path / "data" / f"{place}{ending}"
    path.parent.mkdir(parents=True)
    path.touch()
    if not alone:
        path.with_name(f"old{known}").touch()
    reading = Reading(Data(path=str(tmp_path / "data"), test_split=None), (data_input,))
    with pytest.raises(UserError, match=rf"{place}\{ending} is one of 1 files of {message}"):
        load_named_sources(reading, {"data.train_split": "train"})


@pytest.mark.parametrize("form", ["metadata", "parquet"])
def test_files_that_a_table_names_may_have_any_ending(tmp_path, form):
    """The folder that they are in is no class."""
    names = [f"pictures/{number}.{kind}" for number, kind in enumerate(["png", "png", "avif"])]
    folder = make_pictures(tmp_path / "data", *names[:2])
    shutil.copy(folder / names[0], folder / names[2])  # a name, whatever it holds
    if form == "metadata":
        rows = [{"file_name": name, "label": "ab"[number % 2]} for number, name in enumerate(names)]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        reading = Reading(Data(path=str(folder), test_split=None), (IMAGE,))
    else:
        rows = {"image": [str(folder / name) for name in names], "label": list("aba")}
        features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
        table = datasets.Dataset.from_dict(rows, features=features)
        for number in range(3):  # more tables than pictures
            table.to_parquet(folder / f"train-{number}.parquet")
        (folder / names[1]).unlink()
        reading = Reading(Data(path=str(folder), test_split=None), (IMAGE,))
    (source,) = load_named_sources(reading, {"data.train_split": "train"})
    assert len(source.labels) == {"metadata": 3, "parquet": 9}[form]


@pytest.mark.parametrize("splits", [("",), ("train/", "test/")])
def test_folders_in_class_folders_are_refused(tmp_path, splits):
    """`datasets` would take their names for those of classes."""
    names = [f"{split}{name}/{day}/0.png" for split in splits for name in ("cat", "dog") for day in ("one", "two")]
    folder = make_pictures(tmp_path / "data", *names)
    with pytest.raises(UserError, match=r"data/(test/)?cat.one holds files, and the folders of .* are classes"):
        splits_of(folder, test_split=None)


def test_classes_in_the_only_folder_of_a_split(tmp_path):
    train = in_classes("train/images", "cat", "dog")
    folder = make_pictures(tmp_path / "data", *train)
    assert splits_of(folder, test_split=None) == [expected(*train)]


@pytest.mark.parametrize("top", ["", "unpacked/", "set [1] #2: ü/"])
def test_other_places(tmp_path, top):
    train, test = in_classes("Training", "a", "b"), in_classes("holdout", "b")
    folder = make_pictures(tmp_path / "data", *(top + name for name in [*train, *test]))
    found = splits_of(folder, test_split="holdout")
    assert found == [{top + name: kind for name, kind in expected(*names).items()} for names in (train, test)]


def test_classes_without_splits(tmp_path):
    """A class may be called `train` where others are not; all is one split then."""
    names = [f"{name}/{number}.png" for name in ("bus", "car", "train") for number in range(2)]
    folder = make_pictures(tmp_path / "data", *names)
    assert splits_of(folder, test_split=None) == [expected(*names)]
    with pytest.raises(UserError, match=r"data.test_split=test: no such split in .*; there are train"):
        splits_of(folder)


def test_a_table_of_files(tmp_path):
    folder = make_pictures(tmp_path / "data", "train/0.png", "train/1.png", "train/sub/test/2.png", "test/0.png")
    tables = {"train": {"0.png": "cat", "1.png": "dog", "sub/test/2.png": "cat"}, "test": {"0.png": "dog"}}
    for split, kinds in tables.items():
        lines = [json.dumps({"file_name": name, "kind": kind}) + "\n" for name, kind in kinds.items()]
        (folder / split / "metadata.jsonl").write_text("".join(lines))
    assert splits_of(folder) == [
        {f"{split}/{name}": kind for name, kind in kinds.items()} for split, kinds in tables.items()
    ]


def test_names_beside_pictures_do_not_matter(tmp_path):
    train, test = in_classes("train", "a", "b"), in_classes("test", "a", "b")
    folder = make_pictures(tmp_path / "data", *train, *test)
    for name in [*train, *test]:
        (folder / name).with_suffix(".json").write_text("{}")
    (folder / "labels.csv").write_text("name\nx\n")
    assert splits_of(folder) == [expected(*train), expected(*test)]


@pytest.mark.parametrize("ending", ["png", "npy"])
def test_hidden_files_are_left_out(tmp_path, ending):
    """What systems and editors keep beside files is no class."""
    names = [f"{split}/{name}/0.{ending}" for split in ("train", "test") for name in ("a", "b")]
    hidden = [f"train/.ipynb_checkpoints/0.{ending}", f"train/__MACOSX/0.{ending}", f"train/a/._0.{ending}"]
    folder = tmp_path / "data"
    if ending == "png":
        make_pictures(folder, *names, *hidden)
    for name in [*names, *hidden] if ending == "npy" else []:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, np.ones((4, 3)))
    reading = Reading(Data(path=str(folder)), [IMAGE if ending == "png" else POINTS])
    (source,) = load_named_sources(reading, {"data.train_split": "train"})
    assert source.label_names == ["a", "b"] and source.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "names", [("Train.csv", "TEST.csv"), ("training-1.csv", "my_Dev.csv"), ("train.csv", "Test 2.csv")]
)
def test_tables_are_splits_by_words_in_any_case(tmp_path, names):
    for name in [*names, ".~train.csv", "._train.csv"]:
        (tmp_path / name).write_text("photo,label\na.png,x\n")
    found = {
        split: arguments["data_files"][split] for split, arguments in find_splits(tmp_path, {"train"}, True).items()
    }
    assert list(found) in (["train", "test"], ["train", "validation"], ["test", "train"], ["validation", "train"])
    assert sorted(os.path.basename(path) for paths in found.values() for path in paths) == sorted(names)


@pytest.mark.parametrize(
    "names",
    [("train.csv", "Test.CSV"), ("train.CSV", "test.csv"), ("Train.csv", "Test.csv"), ("train.csv", "my Test.csv")],
)
def test_tables_of_texts_are_splits_by_words_in_any_case(tmp_path, names):
    """`datasets` would leave one out, or take both for one split."""
    for split, name in zip("ab", names, strict=True):
        (tmp_path / name).write_text(f"text,label\n{split},x\n", encoding="utf-8")
    sources = load_named_sources(Reading(Data(path=str(tmp_path)), (TEXT,)), {"one": "train", "two": "test"})
    assert [source.read(np.array([0]))["text"] for source in sources] == [["a"], ["b"]]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.jsonl",
            b"",
            r"data.path=.*: split train cannot be loaded \(a file has no rows\); expected .*JSONL or CSV",
        ),
        ("train.csv", b"", r"split train .*cannot be (loaded|read) \(No columns to parse"),
        ("train.csv", b"text,label\ncaf\xe9,x\n", r"tables are read as UTF-8: save them as that, such as by iconv"),
        ("train/x/0.txt", b"one", r"split train of .* has no labels, but texts alone: give a table, such as train.csv"),
    ],
)
def test_texts_that_cannot_be_read(tmp_path, name, content, message, streaming):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    reading = Reading(Data(path=str(tmp_path), streaming=streaming), (TEXT,))
    with pytest.raises(UserError, match=message) as caught:
        load_named_sources(reading, {"data.train_split": "train"})
    assert "\n" not in str(caught.value)


def test_a_readme_says_which_files_are_which_split(tmp_path):
    folder = make_parquet(tmp_path / "data")
    for old, new in {"train": "first", "test": "second"}.items():
        (folder / f"{old}.parquet").rename(folder / f"{new}.parquet")
    files = "\n".join(
        f"  - {{split: {split}, path: {name}.parquet}}"
        for split, name in {"train": "second", "holdout": "first"}.items()
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n---\n")
    assert find_splits(folder, []) is None
    reading = Reading(Data(path=str(folder)), (IMAGE,))
    (source,) = load_named_sources(reading, {"--split": "holdout"})
    assert len(source.labels) == 60


@pytest.mark.parametrize("streaming", [False, True])
def test_what_datasets_saved(tmp_path, streaming):
    loaded = datasets.load_dataset("parquet", data_files={"train": str(make_parquet(tmp_path / "a") / "train.parquet")})
    loaded.save_to_disk(tmp_path / "saved")
    reading = Reading(Data(path=str(tmp_path / "saved"), streaming=streaming), (IMAGE,))
    (source,) = load_named_sources(reading, {"data.train_split": "train"})
    assert (len(source.labels), source.label_names) == (60, CLASSES)


def test_a_file_of_both_splits_is_named(tmp_path):
    folder = make_parquet(tmp_path / "data")
    (folder / "train.parquet").rename(folder / "train-without-test.parquet")
    with pytest.raises(UserError, match=r"train-without-test.parquet is in split train and in split test"):
        choose_splits(Reading(Data(path=str(folder), validation_samples=1), (IMAGE,)))


LINKED = {"image": (IMAGE, "png"), "sound": (AUDIO, "wav"), "video": (VIDEO, "mp4"), "points": (POINTS, "npy")}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("links", [["b"], ["a", "b"], ["nested"]], ids=["one", "all", "nested"])
@pytest.mark.parametrize("kind", LINKED)
def test_linked_class_folders_are_read(tmp_path, kind, links, streaming):
    """`datasets` does not go into links: the class would have no samples, or not be there."""
    data_input, ending = LINKED[kind]
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for name in ("a", "b"):
        place = (elsewhere if name in links or "nested" in links else folder / "train") / name
        place.mkdir(parents=True)
        for number in range(2):
            (place / f"{number}.{ending}").write_bytes(f"{name} {number}".encode())
    (folder / "train").mkdir(parents=True, exist_ok=True)
    if "nested" in links:  # the split is a link, and so is a class in it
        (elsewhere / "b").rename(tmp_path / "b")
        (elsewhere / "b").symlink_to(tmp_path / "b")
        (folder / "train").rmdir()
        (folder / "train").symlink_to(elsewhere)
    else:
        for name in links:
            (folder / "train" / name).symlink_to(elsewhere / name)
    if streaming and kind == "points":
        pytest.skip("such files are read whole")
    reading = Reading(Data(path=str(folder), test_split=None, streaming=streaming), (data_input,))
    (source,) = load_named_sources(reading, {"data.train_split": "train"})
    found = sorted((source.label_names[source.labels[sample]], path[-5:-4]) for sample, path in source.files())
    assert found == [(name, number) for name in "ab" for number in "01"]


def test_a_linked_class_folder_at_a_place_that_has_to_be_escaped_is_named(tmp_path):
    folder = make_pictures(tmp_path / "set [1]", *in_classes("train", "a"))
    make_pictures(tmp_path / "elsewhere", "0.png")
    (folder / "train" / "b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"set \[1\]/train/b is a link to a folder, which .* rename, or put the folder"):
        splits_of(folder, test_split=None)


@pytest.mark.parametrize("kind", LINKED)
@pytest.mark.parametrize("target", ["nowhere", ".."])
@pytest.mark.parametrize("place", ["train/c", "train/a/1.{ending}"])
def test_links_to_nothing_and_in_circles_are_named(tmp_path, kind, place, target):
    data_input, ending = LINKED[kind]
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / f"0.{ending}").write_bytes(b"x")
    link = tmp_path / place.format(ending=ending)
    link.symlink_to(target)
    reading = Reading(Data(path=str(tmp_path), test_split=None), (data_input,))
    expected = "nothing: mend it" if target == "nowhere" else "a folder that it lies in"
    with pytest.raises(UserError, match=rf"{link} is a link to {expected}"):
        load_named_sources(reading, {"data.train_split": "train"})


def test_a_table_of_files_names_some_in_a_linked_folder(tmp_path):
    folder = make_pictures(tmp_path / "data", "train/0.png")
    make_pictures(tmp_path / "elsewhere", "1.png", "2.png")
    (folder / "train" / "more").symlink_to(tmp_path / "elsewhere")
    kinds = {"0.png": "cat", "more/1.png": "dog", "more/2.png": "cat"}
    lines = [json.dumps({"file_name": name, "kind": kind}) + "\n" for name, kind in kinds.items()]
    (folder / "train" / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    (found,) = splits_of(folder, test_split=None)
    assert found == {f"train/{name}": kind for name, kind in kinds.items()}


def test_tables_in_linked_folders_are_named(tmp_path):
    make_parquet(tmp_path / "elsewhere")
    folder = make_parquet(tmp_path / "data")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"data/more is a link to a folder, .* such as \w+.parquet would be left out"):
        splits_of(folder)
    (folder / "more").unlink()
    (folder / "train-2.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data/train-2.parquet is a link to nothing"):
        splits_of(folder)


@pytest.mark.parametrize("how", ["copy", "link"])
def test_a_picture_of_both_splits_is_named_or_left_out(tmp_path, how, capsys):
    train, test = in_classes("train", "a", "b"), in_classes("test", "a", "b")
    folder = make_pictures(tmp_path / "data", *train, *test)
    shared = folder / "test/b/0.png"
    if how == "copy":
        shared.write_bytes((folder / "train/b/1.png").read_bytes())
    else:
        shared.unlink()
        shared.symlink_to(folder / "train/b/1.png")
    settings = Data(path=str(folder), validation_samples=1)
    for choose in (choose_splits, lambda reading: choose_split(reading, "test")):  # of training, and of score.py
        with pytest.raises(UserError, match=r"shares files with split train of .*test/b/0.png .*train/b/1.png.*1 of 4"):
            choose(Reading(settings, (IMAGE,)))
    settings.on_error = "skip"
    _, _, rest = choose_splits(Reading(settings, (IMAGE,)))
    assert rest.source.labels.tolist() == choose_split(Reading(settings, (IMAGE,)), "test").source.labels.tolist()
    assert rest.source.labels.tolist() == [0, 0, 1]
    assert "left out 1 of 4 samples: split test of" in capsys.readouterr().out


def write(folder, split, labels, feature):
    """Coloured pictures with these labels."""
    folder.mkdir(exist_ok=True)
    images, _ = coloured_images(len(labels), seed=len(split))
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    rows.to_parquet(folder / f"{split}.parquet")


@pytest.mark.parametrize(
    ("train", "test", "names"),
    [
        (datasets.ClassLabel(names=["a", "b"]), datasets.ClassLabel(names=["b", "a"]), ["a", "b"]),
        (datasets.ClassLabel(names=["b", "a"]), datasets.Value("string"), ["b", "a"]),
        (datasets.Value("string"), datasets.ClassLabel(names=["unused", "b", "a"]), ["a", "b"]),
        (datasets.Value("string"), datasets.Value("string"), ["a", "b"]),
    ],
)
def test_classes_of_splits_are_matched_by_name(tmp_path, train, test, names):
    """Files that number or store their classes in other ways mean the same classes."""
    stored = ["a", "b", "b", "b"]
    for split, feature in {"train": train, "test": test}.items():
        labels = [feature.str2int(name) for name in stored] if hasattr(feature, "names") else stored
        write(tmp_path / "data", split, labels, feature)
    trained, _, tested = choose_splits(Reading(Data(path=str(tmp_path / "data"), validation_samples=1), (IMAGE,)))
    assert trained.source.label_names == tested.source.label_names == names
    for part in (trained, tested):
        assert [names[label] for label in part.source.labels] == stored


@pytest.mark.parametrize(
    ("feature", "train", "test", "name"),
    [
        (datasets.Value("int64"), [0, 1, 1], [0, 2, 3, 3], "2, 3"),
        (datasets.Value("int64"), [0, 2, 2], [0, 1], "1"),
        (datasets.Value("string"), ["a", "b", "a"], ["a", "z"], "z"),
        (datasets.ClassLabel(names=["a", "b", "c"]), [0, 1, 1], [0, 2], "c"),
    ],
)
def test_labels_that_only_the_test_split_has_are_named_or_left_out(tmp_path, feature, train, test, name):
    write(tmp_path / "data", "train", train, feature)
    write(tmp_path / "data", "test", test, feature)
    settings = Data(path=str(tmp_path / "data"), validation_samples=1)
    with pytest.raises(UserError, match=rf"split test of .* has labels that split train of .* lacks: {name} \("):
        choose_splits(Reading(settings, (IMAGE,)))
    settings.on_error = "skip"
    assert choose_splits(Reading(settings, (IMAGE,)))[2].source.labels.tolist() == [0]


def test_numbers_are_matched_by_name(tmp_path):
    images, _ = coloured_images(3, seed=0)
    for split, order in {"train": ["x", "y"], "test": ["y", "x"]}.items():
        columns = {"image": images, "x": [0.5, 1.5, 2.5], "y": [5.0, 6.0, 7.0]}
        features = datasets.Features({"image": datasets.Image()} | {name: datasets.Value("float32") for name in order})
        (tmp_path / "data").mkdir(exist_ok=True)
        rows = datasets.Dataset.from_dict({name: columns[name] for name in features}, features=features)
        rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
    settings = Data(path=str(tmp_path / "data"), validation_samples=1, columns={"label": ["x", "y"]})
    _, _, tested = choose_splits(Reading(settings, (IMAGE,), "regression"))
    assert np.array_equal(tested.source.labels, np.array([[0.5, 5], [1.5, 6], [2.5, 7]], np.float32))
