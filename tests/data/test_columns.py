"""A recipe says which column is which, where that is not clear."""

import io
import json
import pickle

import datasets
import numpy as np
import pytest
from datasets import Value
from PIL import Image

from lab.data.columns import Column, content_or_name, is_numbers
from lab.data.decoded_images import IMAGE
from lab.data.label_columns import MULTI_LABEL, SINGLE_LABEL
from lab.data.points import POINTS
from lab.data.sound import AUDIO
from lab.data.sources import Reading, TableRows, load_named_sources
from lab.data.splits import all_rows
from lab.data.text import TEXT
from lab.data.video import VIDEO, VideoDecoder
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, Data, load_recipe
from lab.tasks import build_task
from modeling_perceiver_study import PerceiverStudyVideoProcessor
from tests.small_data import CLASSES, TINY_RUN, coloured_images

TWO = {"photo": datasets.Image(), "mask": datasets.Image()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def write(folder, features, values, shards=2):
    """`folder/train-0.parquet`, ... and `folder/test.parquet`, each of the same six rows."""
    folder.mkdir(exist_ok=True)
    features = datasets.Features({**features, "label": datasets.ClassLabel(names=CLASSES)})
    rows = datasets.Dataset.from_dict({**values, "label": coloured_images(6, seed=0)[1]}, features=features)
    for name in [*(f"train-{index}" for index in range(shards)), "test"]:
        rows.to_parquet(folder / f"{name}.parquet")
    return folder


def load(folder, *overrides):
    recipe = load_recipe(DEFAULT_RECIPE, [*TINY_RUN, "data.validation_samples=3", f"data.path={folder}", *overrides])
    return build_task(recipe).load_splits()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["image", "binary", "large_binary", "struct", "bytes alone", "path", "absolute path"])
def test_an_image_column_of_any_type(tmp_path, kind, streaming):
    images, _ = coloured_images(6, seed=0)
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    for index, image in enumerate(images):
        image.save(tmp_path / "data" / "pictures" / f"{index}.PNG")
    paths = [f"pictures/{index}.PNG" for index in range(6)]
    encoded = [png(image) for image in images]
    feature, values = {
        "image": (datasets.Image(), images),
        "binary": (Value("binary"), encoded),
        "large_binary": (Value("large_binary"), encoded),
        "struct": (
            {"bytes": Value("binary"), "path": Value("string")},
            [{"bytes": one, "path": "x"} for one in encoded],
        ),
        "bytes alone": ({"bytes": Value("binary")}, [{"bytes": one} for one in encoded]),
        "path": (Value("string"), paths),
        "absolute path": (Value("string"), [str(tmp_path / "data" / path) for path in paths]),
    }[kind]
    black = [Image.new("RGB", (8, 8))] * 6
    folder = write(tmp_path / "tables", {"photo": feature, "mask": datasets.Image()}, {"photo": values, "mask": black})
    if kind == "path":
        for file in folder.iterdir():
            file.rename(tmp_path / "data" / file.name)
        folder = tmp_path / "data"
    more = ["data.streaming=true", "data.train_samples=6", "data.validation_samples=6"] if streaming else []
    if kind.endswith("path"):  # the same files are tested with
        more.append("data.test_split=null")
    splits = load(folder, "data.columns.image=photo", *more)
    part = splits.validation if kind.endswith("path") else splits.test
    expected = {np.asarray(image).transpose(2, 0, 1).tobytes() for image in images}
    assert {pixels.tobytes() for pixels in part.pixels} <= expected
    if streaming:
        rows = list(splits.train.read(0, 0))
        assert {splits.train.decode(row)[0].tobytes() for row in rows} == expected


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        (
            TWO,
            {},
            r"has 2 image columns; expected one among photo \(Image\), .* Name the right one as data.columns.image",
        ),
        (TWO, {"image": "foto"}, r"data.columns.image=foto: split train of .* has columns photo, mask, label"),
        (TWO, {"image": "label"}, r"data.columns.image=label: that column holds ClassLabel; expected images, bytes"),
        (TWO, {"image": ["photo"]}, r"data.columns.image=\['photo'\]: expected the name of a column$"),
        (TWO, {"image": "photo", "label": []}, r"data.columns.label=\[\]: expected the name of a column, or a list of"),
        (TWO, {"image": "photo", "label": ["a", "a"]}, r"data.columns.label=.*: expected .* a list of different ones"),
        (TWO, {"image": "photo", "label": 3}, r"data.columns.label=3: expected the name of a column"),
        (TWO, {"img": "photo"}, r"data.columns.img: this task reads image, label"),
        ({"photo": Value("binary")}, {}, r"has 0 image columns; expected one among photo \(binary\)"),
        (TWO, {"image": "photo", "label": "kind"}, r"data.columns.label=kind: .* has columns photo, mask, label"),
    ],
)
def test_a_choice_that_does_not_fit_is_named(tmp_path, features, columns, message):
    images, _ = coloured_images(6, seed=0)
    values = {
        name: [png(image) for image in images] if features[name] == Value("binary") else images for name in features
    }
    write(tmp_path / "data", features, values)
    with pytest.raises(UserError, match=message):
        load_named_sources(Reading(Data(path=str(tmp_path / "data"), columns=columns), (IMAGE,)), {"s": "train"})


