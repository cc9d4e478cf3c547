import json
import multiprocessing
import shutil
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file

import score
import train
from lab.augment.crops import random_box
from lab.data.columns import content_or_name
from lab.data.identity import identity
from lab.data.loaders import Place
from lab.data.opening import readable
from lab.data.streams import StreamLoader
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from lab.training import loop
from tests.processes import run_together, start
from tests.small_data import TINY_RUN, coloured_images, fresh_accelerate, make_shards, write_tar

pytestmark = pytest.mark.slow

STREAM = ["data.streaming=true", "data.shuffle_buffer=6", "data.validation_samples=6"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # `datasets` waits so long for Arrow's threads whenever it has read parquet files.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture(params=["parquet", "tar"])
def kind(request):
    return request.param


def load(folder, *overrides):
    recipe = load_recipe(DEFAULT_RECIPE, [*TINY_RUN, *STREAM, f"data.path={folder}", *overrides])
    return build_task(recipe).load_splits()


def loader(stream, size, process=0, processes=1, seed=0, parts=1, workers=0):
    """Batches of `size` samples over all processes."""
    return StreamLoader(stream, size, parts, seed, Place(process, processes, torch.device("cpu")), workers)


def as_bytes(images):
    """Of decoded images `(n, C, H, W)`."""
    return [np.asarray(image).tobytes() for image in images]


def all_images(start, stop, total):
    return as_bytes(np.asarray(image).transpose(2, 0, 1) for image in coloured_images(total, seed=0)[0][start:stop])


def read(stream, epoch, process=0, processes=1, seed=0):
    rows = stream.read(seed, epoch, process, processes)
    return as_bytes(stream.decode(row)[0] for row in rows)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_image_once_an_epoch(tmp_path, kind, processes):
    sizes = [6, 5, 7, 4, 8, 5]
    splits = load(make_shards(tmp_path / "data", kind, sizes), "data.train_samples=29")
    expected = Counter(all_images(6, 35, 44))
    orders = []
    for epoch in range(3):
        shares = [read(splits.train, epoch, process, processes) for process in range(processes)]
        assert sum(map(Counter, shares), Counter()) == expected
        assert all(shares)
        assert shares == [read(splits.train, epoch, process, processes) for process in range(processes)]
        orders.append(shares)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert read(splits.train, 0, 0, processes, seed=1) != orders[0][0]


def test_other_splits_are_decoded_beforehand(tmp_path, kind):
    splits = load(make_shards(tmp_path / "data", kind, [4, 4, 4]), "data.train_samples=4")
    assert as_bytes(splits.validation.pixels) == all_images(0, 6, 21)
    assert as_bytes(splits.test.pixels) == all_images(12, 21, 21)
    assert splits.test.labels.tolist() == coloured_images(21, seed=0)[1][12:]
    # The rest of the second shard is not trained on either.
    assert Counter(read(splits.train, 0)) == Counter(all_images(8, 12, 21))
    assert splits.label_names == (["red", "green", "blue"] if kind == "parquet" else ["0", "1", "2"])


def test_two_loaders_share_out_an_epoch(tmp_path, kind):
    splits = load(make_shards(tmp_path / "data", kind, [6, 8, 8, 8, 8]), "data.train_samples=32")
    labels = coloured_images(47, seed=0)[1]
    label_of = dict(zip(all_images(0, 47, 47), labels, strict=True))
    seen = Counter()
    for process in range(2):
        batches = loader(splits.train, 8, process, 2)
        assert len(list(batches.batches(1, 0))) == batches.steps_left(0) == 4
        for batch in batches.batches(1, 0):
            assert batch["pixels"].shape == (4, 3, 8, 8) and batch["pixels"].dtype == torch.uint8
            assert batch["labels"].tolist() == [label_of[image] for image in as_bytes(batch["pixels"])]
            seen.update(as_bytes(batch["pixels"]))
    assert seen == Counter(all_images(6, 38, 47))


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_going_on_in_the_middle_of_an_epoch(tmp_path, kind, done):
    splits = load(make_shards(tmp_path / "data", kind, [6, 8, 8, 8, 8]), "data.train_samples=32")
    batches = loader(splits.train, 5, seed=3)
    whole, rest = list(batches.batches(2, 0)), list(batches.batches(2, 5 * done))
    assert len(rest) == 6 - done
    for expected, batch in zip(whole[done:], rest, strict=True):
        assert all(torch.equal(expected[name], batch[name]) for name in ("pixels", "labels"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("process", [0, 1])
def test_random_crops_are_those_of_pillow_and_of_the_place(tmp_path, kind, process, workers):
    """The n-th image of a process's share of an epoch is cropped alike, wherever the epoch is begun."""
    scale = [0.3, 0.9]
    folder = make_shards(tmp_path / "data", kind, [6, 8, 8, 8, 8], size=20)
    stream = load(folder, "data.train_samples=32", f"augmentation.random_resized_crop={scale}").train
    place = {"process": process, "processes": 2, "seed": 3}
    whole = torch.cat([batch["pixels"] for batch in loader(stream, 8, workers=workers, **place).batches(2, 0)])
    for number, row in enumerate(stream.read(3, 2, process, 2)):
        image = stream.decoder.upright_image(row[stream.split.roles["image"]])
        box = random_box(image.size, scale, 3, 2, process, number)
        expected = image.crop(box).resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(whole[number].permute(1, 2, 0), np.asarray(expected))
    assert number == len(whole) - 1 == 15
    rest = loader(stream, 16, parts=2, workers=workers, **place).batches(2, 16)
    assert torch.equal(torch.cat([batch["pixels"] for batch in rest]), whole[8:])


def test_shards_of_different_sizes_fill_equal_shares(tmp_path, kind):
    splits = load(make_shards(tmp_path / "data", kind, [6, 9, 7, 9, 7]), "data.train_samples=32")
    loaders = [loader(splits.train, 16, process, 2).batches(0, 0) for process in range(2)]
    batches = [as_bytes(image for batch in share for image in batch["pixels"]) for share in loaders]
    assert [len(images) for images in batches] == [16, 16]
    assert not set(batches[0]) & set(batches[1])


def test_sizes_come_from_the_image_processor(tmp_path, kind):
    splits = load(make_shards(tmp_path / "data", kind, [6, 6], size=20), "data.train_samples=6")
    batch = next(loader(splits.train, 6).batches(0, 0))
    recipe = load_recipe(DEFAULT_RECIPE, TINY_RUN)
    processor = build_task(recipe).processor
    given = processor(coloured_images(21, seed=0, size=20)[0][6:12], do_normalize=False, do_rescale=False)
    expected = given["pixel_values"].round().clamp(0, 255).to(torch.uint8)
    assert Counter(as_bytes(batch["pixels"])) == Counter(as_bytes(expected))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "data.streaming=true needs data.train_samples"),
        (["data.train_samples=8", "data.validation_samples=20"], "leaves none of the 3 shards of split train of"),
        (["data.train_samples=8", "data.test_split=holdout"], "data.test_split=holdout: no such split"),
        (["data.train_samples=8", "data.path=null", "data.name=digits"], "digits has no shards to stream"),
    ],
)
def test_mistakes_are_named(tmp_path, kind, overrides, message):
    with pytest.raises(UserError, match=message):
        load(make_shards(tmp_path / "data", kind, [6, 8, 8]), *overrides)


