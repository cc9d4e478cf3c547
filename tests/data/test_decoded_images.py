import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_convert

from lab.data.decoded_images import ImageDataset
from lab.errors import UserError
from lab.recipe import CONFIGURATION_FOLDER, DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from tests.small_data import CIFAR10, CLASSES, TINY_RUN, coloured_images, make_image_folder, make_parquet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def parquet(tmp_path):
    return make_parquet(tmp_path / "data")


def load(path, *overrides):
    recipe = load_recipe(DEFAULT_RECIPE, [*TINY_RUN, f"data.path={path}", *overrides])
    return build_task(recipe).load_splits()


def as_set(dataset: ImageDataset) -> set[bytes]:
    return {image.tobytes() for image in dataset.pixels}


def test_splits_are_disjoint_stratified_and_reproducible(parquet):
    splits = load(parquet)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (48, 12, 21)
    assert np.bincount(splits.validation.labels).tolist() == [4, 4, 4]
    sets = [as_set(part) for part in (splits.train, splits.validation, splits.test)]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    # The seed of the run does not move the validation images, the seed of the split does.
    assert as_set(load(parquet, "seed=3").validation) == sets[1]
    assert as_set(load(parquet, "data.split_seed=3").validation) != sets[1]


def test_fewer_images_to_train_on(parquet):
    splits = load(parquet, "data.train_samples=9")
    assert np.bincount(splits.train.labels).tolist() == [3, 3, 3]
    assert as_set(splits.validation) == as_set(load(parquet).validation)


@pytest.mark.parametrize(
    "overrides",
    [["data.validation_samples=60"], ["data.validation_samples=70"], ["data.train_samples=49"]],
)
def test_too_few_images_to_split(parquet, overrides):
    with pytest.raises(UserError, match=r"has 60 samples: data.validation_samples=\d+ leaves"):
        load(parquet, *overrides)


def test_pixels_and_labels_belong_together(parquet):
    test = load(parquet).test
    images, labels = coloured_images(21, seed=1)
    assert test.labels.tolist() == labels
    for pixels, image in zip(test.pixels, images, strict=True):
        assert np.array_equal(pixels, np.asarray(image).transpose(2, 0, 1))


def test_a_loader_gets_whole_batches(parquet):
    test = load(parquet).test
    batches = list(DataLoader(test, batch_size=8, collate_fn=default_convert))
    assert [len(batch["labels"]) for batch in batches] == [8, 8, 5]
    assert batches[0]["pixels"].dtype == torch.uint8
    assert torch.equal(torch.cat([batch["pixels"] for batch in batches]), torch.from_numpy(test.pixels))


@pytest.mark.parametrize(
    ("stored", "overrides"),
    [(8, []), (8, ["image_processor.size=10"]), (20, []), (5, []), (8, ["model.image_size=[6,4]"])],
)
def test_training_sees_what_the_image_processor_gives(tmp_path, stored, overrides):
    recipe = load_recipe(DEFAULT_RECIPE, [*TINY_RUN, *overrides])
    recipe.data.path = str(make_parquet(tmp_path / "data", size=stored))
    task = build_task(recipe)
    processor, test = task.processor, task.load_splits().test
    trained_on = task.normalize(torch.from_numpy(test.pixels))
    expected = processor(coloured_images(21, seed=1, size=stored)[0])["pixel_values"]
    torch.testing.assert_close(trained_on, expected, rtol=1e-5, atol=1e-5)


def test_colours_become_what_the_model_wants(tmp_path):
    make_image_folder(tmp_path / "data")
    grey = ["model.num_channels=1", "image_processor.image_mean=[0.5]", "image_processor.image_std=[0.5]"]
    splits = load(tmp_path / "data", "data.validation_samples=3", *grey)
    assert splits.test.pixels.shape == (6, 1, 8, 8)
    first = Image.open(sorted((tmp_path / "data/test/blue").iterdir())[0])
    assert np.array_equal(splits.test.pixels[0, 0], np.asarray(first.convert("L")))


def test_a_cache_that_cannot_be_written_is_named(parquet, tmp_path):
    (tmp_path / "decoded").write_text("a file")
    with pytest.raises(UserError, match=r"^data.cache_dir .*decoded cannot be made a folder"):
        load(parquet, "data.max_memory_gb=1e-9", f"data.cache_dir={tmp_path / 'decoded'}")


def test_too_large_for_memory_is_mapped_from_disk(parquet, tmp_path, monkeypatch):
    in_memory = load(parquet)
    small = ["data.max_memory_gb=1e-9", f"data.cache_dir={tmp_path / 'decoded'}"]
    mapped = load(parquet, *small)
    for name in ("train", "validation", "test"):
        part = getattr(mapped, name)
        assert isinstance(part.pixels, np.memmap)
        assert np.array_equal(part.pixels, getattr(in_memory, name).pixels)
        assert torch.equal(part.__getitems__([3, 1])["pixels"], torch.from_numpy(part.pixels[[3, 1]]))
    assert len(list((tmp_path / "decoded").iterdir())) == 3

    monkeypatch.setattr("lab.data.decoded_images.Decoder._fill", lambda *arguments: pytest.fail("decoded again"))
    assert np.array_equal(load(parquet, *small).train.pixels, in_memory.train.pixels)