INPUTS = {
    "image": ((IMAGE,), {"image": "photo", "label": "photo"}),
    "implicit image": ((IMAGE,), {"label": "photo"}),
    "one of several labels": ((IMAGE,), {"label": ["kind", "photo"]}),
    "audio": ((AUDIO,), {"audio": "series", "label": "series"}),
    "points": ((POINTS,), {"points": "cloud", "label": "cloud"}),
    "video": ((VIDEO,), {"video": "clip", "label": "clip"}),
    "text": ((TEXT,), {"text": "kind", "label": "kind"}),
    "several": ((IMAGE, TEXT), {"image": "photo", "text": "kind", "label": "kind"}),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("inputs", "columns"), INPUTS.values(), ids=INPUTS)
def test_an_input_is_no_label(tmp_path, inputs, columns, streaming):
    images, _ = coloured_images(6, seed=0)
    features = {
        "photo": datasets.Image(),
        "series": datasets.List(Value("float32")),
        "cloud": datasets.List(datasets.List(Value("float32"))),
        "clip": Value("binary"),
        "kind": Value("string"),
    }
    values = {
        "photo": images,
        "series": [[0.0, 1.0]] * 6,
        "cloud": [[[0.0, 1.0]]] * 6,
        "clip": [b"x"] * 6,
        "kind": ["a", "b"] * 3,
    }
    write(tmp_path / "data", features, values)
    settings = Data(path=str(tmp_path / "data"), columns=columns, streaming=streaming)
    shared = columns["label"] if isinstance(columns["label"], str) else columns["label"][-1]
    problem = SINGLE_LABEL if isinstance(columns["label"], str) else MULTI_LABEL
    with pytest.raises(UserError, match=rf"has one column, {shared}, for [a-z]+ and label: .* data.columns.label$"):
        load_named_sources(Reading(settings, inputs, problem), {"s": "train"})


def test_labels_are_named_once():
    with pytest.raises(UserError, match=r"data.label_column=fine and data.columns.label=coarse: keep one of them"):
        Reading(Data(name="digits", label_column="fine", columns={"label": "coarse"}), (IMAGE,))


@pytest.mark.parametrize("inner", [datasets.List, datasets.LargeList])
@pytest.mark.parametrize("outer", [datasets.List, datasets.LargeList])
def test_nested_lists_of_any_size_are_points(outer, inner):
    """Some programs write all lists as large ones."""
    assert POINTS.is_certain(outer(inner(Value("float64")))) and not POINTS.is_certain(outer(Value("float64")))


def test_several_inputs(tmp_path):
    """A task may read pictures and texts; each row comes by role."""

    def is_text(feature):
        return feature == Value("string")

    text = Column("text", "texts", is_text, is_text)
    images, labels = coloured_images(6, seed=0)
    captions = [f"number {index}" for index in range(6)]
    write(
        tmp_path / "data",
        {"photo": datasets.Image(), "caption": Value("string")},
        {"photo": images, "caption": captions},
    )
    reading = Reading(Data(path=str(tmp_path / "data")), (IMAGE, text))
    (source,) = load_named_sources(reading, {"data.test_split": "test"})
    read = source.read(np.array([4, 1]))
    assert read["text"] == ["number 4", "number 1"]
    assert Image.open(io.BytesIO(read["image"][0]["bytes"])).tobytes() == images[4].tobytes()
    assert source.labels.tolist() == labels
    copy = pickle.loads(pickle.dumps(source))  # as processes that read ahead get it
    assert copy.read(np.array([4, 1])) == read


