"""Opening data as they are: scikit-learn's digits, a dataset on the Hub, or a local folder of any form."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from lab.data.class_folders import ENDINGS, find_files, read_files
from lab.data.folders import FILE_NAME, SOUND, SOUND_KEYS, find_splits
from lab.data.stratified import stratified_order
from lab.data.ts_files import find_ts, read_ts
from lab.errors import UserError, one_line
from lab.recipe import Data

DIGITS_TEST_IMAGES = 360  # a fifth of the 1797
_ENCODING = "tables are read as UTF-8: save them as that, such as by iconv -f LATIN1 -t UTF-8 OLD.csv > NEW.csv"
_SHARDS = 64  # into which a saved dataset is cut to be streamed


@dataclass(frozen=True)
class Asked:
    """Splits to find, by what a user calls the choice of each, those that need not be there, and where they are."""

    splits: dict[str, str]
    may_lack: set[str]
    where: str

    @property
    def names(self) -> set[str]:
        return {*self.splits.values()}

    def check(self, found: Any) -> Any:
        """What was found; raises a `UserError` where a split is missing."""
        for key, split in self.splits.items():
            if split not in found and split not in self.may_lack:
                raise UserError(f"{key}={split}: no such split in {self.where}; there are {', '.join(found)}")
        return found


def _digits() -> dict[str, datasets.Dataset]:
    from sklearn.datasets import load_digits  # here, since it takes seconds and no other data needs it

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    # A seed of its own: the test images stay the same whatever a recipe says.
    order = stratified_order(labels, seed=0)
    rows_of = {"train": np.sort(order[DIGITS_TEST_IMAGES:]), "test": np.sort(order[:DIGITS_TEST_IMAGES])}
    names = [str(name) for name in bunch.target_names]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    images = [Image.fromarray(image) for image in pixels]
    for image in images:
        image.format = "PPM"  # whose bytes, unlike those of PNG, are the same whatever compresses
    return {
        split: datasets.Dataset.from_dict(
            {"image": [images[row] for row in rows], "label": labels[rows]}, features=features
        )
        for split, rows in rows_of.items()
    }


def open_data(settings: Data, roles: Collection[str], asked: Asked) -> dict[str, Any]:
    """The splits of a dataset by name, those that are asked for among them.

    Args:
        roles: of the inputs that a task reads.

    Raises:
        UserError: there is no such dataset or split, or it cannot be loaded.
    """
    if settings.path is None and settings.name == "digits":
        if settings.streaming:
            raise UserError("data.streaming=true: digits has no shards to stream; set it to false")
        return asked.check(_digits())
    if settings.path is None:
        if "/" not in settings.name:  # `datasets` would take any folder of that name that it has loaded before
            raise UserError(
                f"data.name={settings.name} is not OWNER/NAME, as names on the Hub are: say where the data are, by "
                "data.path=FOLDER (docs/data.md)"
            )
        try:
            return asked.check(datasets.load_dataset(settings.name, streaming=settings.streaming))
        except UserError:
            raise
        except Exception as error:  # the loaders of `datasets` raise nearly anything for a bad name or folder
            raise UserError(
                f"data.name={settings.name} cannot be loaded from the Hub ({one_line(error)}); "
                "check name and connection, or give a local folder as data.path"
            ) from error
    if not Path(settings.path).is_dir():
        raise UserError(f"data.path={settings.path}: no such folder")
    try:
        return _open_folder(Path(settings.path), settings, roles, asked)
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(settings.path, error) from error


def _unreadable(where: str, error: Exception) -> UserError:
    """What `datasets` cannot read, as one line that says what to do."""
    cause = error.__cause__ or error
    expected = (
        "expected parquet, JSONL or CSV files named after their split, or folders train/CLASS and test/CLASS of images "
        "or of other files (docs/data.md)"
    )
    if isinstance(cause, UnicodeDecodeError):
        expected = _ENCODING
    said = one_line(cause) or "a file has no rows"  # of which a loader only says that there is no more
    return UserError(f"data.path={where} cannot be loaded ({said}); {expected}")


@contextmanager
def reading_shards(split: str) -> Iterator[None]:
    """What `datasets` cannot read of shards is a `UserError`."""
    try:
        yield
    except (OSError, ValueError, ImportError, DatasetGenerationError) as error:  # those of Arrow are ValueErrors
        cause = error.__cause__ or error
        hint = "the file is damaged or has no rows. Mend it, or take it away"
        if isinstance(cause, ImportError):
            hint = "install it, or give the files by their paths in a table"
        elif isinstance(cause, UnicodeDecodeError):
            hint = _ENCODING
        elif isinstance(cause, OSError) and type(cause) is not OSError:  # Arrow's are plain
            hint = "if that is a connection, --resume once it is there again"
        raise UserError(f"a shard of {split} cannot be read ({one_line(cause)}): {hint}") from error


def readable(rows: Iterable[dict], split: str) -> Iterator[dict]:
    """Rows of shards; errors as those of `reading_shards`."""
    with reading_shards(split):
        yield from rows


def _open_folder(folder: Path, settings: Data, roles: Collection[str], asked: Asked) -> dict[str, Any]:
    streaming = settings.streaming
    if (folder / "dataset_dict.json").exists():  # what `save_to_disk` of `datasets` wrote
        saved = datasets.load_from_disk(str(folder))
        asked.check(saved)
        if not streaming:
            return saved
        return {name: split.to_iterable_dataset(min(_SHARDS, len(split))) for name, split in saved.items()}
    for what, files, read in (
        (".ts files", find_ts(folder), read_ts),
        *(
            (f"files of {role}", find_files(folder, asked.names, role), partial(read_files, role=role))
            for role in roles
            if role in ENDINGS
        ),
    ):
        if files:
            asked.check(files)
            if streaming:
                raise UserError(f"data.streaming=true: {folder} holds {what}, which are read whole; set it to false")
            return read(files)
    has_paths = settings.text_column is not None or bool(settings.columns.keys() & {*roles})
    arguments = find_splits(folder, asked.names, has_paths, roles)
    if arguments is None:
        return asked.check(datasets.load_dataset(str(folder), streaming=streaming))
    asked.check(arguments)
    # One by one, so that the classes of each are those that its own files declare.
    found = {}
    for split in sorted(asked.names & arguments.keys()):
        try:
            found[split] = _load(split, streaming=streaming, **arguments[split])
        except Exception as error:
            raise _unreadable(f"{folder}: split {split}", error) from error
    return {
        split: as_files(rows, SOUND, datasets.Audio(decode=False)) if SOUND_KEYS & arguments[split].keys() else rows
        for split, rows in found.items()
    }


def _load(split: str, names_in: str | None = None, **arguments: Any) -> Any:
    """A split of a folder; the names of recordings that a table in `names_in` has become paths in a column."""
    rows = datasets.load_dataset(**arguments)[split]
    if names_in is None:
        return rows
    if rows.features is None:
        rows = rows._resolve_features()
    features = {name: feature for name, feature in rows.features.items() if name != FILE_NAME}
    cached = {} if isinstance(rows, datasets.IterableDataset) else {"load_from_cache_file": False}
    return rows.map(
        lambda row: {SOUND: str(Path(names_in) / row[FILE_NAME])},
        remove_columns=FILE_NAME,
        features=datasets.Features({**features, SOUND: datasets.Value("string")}),
        **cached,
    )


def as_files(rows: Any, column: str, stored_as: Any) -> Any:
    """Rows whose paths or bytes of files are what `datasets` calls files.

    It casts no strings of the larger type that those of CSV files are; of a stream it says that they are not.
    """
    dtype = getattr(rows.features[column], "dtype", None)
    if isinstance(rows, datasets.IterableDataset) and dtype in ("string", "large_string"):
        features = datasets.Features({**rows.features, column: stored_as})
        return rows.map(lambda row: {column: {"bytes": None, "path": row[column]}}, features=features)
    if dtype in ("large_string", "large_binary"):
        rows = rows.cast_column(column, datasets.Value(dtype.removeprefix("large_")))
    return rows.cast_column(column, stored_as)
