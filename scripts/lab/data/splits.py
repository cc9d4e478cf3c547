"""Which rows are for training, for validation and for testing."""

from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from lab.data.sources import Source, load_named_sources, load_sources, stratified_order
from lab.errors import UserError
from lab.recipe import Data


@dataclass
class Splits:
    """What training needs: disjoint sets of samples, those for testing where wanted, and what labels are called.

    Each set has a length, `labels` with a row a sample, and `__getitems__(rows)`, which returns a batch: a dict of
    tensors with a row a sample. One whose samples are changed at random while they are read has `in_epoch(seed, epoch)`
    too, the same samples as an epoch of training is to have them.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    label_names: list[str]


@dataclass(frozen=True)
class Rows:
    """Rows of a source, still encoded."""

    source: Source
    rows: np.ndarray


def choose_splits(settings: Data) -> tuple[Rows, Rows, Rows | None]:
    """Rows to train on, to validate on, and to test on where wanted.

    Raises:
        UserError: see `load_sources`; also too few samples for the split.
    """
    train_source, *test_sources = load_sources(settings)
    train, validation = _carve(train_source, settings)
    return train, validation, next(map(all_rows, test_sources), None)


def choose_split(settings: Data, split: str) -> Rows:
    """One set of rows; reads nothing else.

    Args:
        split: `train`, `validation` or `test` mean what they mean to `choose_splits`, any other the data's own split.

    Raises:
        UserError: as `choose_splits`.
    """
    if split in ("train", "validation"):
        (source,) = load_named_sources(settings, {"data.train_split": settings.train_split})
        return _carve(source, settings)[split == "validation"]
    wanted = {"data.test_split": settings.test_split or "test"} if split == "test" else {"--split": split}
    (source,) = load_named_sources(settings, wanted)
    return all_rows(source)


def _carve(source: Source, settings: Data) -> tuple[Rows, Rows]:
    """Rows to train on and to validate on, disjoint and stratified."""
    total = len(source.labels)
    available = total - settings.validation_samples
    wanted = available if settings.train_samples is None else settings.train_samples
    if not 1 <= wanted <= available:
        raise UserError(
            f"{source.name} has {total} samples: data.validation_samples={settings.validation_samples} leaves "
            f"{max(available, 0)} to train on, but {max(wanted, 1)} are needed; lower one of "
            "data.validation_samples and data.train_samples"
        )
    order = stratified_order(source.labels, settings.split_seed)
    first = settings.validation_samples
    return Rows(source, np.sort(order[first : first + wanted])), Rows(source, np.sort(order[:first]))


def all_rows(source: Source) -> Rows:
    """The whole source."""
    return Rows(source, np.arange(len(source.labels)))