def test_another_size_is_decoded_anew(parquet, tmp_path):
    small = ["data.max_memory_gb=1e-9", f"data.cache_dir={tmp_path / 'decoded'}"]
    load(parquet, *small)
    assert load(parquet, *small, "model.image_size=4").test.pixels.shape[-1] == 4


def test_a_picture_that_was_written_anew_is_decoded_anew(tmp_path):
    """A table that names it is the same table."""
    folder = make_image_folder(tmp_path / "data")
    for split in ("train", "test"):
        paths = sorted((folder / split).rglob("*.png"))
        lines = [f"{path.relative_to(folder)},{path.parent.name}\n" for path in paths]
        (folder / f"{split}.csv").write_text("".join(["photo,label\n", *lines]))
    settings = [f"data.cache_dir={tmp_path / 'decoded'}", "data.columns.image=photo", "data.validation_samples=3"]
    load(folder, *settings, "data.max_memory_gb=1e-9")
    for path in paths:
        Image.eval(Image.open(path), lambda value: 255 - value).save(path)
    mapped = load(folder, *settings, "data.max_memory_gb=1e-9").test.pixels
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, load(folder, *settings).test.pixels)


def test_a_corrupt_file_is_named(tmp_path):
    folder = make_image_folder(tmp_path / "data")
    broken = sorted((folder / "test" / "green").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=rf"row 2 of split test of .* \(.*{broken.name}\) is not a usable image"):
        load(folder, "data.validation_samples=3")


@pytest.mark.parametrize("content", [b"not an image", b"", None])
@pytest.mark.parametrize("memory", [8, 1e-9])
def test_a_corrupt_row_is_named_or_left_out(tmp_path, memory, content, capsys):
    make_parquet(tmp_path / "data")
    images, labels = coloured_images(21, seed=1)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    rows = datasets.Dataset.from_dict({"img": images, "label": labels}, features=features)
    encoded = [row["img"] for row in rows.cast_column("img", datasets.Image(decode=False))]
    encoded[17] = None if content is None else {"bytes": content, "path": None}
    rows = datasets.Dataset.from_dict({"img": encoded, "label": labels}, features=features)
    rows.to_parquet(tmp_path / "data" / "test.parquet")
    overrides = [f"data.max_memory_gb={memory}", f"data.cache_dir={tmp_path / 'decoded'}"]
    reason = "(cannot identify|there is none)"
    with pytest.raises(UserError, match=rf"row 17 of split test of .* is not a usable image: {reason}"):
        load(tmp_path / "data", *overrides)
    assert not list(tmp_path.glob("decoded/*.tmp"))

    for _ in range(2):  # decoded, and then from the cache
        test = load(tmp_path / "data", *overrides, "data.on_error=skip").test
        assert len(test) == 20
        assert test.labels.tolist() == labels[:17] + labels[18:]
        wanted = torch.from_numpy(np.asarray(images[18]).transpose(2, 0, 1).copy())
        assert torch.equal(test.__getitems__([17])["pixels"][0], wanted)
    assert "left out 1 of 21 images of split test" in capsys.readouterr().out


def test_channels_that_do_not_fit_are_refused(parquet):
    five = [f"image_processor.{name}=[1,1,1,1,1]" for name in ("image_mean", "image_std")]
    with pytest.raises(UserError, match=r"row 0 of split train of .* channels"):
        load(parquet, "model.num_channels=5", "data.validation_samples=59", *five)


@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"no folder {CIFAR10} with CIFAR-10 as parquet files")
def test_cifar10():
    recipe = load_recipe(CONFIGURATION_FOLDER / "cifar10-study.yaml", [f"data.path={CIFAR10}"])
    recipe.data.train_samples = recipe.data.validation_samples = 500
    splits = build_task(recipe).load_splits()
    assert np.bincount(splits.train.labels).tolist() == [50] * 10
    assert np.bincount(splits.validation.labels).tolist() == [50] * 10
    assert splits.test.pixels.shape == (10_000, 3, 32, 32)
    # What the recipe normalises with is the mean of the train split.
    mean = splits.train.pixels.mean(axis=(0, 2, 3)) / 255
    assert mean == pytest.approx(recipe.image_processor["image_mean"], abs=0.01)


def test_another_way_to_resize_is_decoded_anew(tmp_path):
    folder = make_parquet(tmp_path / "data", size=20)
    small = ["data.max_memory_gb=1e-9", f"data.cache_dir={tmp_path / 'decoded'}"]
    nearest, linear = (load(folder, *small, f"image_processor.resample={kind}").test.pixels for kind in (0, 2))
    assert not np.array_equal(nearest, linear)