def test_fewer_shards_than_processes(tmp_path, kind):
    splits = load(make_shards(tmp_path / "data", kind, [6, 8]), "data.train_samples=8")
    with pytest.raises(UserError, match="leaves 1 shards to train on, fewer than the 2 processes"):
        next(loader(splits.train, 8, 0, 2).batches(0, 0))


def test_what_tells_streams_apart(tmp_path, kind):
    """Not where they lie, but how many shards there are, and what is in them."""

    def of(name, sizes, change=None):
        folder = make_shards(tmp_path / name, kind, sizes)
        if change is not None:
            change(folder)
        return identity(load(folder, "data.train_samples=16"))

    first = of("first", [6, 8, 8])
    assert of("copy", [6, 8, 8]) == first
    others = [
        of("recut", [6, 4, 4, 8]),
        of("other", [6, 8, 8], lambda folder: make_other_shard(folder, kind, "train-00002")),
        of("fewer", [6, 8]),
    ]
    assert len({first, *others}) == 4


def make_other_shard(folder, kind, name):
    """The same pictures with other labels."""
    rows = make_shards(folder / "other", kind, [8]) / f"train-00000.{kind}"
    rows.replace(folder / f"{name}.{kind}")
    shutil.rmtree(folder / "other")


@pytest.mark.parametrize("place", ["train-00000", "train-00001", "train-00002"])
@pytest.mark.parametrize("content", ["junk", "no rows"])
def test_a_shard_that_cannot_be_read(tmp_path, place, content):
    """To validate on or to train on, found at the start or later."""
    folder = make_shards(tmp_path / "data", "parquet", [6, 8, 8, 8])
    path = folder / f"{place}.parquet"
    if content == "junk":
        path.write_bytes(b"junk!")
    else:
        parquet.write_table(parquet.read_table(path).slice(0, 0), path)
    message = r"a shard of split train of .* cannot be read \(.*the file is damaged or has no rows"
    if place == "train-00000" and content == "junk":  # which says what columns there are
        message = r"data.path=.* cannot be loaded \(Parquet file size is 5 bytes"
    with pytest.raises(UserError, match=message):
        list(loader(load(folder, "data.train_samples=24").train, 8).batches(0, 0))