FLOATS = Value("float32")
NESTED = {  # of which all rows but some are arrays
    "series": (datasets.List(FLOATS), [[0.1, -2.5], [], [float("nan")]], []),
    "series, some missing": (datasets.List(FLOATS), [[0.1], None, [0.2, None]], [1, 2]),
    "clouds": (datasets.List(datasets.List(FLOATS)), [[[0.1, 1e-9]], [[1.0, 2.0], [3.0, 4.0]], []], []),
    "ragged": (datasets.LargeList(datasets.List(FLOATS)), [[[0.1], [0.2, 0.3]], [[0.4], None], [[0.5]]], [0, 1]),
    "of one length": (datasets.List(datasets.List(FLOATS, length=2)), [[[0.1, 0.2]], [[1.0, 2.0], [3.0, 4.0]]], []),
    "pairs of pairs": (datasets.List(datasets.List(datasets.List(FLOATS))), [[[[0.1], [0.2]]], [[[1.0], [2.0]]]], []),
    "arrays": (datasets.Array2D((2, 2), "float32"), [[[0.1, 0.2], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]], []),
    "in float64": (datasets.List(datasets.List(Value("float64"))), [[[0.1, 0.2]], [[1.0, 2.0]]], []),
}


@pytest.mark.parametrize("kind", NESTED)
def test_floats_are_read_as_arrays(kind):
    """With the numbers that lists have, and called the same."""
    feature, values, lists = NESTED[kind]
    features = datasets.Features({"numbers": feature, "text": Value("string")})
    table = datasets.Dataset.from_dict({"numbers": values, "text": ["a"] * len(values)}, features=features)
    order = np.arange(len(values))[::-1]
    read = TableRows(table, {"points": "numbers", "text": "text"}, None).fetch(order)
    assert read["text"] == ["a"] * len(values)
    for row, found in zip(order, read["points"], strict=True):
        expected = table[int(row)]["numbers"]
        if row in lists:
            assert found == expected
        else:
            assert found.dtype == np.float64
            assert np.array_equal(found, np.array(expected), equal_nan=True)
            assert content_or_name(found) == content_or_name(expected)


@pytest.mark.parametrize("feature", [datasets.List(Value("int16")), datasets.List(Value("string")), FLOATS])
def test_what_is_no_list_of_floats_is_read_as_it_is(feature):
    """Whole numbers keep telling that they are, which sound has to know."""
    assert not is_numbers(feature)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_table_beside_pictures(tmp_path, ending):
    """What people have who wrote a list of their files."""
    images, labels = coloured_images(8, seed=0)
    (tmp_path / "data" / "test images").mkdir(parents=True)
    lines = {"train": [], "test": []}
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        image.save(tmp_path / "data" / "test images" / f"{index}.png")
        lines["test" if index > 4 else "train"].append({"file": f"test images/{index}.png", "kind": CLASSES[label]})
    for split, rows in lines.items():
        separator = "," if ending == "csv" else "\t"
        text = [separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]
        text = map(json.dumps, rows) if ending == "jsonl" else text
        (tmp_path / "data" / f"my-{split}.{ending}").write_text("\n".join(text) + "\n")
    splits = load(tmp_path / "data", "data.columns={image: file, label: kind}", "data.validation_samples=1")
    assert splits.label_names == sorted(CLASSES)
    assert [splits.label_names[label] for label in splits.test.labels] == [CLASSES[label] for label in labels[5:]]
    assert np.array_equal(splits.test.pixels[0], np.asarray(images[5]).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["binary", "struct", "path"])
def test_a_column_of_clips_of_any_type(tmp_path, kind):
    first, second = (Image.new("RGB", (8, 6), (shade, 0, 0)) for shade in (10, 200))
    first.save(tmp_path / "clip.gif", save_all=True, append_images=[second], duration=40)
    content, path = (tmp_path / "clip.gif").read_bytes(), str(tmp_path / "clip.gif")
    feature, value = {
        "binary": (Value("binary"), content),
        "struct": ({"bytes": Value("binary"), "path": Value("string")}, {"bytes": content, "path": "x"}),
        "path": (Value("string"), path),
    }[kind]
    folder = write(tmp_path / "data", {"clip": feature}, {"clip": [value] * 6})
    settings = Data(path=str(folder), columns={"video": "clip"})
    (source,) = load_named_sources(Reading(settings, (VIDEO,)), {"data.train_split": "train"})
    processor = PerceiverStudyVideoProcessor(size={"height": 6, "width": 8}, num_frames=2)
    assert set(VideoDecoder(settings, processor).decode(all_rows(source)).lengths) == {2}
