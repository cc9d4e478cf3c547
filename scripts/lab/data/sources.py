"""Where labelled images come from: scikit-learn's digits, the Hub, or a local folder. Nothing is decoded here."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from lab.errors import UserError, one_line
from lab.recipe import Data

DIGITS_TEST_IMAGES = 360  # a fifth of the 1797


@dataclass
class Source:
    """One split of a dataset, images still encoded.

    Attributes:
        name: what error messages call it.
        fingerprint: equal for equal content, for cached arrays.
        labels: `(n,)` int64, from 0 to `len(label_names) - 1`.
        label_names: names of the classes, in the order of their labels.
        read: rows `(k,)` -> k things that hold an image each: a `PIL.Image`, or a dict of `bytes` and `path`.
    """

    name: str
    fingerprint: str
    labels: np.ndarray
    label_names: list[str]
    read: Callable[[np.ndarray], list]


def load_sources(settings: Data) -> list[Source]:
    """The split to train on and, where wanted, that to test on.

    Raises:
        UserError: there is no such dataset, split or column, it is empty, or a label is out of range (names the row).
    """
    wanted = {"data.train_split": settings.train_split, "data.test_split": settings.test_split}
    return load_named_sources(settings, {key: split for key, split in wanted.items() if split is not None})


def load_named_sources(settings: Data, wanted: dict[str, str]) -> list[Source]:
    """The splits that `wanted` names; its keys are what a user calls the choice. Errors as those of `load_sources`."""
    sources = []
    for split, dataset in zip(wanted.values(), open_splits(settings, wanted), strict=True):
        sources.append(dataset if isinstance(dataset, Source) else _source(dataset, split, settings))
    return [with_good_labels(source, settings.on_error) for source in sources]


def open_splits(settings: Data, wanted: dict[str, str]) -> list[Source | datasets.Dataset | datasets.IterableDataset]:
    """The splits that `wanted` names, as they come: the digits as sources, streams where the settings ask for them."""
    splits = _digits() if settings.path is None and settings.name == "digits" else _load_dataset(settings)
    for key, split in wanted.items():
        if split not in splits:
            found = ", ".join(splits)
            raise UserError(f"{key}={split}: no such split in {_where(settings)}; there are {found}")
    return [splits[split] for split in wanted.values()]


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order of `labels` `(n,)` of which every stretch has the classes in their overall proportions.

    Of labels that are not one class each, `(n, L)`, it is any random order.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim > 1:
        return order
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(position, kind="stable")]


def _digits() -> dict[str, Source]:
    from sklearn.datasets import load_digits  # here, since it takes seconds and no other data needs it

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    # A seed of its own: the test images stay the same whatever a recipe says.
    order = stratified_order(labels, seed=0)
    rows_of = {"train": np.sort(order[DIGITS_TEST_IMAGES:]), "test": np.sort(order[:DIGITS_TEST_IMAGES])}
    return {
        split: Source(
            name=f"split {split} of digits",
            fingerprint=f"digits-{split}",
            labels=labels[rows],
            label_names=[str(name) for name in bunch.target_names],
            read=lambda wanted, rows=rows: [Image.fromarray(pixels[row]) for row in rows[wanted]],
        )
        for split, rows in rows_of.items()
    }


def _where(settings: Data) -> str:
    return settings.path or settings.name


def _load_dataset(settings: Data) -> datasets.DatasetDict:
    if settings.path is not None and not Path(settings.path).is_dir():
        raise UserError(f"data.path={settings.path}: no such folder")
    try:
        return datasets.load_dataset(_where(settings), streaming=settings.streaming)
    except Exception as error:  # the loaders of `datasets` raise nearly anything for a bad folder or name
        reason = one_line(error)
        if settings.path is None:
            raise UserError(
                f"data.name={settings.name} cannot be loaded from the Hub ({reason}); "
                "check name and connection, or give a local folder as data.path"
            ) from error
        raise UserError(
            f"data.path={settings.path} cannot be loaded ({reason}); expected parquet files named after their split, "
            "or folders train/CLASS and test/CLASS of images"
        ) from error


def find_columns(features: datasets.Features, settings: Data, name: str) -> tuple[str, str]:
    """The names of the columns of images and of labels; a `UserError` that says `name` where they are not clear."""
    image_column = _image_column(features, name)
    label_column = settings.label_column or _label_column(features, name)
    if label_column not in features:
        raise UserError(f"data.label_column={label_column}: {name} has columns {', '.join(features)}")
    return image_column, label_column


def describe_split(split: str, settings: Data) -> str:
    """What error messages call it."""
    return f"split {split} of {_where(settings)}"


def source_from_rows(rows: list[dict], columns: tuple[str, str], label_names: list[str] | None, name: str) -> Source:
    """A source of what was read from a stream, in memory and still encoded; without names classes are numbers."""
    image_column, label_column = columns
    labels = [row[label_column] for row in rows]
    if None in labels:
        raise UserError(f"row {labels.index(None)} of {name} has no label in column {label_column}")
    if not rows:
        raise UserError(f"{name} has no images")
    images = [row[image_column] for row in rows]
    content = hashlib.sha256(np.asarray(labels, dtype=np.int64).tobytes())
    for image in images:
        content.update(image["bytes"] or (image["path"] or "").encode() if image else b"")
    labels = np.asarray(labels, dtype=np.int64)
    label_names = label_names or [str(label) for label in range(labels.max() + 1)]
    return Source(name, content.hexdigest(), labels, label_names, read=lambda rows: [images[row] for row in rows])


def _source(dataset: datasets.Dataset | datasets.IterableDataset, split: str, settings: Data) -> Source:
    name = describe_split(split, settings)
    image_column, label_column = columns = find_columns(dataset.features, settings, name)
    label_names = getattr(dataset.features[label_column], "names", None)
    encoded = dataset.select_columns([image_column, label_column])
    encoded = encoded.cast_column(image_column, datasets.Image(decode=False))
    if isinstance(dataset, datasets.IterableDataset):
        return source_from_rows(list(encoded), columns, label_names, name)
    labels = dataset.with_format("arrow")[label_column]
    if labels.null_count and settings.on_error == "raise":
        row = labels.is_null().to_pylist().index(True)
        raise UserError(f"row {row} of {name} has no label in column {label_column}")
    labels = np.asarray(labels.fill_null(-1).to_numpy(), dtype=np.int64)
    label_names = label_names or [str(label) for label in range(labels.max() + 1)]
    return Source(name, dataset._fingerprint, labels, label_names, read=lambda rows: encoded[rows][image_column])


def _image_column(features: datasets.Features, name: str) -> str:
    found = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(found) != 1:
        raise UserError(f"{name} has {len(found)} image columns; expected one among {_describe(features)}")
    return found[0]


def _label_column(features: datasets.Features, name: str) -> str:
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    integers = [column for column, feature in features.items() if str(getattr(feature, "dtype", "")).startswith("int")]
    found = classes or integers
    if len(found) != 1:
        raise UserError(
            f"{name} has {len(found)} columns of class labels; expected one among {_describe(features)}. "
            "Name the right one as data.label_column"
        )
    return found[0]


def _describe(features: datasets.Features) -> str:
    return ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())


def with_good_labels(source: Source, on_error: str) -> Source:
    """The source, or what is left of it where `on_error` is `skip`; else a `UserError` names a label out of range."""
    highest = len(source.label_names) - 1
    good = (source.labels >= 0) & (source.labels <= highest)
    if good.all():
        return source
    row = np.flatnonzero(~good)[0]
    found = f"row {row} of {source.name} has label {source.labels[row]}; expected 0 to {highest}"
    if on_error == "raise":
        raise UserError(f"{found}; data.on_error=skip leaves such out")
    print(f"left out {(~good).sum()} of {len(good)} images of {source.name}: {found}")
    kept = np.flatnonzero(good)
    return dataclasses.replace(source, labels=source.labels[kept], read=lambda rows: source.read(kept[rows]))