@pytest.mark.parametrize("content", ["junk", "no rows"])
def test_a_test_shard_that_cannot_be_read(tmp_path, content):
    folder = make_shards(tmp_path / "data", "parquet", [6, 8])
    path, more = folder / "test-00000.parquet", folder / "test-00001.parquet"
    if content == "junk":
        more.write_bytes(b"junk!")
    else:
        parquet.write_table(parquet.read_table(path).slice(0, 0), path)
    with pytest.raises(UserError, match=r"a shard of split test of .* cannot be read"):
        load(folder, "data.train_samples=8")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ConnectionResetError("reset by peer"), r"\(reset by peer\): if that is a connection, --resume"),
        (OSError("Couldn't deserialize thrift"), r"thrift\): the file is damaged"),
        (ImportError("install 'torchcodec'"), r"torchcodec'\): install it, or give the files by their paths"),
    ],
)
def test_why_a_shard_cannot_be_read(error, hint):
    def rows():
        yield {"a": 1}
        raise error

    found = readable(rows(), "split train of data")
    assert next(found) == {"a": 1}
    with pytest.raises(UserError, match=f"a shard of split train of data cannot be read .*{hint}"):
        next(found)


def test_a_first_row_is_what_it_holds_and_not_where_it_lies():
    frames = [{"bytes": None, "path": f"/one/{number}.png"} for number in range(2)]
    moved = [{"bytes": None, "path": f"/two/{number}.png"} for number in range(2)]
    assert content_or_name(frames) == content_or_name(moved) != content_or_name(frames[:1])
    assert content_or_name({"bytes": b"a", "path": "/one/a"}) != content_or_name({"bytes": b"b", "path": "/one/a"})


def test_decoding_processes_end_with_the_one_that_was_killed(tmp_path):
    folder = make_shards(tmp_path / "data", "parquet", [6, 8, 8])
    process = start(decode_until_killed, folder, tmp_path / "workers")
    while not ((tmp_path / "workers").exists() and (tmp_path / "workers").read_text().endswith(".")):
        time.sleep(0.01)
    workers = [int(number) for number in (tmp_path / "workers").read_text()[:-1].split()]
    assert len(workers) == 2 and all(map(is_running, workers))
    process.kill()
    process.join()
    until = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < until
        time.sleep(0.01)


