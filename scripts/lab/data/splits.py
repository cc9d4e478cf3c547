"""Which rows are for training, for validation and for testing."""

import dataclasses
import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch.utils.data import Dataset

from lab.data.columns import content_or_name
from lab.data.held_out import VALIDATION
from lab.data.label_columns import REGRESSION
from lab.data.matching import match_names, renumber, used_labels
from lab.data.sources import Reading, Source, load_named_sources, load_sources
from lab.data.stratified import stratified_order
from lab.errors import UserError, listed
from lab.recipe import Data

Validation = TypeVar("Validation")
_AT_ONCE = 64  # samples that are read to tell them apart
_MOST_FILES = 20_000  # of both splits together, whose links and content are looked at


@dataclass
class Splits:
    """What training needs: disjoint sets of samples, those for others where wanted, and what labels are called.

    Each set has a length, `labels` with a row a sample, and `__getitems__(rows)`, which returns a batch: a dict of
    tensors with a row a sample. One whose samples are changed at random while they are read has `in_epoch(seed, epoch)`
    too, the same samples as an epoch of training is to have them.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    label_names: list[str]
    validated: str | None = None  # `Rows.fingerprint` of the samples to validate on

    @property
    def unchanging(self) -> Dataset:
        """Samples that nothing changes at random while they are read, where there are such: to validate on."""
        return self.train if self.validation is None else self.validation


@dataclass(frozen=True)
class Rows:
    """Samples of a source, still encoded."""

    source: Source
    rows: np.ndarray

    def fingerprint(self) -> str:
        """A checksum of what the samples hold and of their labels, in order; of files the names, as data may move.

        It is that of what is stored, so that another library or device to decode with does not change it.
        """
        checksum = hashlib.sha256(self.source.labels[self.rows].tobytes())
        for start in range(0, len(self.rows), _AT_ONCE):
            for role, values in sorted(self.source.read(self.rows[start : start + _AT_ONCE]).items()):
                checksum.update(role.encode())
                for value in values:
                    checksum.update(content_or_name(value))
        return checksum.hexdigest()


def require_validation(samples: Validation | None) -> Validation:
    """The samples to validate on; raises a `UserError` where there are none."""
    if samples is None:
        raise UserError("data.validation_samples=0 left no samples to validate on: set it to more")
    return samples


def require_same_validation(samples: Validation, reading: Reading) -> Validation:
    """The samples to validate on; raises a `UserError` where the run whose data these are had others.

    Those that it was trained on may be among them.

    Args:
        samples: what has a method `fingerprint`.
    """
    if reading.validated is not None and reading.validated != samples.fingerprint():
        raise UserError(
            f"the validation samples of {reading.where} are not those of the run: files, rows, labels or settings of "
            "`data` have changed since, so that some of these may have been trained on. Give the data that the run "
            "had, or samples of their own as --split NAME"
        )
    return samples


def choose_splits(reading: Reading) -> tuple[Rows, Rows | None, Rows | None]:
    """Rows to train on, and to validate and to test on where wanted.

    Raises:
        UserError: see `load_sources` and `fit_test`; also too few samples for the split.
    """
    train_source, *test_sources = load_sources(reading)
    train, validation = _train_and_validation(train_source, reading)
    test = next((fit_test(test, train_source, reading) for test in test_sources), None)
    return train, validation, test and all_rows(test)


def choose_split(reading: Reading, split: str) -> Rows:
    """One set of rows; of a test split those that training would test on, too.

    Args:
        split: `train`, `validation` or `test` mean what they mean to `choose_splits`, any other the data's own split.

    Raises:
        UserError: as `choose_splits`.
    """
    settings = reading.settings
    if split in ("train", "validation"):
        (source,) = load_named_sources(reading, {"data.train_split": settings.train_split})
        train, validation = _train_and_validation(source, reading)
        return train if split == "train" else require_same_validation(require_validation(validation), reading)
    if split != "test":
        (source,) = load_named_sources(reading, {"--split": split})
        return all_rows(source)
    # Other data than those of the training may have nothing to train on.
    train, test = settings.train_split, settings.test_split or "test"
    *trained, source = load_named_sources(reading, {"data.train_split": train, "data.test_split": test}, {train})
    return all_rows(fit_test(source, trained[0], reading) if trained else source)


def fit_test(test: Source, train: Source, reading: Reading) -> Source:
    """The samples to test on with labels as those to train on have them, matched by name.

    Raises:
        UserError: they have labels that no sample to train on has, or share a file with those; `data.on_error=skip`
            leaves out such samples instead, and says how many.
    """
    test = name_alike(test, train.label_names, train.name, reading)
    if test.labels.ndim == 1:
        known = np.isin(test.labels, used_labels(train.labels))
        names = [test.label_names[label] for label in np.unique(test.labels[~known])]
        test = _keep(test, known, f"{test.name} has labels that {train.name} lacks: {listed(names)}", reading.settings)
    shared, example = _shared_files(test, train)
    return _keep(test, ~shared, f"{test.name} shares files with {train.name}, such as {example}", reading.settings)


def name_alike(test: Source, names: list[str], train_name: str, reading: Reading) -> Source:
    """A source with its labels numbered as `names` are.

    Raises:
        UserError: a sample has a label that is none of them, unless the recipe says to skip such.
    """
    numbers = match_names(test.label_names, names)
    unknown = [test.label_names[label] for label in used_labels(test.labels) if numbers[label] < 0]
    if reading.problem_type == REGRESSION:
        if sorted(numbers) != list(range(len(names))):
            raise UserError(
                f"{test.name} has the numbers {listed(test.label_names)}, but {train_name} has {listed(names)}: "
                "name the same columns in both"
            )
    elif unknown:
        has_unknown = numbers[test.labels] < 0 if test.labels.ndim == 1 else test.labels[:, numbers < 0].any(axis=1)
        reason = f"{test.name} has labels that {train_name} lacks: {listed(unknown)}"
        test = _keep(test, ~has_unknown, reason, reading.settings)
    return dataclasses.replace(test, labels=renumber(test.labels, numbers, len(names)), label_names=names)


def _keep(source: Source, good: np.ndarray, reason: str, settings: Data) -> Source:
    """The samples that are good; a `UserError` with the reason for others, unless the recipe says to skip such."""
    if good.all():
        return source
    bad = f"{(~good).sum()} of {len(good)} samples"
    if settings.on_error == "raise":
        raise UserError(f"{reason} ({bad}): correct the data, or leave such samples out with data.on_error=skip")
    print(f"left out {bad}: {reason}")
    if not good.any():
        raise UserError(f"{source.name} has no samples left")
    return source.take(np.flatnonzero(good))


def _shared_files(test: Source, train: Source) -> tuple[np.ndarray, str | None]:
    """Which test samples `(n,)` are a file of the train split as well, and an example.

    Files are the same if their paths are; if there are not too many on this machine, also if links lead to the same
    file or if their content is the same.
    """
    shared, example = np.zeros(len(test.labels), bool), None
    trained, tested = ({path: None for _, path in source.files()} for source in (train, test))
    if not (trained and tested):
        return shared, example
    keys = _identities(set(trained) | set(tested))
    known = {keys[path]: path for path in trained}
    for sample, path in test.files():
        if keys[path] in known:
            shared[sample] = True
            example = example or (path if known[keys[path]] == path else f"{path} (in training {known[keys[path]]})")
    return shared, example


def _identities(paths: set[str]) -> dict[str, str]:
    """What is equal for equal files."""
    if len(paths) > _MOST_FILES or any("://" in path for path in paths):
        return {path: path for path in paths}
    real = {path: os.path.realpath(path) for path in paths}
    sizes = {path: os.stat(file).st_size if os.path.isfile(file) else -1 for path, file in real.items()}
    times = Counter(sizes.values())
    return {path: _checksum(file) if times[sizes[path]] > 1 else file for path, file in real.items()}


def _checksum(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:  # whoever decodes it says what is wrong
        return file


def _train_and_validation(train: Source, reading: Reading) -> tuple[Rows, Rows | None]:
    """Rows to train on and to validate on where wanted: carved from the source, or a group of their own."""
    settings = reading.settings
    if not settings.validate_on:
        return _carve(train, settings)
    (held,) = load_named_sources(reading, {"data.validate_on": VALIDATION})
    wanted = len(train.labels) if settings.train_samples is None else settings.train_samples
    if wanted > len(train.labels):
        raise UserError(f"data.train_samples={wanted}: {train.name} has {len(train.labels)} samples")
    rows = np.sort(stratified_order(train.labels, settings.split_seed)[:wanted])
    return Rows(train, rows), all_rows(fit_test(held, train, reading))


def _carve(source: Source, settings: Data) -> tuple[Rows, Rows | None]:
    """Rows to train on and to validate on where wanted, disjoint and stratified."""
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
    validation = Rows(source, np.sort(order[:first])) if first else None
    return Rows(source, np.sort(order[first : first + wanted])), validation


def all_rows(source: Source) -> Rows:
    """The whole source."""
    return Rows(source, np.arange(len(source.labels)))
