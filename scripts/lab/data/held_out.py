"""Splits by the value of a column: a speaker, a patient or a place that is tested on and not trained on."""

from typing import Any

import datasets
import numpy as np

from lab.errors import UserError, listed
from lab.recipe import Data

VALIDATION = "held-out validation"  # what the split is called that `data.validate_on` makes


def underlying(settings: Data, wanted: dict[str, str]) -> dict[str, str]:
    """The splits of the data that are to be read so that those that are wanted can be made of them.

    Raises:
        UserError: the model would be tested on what it trains on.
    """
    if settings.test_split == settings.train_split:
        raise UserError(
            f"data.test_split={settings.test_split}: that is what the model trains on; name another split, or hold "
            "samples out by data.hold_out, or set it to null"
        )
    if not settings.hold_out and not settings.validate_on:
        return wanted
    others = {"data.train_split": settings.train_split, "data.test_split": settings.test_split}
    return {key: split for key, split in (others | wanted).items() if split not in (None, VALIDATION)}


def made_of_others(settings: Data) -> set[str]:
    """Splits that the data need not have, since `data.hold_out` makes them."""
    return {settings.test_split or "test"} if settings.hold_out else set()


def regroup(opened: dict[str, Any], settings: Data) -> dict[str, Any]:
    """Splits of which those to train on and to test on are divided by the value of a column, not as the data has them.

    Raises:
        UserError: there is no such column or value, a row has none, nothing is left to train on, or the data is a
            stream.
    """
    if not settings.hold_out and not settings.validate_on:
        return opened
    key = "data.hold_out" if settings.hold_out else "data.validate_on"
    if settings.streaming:
        raise UserError(f"{key}: rows of a stream are not known before; set data.streaming=false")
    train, test = settings.train_split, settings.test_split or "test"
    made = dict(opened)
    if settings.hold_out:
        rows = _joined([opened[split] for split in (train, test) if split in opened])
        made[train], made[test] = _divide(rows, settings.hold_out, "data.hold_out", settings.on_error)
    if settings.validate_on:
        groups = settings.validate_on
        made[train], made[VALIDATION] = _divide(made[train], groups, "data.validate_on", settings.on_error)
    return made


def _joined(parts: list[datasets.Dataset]) -> datasets.Dataset:
    """One split of several, whose classes may be numbered in another order in each."""
    if len(parts) == 1:
        return parts[0]
    for column, feature in parts[0].features.items():
        others = [part.features.get(column) for part in parts]
        if all(isinstance(other, datasets.ClassLabel) for other in others) and any(
            other.names != feature.names for other in others
        ):
            names = list(dict.fromkeys(name for other in others for name in other.names))
            parts = [_renumbered(part, column, names) for part in parts]
    try:
        return datasets.concatenate_datasets(parts)
    except ValueError as error:
        raise UserError(f"data.hold_out: the splits have different columns, and cannot be joined ({error})") from None


def _renumbered(rows: datasets.Dataset, column: str, names: list[str]) -> datasets.Dataset:
    """Rows whose classes are numbered as in `names`."""
    numbers = [names.index(name) for name in rows.features[column].names]
    there = rows.with_format("arrow")[column].to_pylist()
    there = [numbers[value] if value is not None and 0 <= value < len(numbers) else value for value in there]
    return rows.remove_columns(column).add_column(column, there, feature=datasets.ClassLabel(names=names))


def _divide(
    rows: datasets.Dataset, groups: dict[str, Any], key: str, on_error: str
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The rows without and with the values that `groups` gives to columns: one value, or a list of them.

    Values are compared as they are written, so the text "7" is the number 7.
    """
    held, known = np.ones(len(rows), bool), np.ones(len(rows), bool)
    for column, values in groups.items():
        if column not in rows.column_names:
            raise UserError(f"{key}.{column}: the data has columns {', '.join(rows.column_names)}")
        there, feature = rows.with_format("arrow")[column].to_pylist(), rows.features[column]
        if isinstance(feature, datasets.ClassLabel):
            # -1 is what `datasets` has for a class that is not known.
            there = [None if value in (None, -1) else feature.int2str(value) for value in there]
        written = np.array([str(value) for value in there])
        values = [str(value) for value in (values if isinstance(values, list) else [values])]
        known &= np.array([value is not None for value in there])
        if unknown := [value for value in values if value not in set(written[known])]:
            found = sorted({*written[known]})
            raise UserError(f"{key}.{column}={unknown[0]}: no row has it; there are {listed(found)}")
        held &= np.isin(written, values)
    if not known.all():
        bad = f"{key}: {(~known).sum()} of {len(rows)} rows have no {' or '.join(groups)}, and may be of either side"
        if on_error == "raise":
            raise UserError(f"{bad}; correct the data, or leave such rows out with data.on_error=skip")
        print(f"left out: {bad}")
    held, others = held & known, ~held & known
    if not others.any() or not held.any():
        raise UserError(f"{key}={groups} leaves nothing to {'hold out' if others.any() else 'train on'}")
    return rows.select(np.flatnonzero(others)), rows.select(np.flatnonzero(held))
