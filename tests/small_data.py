"""Little labelled images on disk, for tests."""

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

CLASSES = ["red", "green", "blue"]
CIFAR10 = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"

# A model and a run that take seconds; for `make_parquet` below.
TINY_RUN = [
    "model.image_size=8",
    "model.num_channels=3",
    "model.num_labels=3",
    "model.num_latents=4",
    "model.d_latents=16",
    "model.num_self_attends_per_block=1",
    "model.num_self_attention_heads=2",
    "model.num_cross_attention_heads=1",
    "model.num_frequency_bands=2",
    "model.initializer_range=0.2",
    "image_processor.image_mean=[0.5,0.5,0.5]",
    "image_processor.image_std=[0.25,0.25,0.25]",
    "data.validation_samples=12",
    "optimization.epochs=2",
    "optimization.batch_size=8",
    "optimization.learning_rate=0.01",
    "optimization.cpu_threads=1",
    "checkpoint.every_steps=0",
    "logging.every_steps=2",
]


def coloured_images(count: int, seed: int, size: int = 8) -> tuple[list[Image.Image], list[int]]:
    """Noise in which the channel of the class is the brightest."""
    rng = np.random.default_rng(seed)
    labels = [index % len(CLASSES) for index in range(count)]
    pixels = rng.integers(0, 160, (count, size, size, 3), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[..., label] += 60
    return [Image.fromarray(image) for image in pixels], labels


def make_parquet(
    folder: Path, train: int = 60, test: int = 21, size: int = 8, names: tuple[str, str] = ("img", "label")
):
    """`folder/train.parquet` and `folder/test.parquet`, with columns called `names`."""
    features = datasets.Features({names[0]: datasets.Image(), names[1]: datasets.ClassLabel(names=CLASSES)})
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": train, "test": test}.items()):
        images, labels = coloured_images(count, seed, size)
        dataset = datasets.Dataset.from_dict({names[0]: images, names[1]: labels}, features=features)
        dataset.to_parquet(folder / f"{split}.parquet")
    return folder


def make_image_folder(folder: Path, train: int = 12, test: int = 6, size: int = 8) -> Path:
    """`folder/train/CLASS/00.png`, ..."""
    for seed, (split, count) in enumerate({"train": train, "test": test}.items()):
        for index, (image, label) in enumerate(zip(*coloured_images(count, seed, size), strict=True)):
            path = folder / split / CLASSES[label] / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return folder


def make_shards(folder: Path, kind: str, sizes: list[int], test: int = 9, size: int = 8) -> Path:
    """`folder/train-00000.KIND`, ... with `sizes` images each and `folder/test-00000.KIND`; KIND is parquet or tar."""
    folder.mkdir(parents=True)
    images, labels = coloured_images(sum(sizes) + test, seed=0, size=size)
    names = [f"train-{index:05d}.{kind}" for index in range(len(sizes))] + [f"test-00000.{kind}"]
    first = 0
    for name, count in zip(names, [*sizes, test], strict=True):
        rows = slice(first, first := first + count)
        if kind == "parquet":
            features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
            dataset = datasets.Dataset.from_dict({"image": images[rows], "label": labels[rows]}, features=features)
            dataset.to_parquet(folder / name)
        else:
            write_tar(folder / name, images[rows], labels[rows])
    return folder


def write_tar(path: Path, images: list[Image.Image], labels: list[int]):
    """A WebDataset shard: `00000.png` and its label `00000.cls`, and so on."""
    with tarfile.open(path, "w") as archive:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            encoded = io.BytesIO()
            image.save(encoded, "png")
            for ending, content in (("png", encoded.getvalue()), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{path.stem}-{index:05d}.{ending}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def fresh_accelerate():
    """Let the next `Accelerator` of this process be configured anew."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