def decode_until_killed(folder, file):
    batches = loader(load(folder, "data.train_samples=16").train, 8, workers=2).batches(0, 0)
    next(batches)
    file.write_text(" ".join(str(process.pid) for process in multiprocessing.active_children()) + ".")
    time.sleep(60)


def is_running(process: int) -> bool:
    """Whether it is there, and not only what is left of one that has ended."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_wrong_number_of_images(tmp_path, kind):
    splits = load(make_shards(tmp_path / "data", kind, [6, 8, 8]), "data.train_samples=32")
    with pytest.raises(UserError, match=r"data.train_samples=32 asks for 32 samples .* its 2 shards hold 16"):
        list(loader(splits.train, 8).batches(0, 0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images, labels: labels.__setitem__(3, 3), r"train-00001-00003.png of .* has label 3; expected 0 to 2"),
        (lambda images, labels: labels.__setitem__(3, -1), r"train-00001-00003.png of .* has label -1"),
    ],
)
def test_a_label_out_of_range_is_named(tmp_path, spoil, message):
    folder = make_shards(tmp_path / "data", "tar", [6, 8])
    images, labels = coloured_images(8, seed=2)
    spoil(images, labels)
    write_tar(folder / "train-00001.tar", images, labels)
    with pytest.raises(UserError, match=message):
        list(loader(load(folder, "data.train_samples=8").train, 4).batches(0, 0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_or_left_out(tmp_path, capsys, workers):
    class Broken:
        def save(self, file, _):
            file.write(b"no image")

    folder = make_shards(tmp_path / "data", "tar", [6, 8])
    write_tar(folder / "train-00001.tar", [*coloured_images(2, seed=2)[0], Broken()], [0, 1, 2])
    with pytest.raises(UserError, match=r"train-00001-00002.png of split train of .* is not a usable image: can"):
        list(loader(load(folder, "data.train_samples=3").train, 3, workers=workers).batches(0, 0))

    skipping = load(folder, "data.train_samples=3", "data.on_error=skip").train
    (batch,) = loader(skipping, 3, workers=workers).batches(0, 0)
    labels = batch["labels"].tolist()
    assert set(labels) == {0, 1} and labels[2] == labels[0]
    assert "(1 so far)" in capsys.readouterr().out


def make_labelled(folder, feature, values):
    """Two training shards and a test shard of six pictures, each with these labels."""
    folder.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    rows = datasets.Dataset.from_dict({"image": coloured_images(6, seed=0)[0], "label": values}, features=features)
    for name in ("train-0", "train-1", "test-0"):
        rows.to_parquet(folder / f"{name}.parquet")
    return folder


MULTI = ["model.problem_type=multi_label_classification"]
NUMBERS = ["model.problem_type=regression"]
SMOOTHED = "optimization.label_smoothing=0"  # the default recipe has some


@pytest.mark.parametrize(
    ("feature", "values", "overrides", "labels", "names"),
    [
        (datasets.Value("uint8"), [0, 1, 0, 1, 0, 1], [], [0, 1, 0, 1, 0, 1], ["0", "1", "2"]),
        (datasets.Value("float64"), [0, 1, 2, 1, 0, 1], [], [0, 1, 2, 1, 0, 1], ["0", "1", "2"]),
        (
            datasets.List(datasets.ClassLabel(names=["a", "b", "c"])),
            [[0], [], [2, 0]] * 2,
            MULTI,
            [[1, 0, 0], [0, 0, 0], [1, 0, 1]] * 2,
            ["a", "b", "c"],
        ),
        (datasets.List(datasets.Value("bool")), [[True, False, True]] * 6, MULTI, [[1, 0, 1]] * 6, "label_0 1 2"),
        (datasets.List(datasets.Value("float32")), [[0.5, 2, 3]] * 6, NUMBERS, [[0.5, 2, 3]] * 6, "label_0 1 2"),
    ],
)
def test_labels_of_any_kind(tmp_path, feature, values, overrides, labels, names):
    """What the columns do not declare is seen on the validation samples; classes are as many as the model has."""
    names = [f"label_{index}" for index in range(3)] if isinstance(names, str) else names
    splits = load(make_labelled(tmp_path / "data", feature, values), "data.train_samples=6", SMOOTHED, *overrides)
    assert splits.label_names == names
    assert splits.validation.labels.tolist() == splits.test.labels.tolist() == labels
    batch = next(loader(splits.train, 6).batches(0, 0))
    assert batch["labels"].dtype == (torch.float32 if overrides else torch.int64)
    assert sorted(batch["labels"].tolist()) == sorted(labels)


@pytest.mark.parametrize(
    ("feature", "values", "overrides", "message"),
    [
        (
            datasets.Value("string"),
            ["a", "b", "c"] * 2,
            [],
            r"holds strings; expected numbers or ClassLabel where data.st",
        ),
        (datasets.Value("int64"), [0, 1, 5] * 2, [], r"row 2 of split train of .* has label 5; expected 0 to 2"),
        (datasets.Value("float32"), [0.5] * 6, [], r"holds 0.5; expected whole numbers .*problem_type=regression"),
        (
            datasets.Value("int64"),
            [0, 1, 2] * 2,
            ["optimization.class_weights=balanced"],
            r"balanced: labels of a stream",
        ),
    ],
)
def test_labels_of_a_stream_that_do_not_fit_are_named(tmp_path, feature, values, overrides, message):
    with pytest.raises(UserError, match=message):
        load(make_labelled(tmp_path / "data", feature, values), "data.train_samples=6", *overrides)


@pytest.mark.parametrize("weights", ["null", "[1,2,3]"])
def test_a_regression_on_a_stream_takes_units_from_its_beginning(tmp_path, weights):
    values = [[float(index), 100.0 * index, 7.0] for index in range(6)]
    data = make_labelled(tmp_path / "data", datasets.List(datasets.Value("float32")), values)
    overrides = [*TINY_RUN, *STREAM, *NUMBERS, f"data.path={data}", "data.train_samples=6"]
    more = [f"optimization.class_weights={weights}", SMOOTHED]
    task = build_task(load_recipe(DEFAULT_RECIPE, [*overrides, *more]))
    task.load_splits()
    assert task.target.label_mean.tolist() == pytest.approx([2.5, 250, 7])
    assert task.target.label_deviation.tolist() == pytest.approx([np.std(range(6)), 100 * np.std(range(6)), 1])


def run(folder, data, *overrides):
    fresh_accelerate()
    train.main([*TINY_RUN, *STREAM, f"data.path={data}", f"output_dir={folder}", *overrides])
    return load_file(folder / "model.safetensors")


def test_a_resumed_training_run_ends_with_the_same_weights(tmp_path, kind, monkeypatch):
    data = make_shards(tmp_path / "data", kind, [6, 16, 16, 16])
    settings = ["data.train_samples=48", "checkpoint.every_steps=4", "optimization.gradient_accumulation_steps=2"]
    whole = run(tmp_path / "whole", data, *settings)
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert (metrics["train_samples"], metrics["steps"]) == (48, 12)

    save = loop.save_checkpoint

    def save_and_die(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "resumed", data, *settings)
    resumed = run(tmp_path / "resumed", data, *settings, "--resume")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    # Its validation images can be evaluated on afterwards, its training images are gone.
    fresh_accelerate()
    score.main([str(tmp_path / "whole"), "--split", "validation"])
    scores = json.loads((tmp_path / "whole" / "evaluation" / "validation" / "evaluation.json").read_text())
    assert scores["accuracy"] == metrics["validation_accuracy"]
    with pytest.raises(UserError, match=r"--split train: training samples of a stream"):
        score.main([str(tmp_path / "whole"), "--split", "train"])


def test_training_on_two_processes(tmp_path):
    data = make_shards(tmp_path / "data", "tar", [6, 16, 16])
    overrides = [*TINY_RUN, *STREAM, f"data.path={data}", f"output_dir={tmp_path / 'run'}", "data.train_samples=32"]
    assert run_together(2, train.main, overrides) == [0, 0]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["train_samples"], metrics["test_samples"]) == (8, 32, 9)
