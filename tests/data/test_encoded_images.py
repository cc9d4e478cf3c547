import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from lab.augment.crops import random_box
from lab.data.encoded_images import EncodedImages
from lab.data.loaders import EpochLoader, Place
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from tests.small_data import CLASSES, TINY_RUN

pytestmark = pytest.mark.slow

SCALE = (0.2, 0.9)
SIZES = [(24, 16), (9, 31), (40, 40), (8, 8)]
MODES = ["RGB", "L", "P", "RGBA"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def images(count, seed):
    """Of all sizes and kinds; opaque, since what is transparent has no one right colour."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(count):
        width, height = SIZES[row % len(SIZES)]
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        made.append(image.convert(MODES[row // len(SIZES) % len(MODES)]))
    return made


@pytest.fixture
def folder(tmp_path):
    for seed, (split, count) in enumerate({"train": 44, "test": 6}.items()):
        for row, image in enumerate(images(count, seed)):
            path = tmp_path / "data" / split / CLASSES[row % 3] / f"{row:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return tmp_path / "data"


def load(folder, *overrides):
    options = [*TINY_RUN, f"data.path={folder}", f"augmentation.random_resized_crop={list(SCALE)}", *overrides]
    return build_task(load_recipe(DEFAULT_RECIPE, options)).load_splits()


def read(dataset, epoch=0, done=0, size=8, parts=1, process=0, processes=1, workers=0):
    place = Place(process, processes, torch.device("cpu"))
    return list(EpochLoader(dataset, size, parts, 0, place, workers).batches(epoch, done))


def joined(batches):
    return {name: torch.cat([batch[name] for batch in batches]) for name in ("pixels", "labels")}


def assert_equal(batch, other):
    assert all(torch.equal(batch[name], other[name]) for name in ("pixels", "labels"))


def test_crops_are_those_of_pillow(folder):
    """Decoded, cropped and resized here once more, in the order that the seed says."""
    train = load(folder).train
    assert isinstance(train, EncodedImages)
    found = joined(read(train, epoch=3))
    order = np.random.default_rng((0, 3)).permutation(len(train))
    for pixels, label, row in zip(found["pixels"], found["labels"], order, strict=False):
        (encoded,) = train.source.read(train.rows[[row]])["image"]
        image = train.decoder.upright_image(encoded)
        box = random_box(image.size, SCALE, 0, 3, row)
        expected = image.convert("RGB").crop(box).resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels.permute(1, 2, 0), np.asarray(expected))
        assert label == train.labels[row]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_crop_depends_on_neither_cut_nor_interruption(folder, workers):
    train = load(folder).train
    whole = read(train, epoch=1)
    assert len(whole) == 4
    assert_equal(joined(read(train, epoch=1, workers=workers)), joined(whole))
    assert_equal(joined(read(train, epoch=1, parts=4, workers=workers)), joined(whole))
    assert_equal(joined(read(train, epoch=1, done=16, workers=workers)), joined(whole[2:]))
    assert_equal(joined(read(train, epoch=1, done=8, size=4, workers=workers)), joined(whole[1:]))
    halves = [read(train, epoch=1, process=process, processes=2, workers=workers) for process in range(2)]
    assert_equal(joined([batch for pair in zip(*halves, strict=True) for batch in pair]), joined(whole))


def test_each_epoch_crops_anew(folder):
    train = load(folder).train
    first, second = (train.in_epoch(0, epoch).__getitems__([0, 1, 2])["pixels"] for epoch in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, train.in_epoch(1, 0).__getitems__([0, 1, 2])["pixels"])


def test_evaluation_resizes_and_crops_the_centre(folder):
    """Also of the images to train on, where somebody scores those."""
    with_crops, without = load(folder), load(folder, "augmentation.random_resized_crop=null")
    for name in ("train", "validation", "test"):
        dataset, expected = getattr(with_crops, name), getattr(without, name)
        rows = list(range(len(expected)))
        assert_equal(dataset.__getitems__(rows), expected.__getitems__(rows))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_or_the_next_stands_in_for_it(folder, workers, capfd):
    broken = sorted((folder / "train").rglob("*.png"))[5]
    broken.write_bytes(broken.read_bytes()[:60])
    options = ["data.validation_samples=1", "data.on_error=raise"]
    with pytest.raises(UserError) as raised:
        read(load(folder, *options).train, workers=workers)
    assert str(raised.value).startswith("row 5 of split train") and str(raised.value).endswith("leaves such out")
    assert broken.name in str(raised.value) and "\n" not in str(raised.value)
    train = load(folder, *options[:1], "data.on_error=skip").train
    (index,) = np.flatnonzero(train.source.rows[train.rows] == 5)
    whole = joined(read(train, size=1, workers=workers))
    assert f"left out: row 5 of {train.source.name}" in "".join(capfd.readouterr())
    order = np.random.default_rng((0, 0)).permutation(len(train)).tolist()
    gap, next_one = order.index(index), order.index((index + 1) % len(train))
    assert torch.equal(whole["pixels"][gap], whole["pixels"][next_one])
    assert whole["labels"][gap] == whole["labels"][next_one]
    assert_equal(joined(read(train, size=4, workers=workers)), {name: rows[:40] for name, rows in whole.items()})


def test_a_dataset_without_a_usable_image(tmp_path):
    for split in ("train", "test"):
        for row in range(14):
            path = tmp_path / "data" / split / CLASSES[row % 3] / f"{row:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"nothing")
    recipe = ["data.on_error=skip", "data.test_split=null", "data.validation_samples=2"]
    with pytest.raises(UserError, match="has no usable image"):
        read(load(tmp_path / "data", *recipe).train)


def test_it_can_be_sent_to_a_process_that_is_not_forked(folder):
    train = load(folder).train.in_epoch(0, 1)
    content = pickle.dumps(train)
    assert_equal(pickle.loads(content).__getitems__([0, 1, 2]), train.__getitems__([0, 1, 2]))
