"""Splits by the value of a column: a speaker, a patient or a place that is tested on and not trained on."""

from typing import Any

import datasets
import numpy as np

from lab.errors import UserError, listed
from lab.recipe import Data

VALIDATION = "held-out validation"  # what the split is called that `data.validate_on` makes


def underlying(settings: Data, wanted: dict[str, str]) -> dict[str, str]:
    """The splits of the data that are to be read so that those that are wanted can be made of them."""
    if not settings.hold_out and not settings.validate_on:
        return wanted
    others = {"data.train_split": settings.train_split, "data.test_split": settings.test_split}
    return {key: split for key, split in (others | wanted).items() if split not in (None, VALIDATION)}


def regroup(opened: dict[str, Any], settings: Data) -> dict[str, Any]:
    """Splits of which those to train on and to test on are divided by the value of a column, not as the data has them.

    Raises:
        UserError: there is no such column or value, nothing is left to train on, or the data is a stream.
    """
    if not settings.hold_out and not settings.validate_on:
        return opened
    key = "data.hold_out" if settings.hold_out else "data.validate_on"
    if settings.streaming:
        raise UserError(f"{key}: rows of a stream are not known before; set data.streaming=false")
    train, test = settings.train_split, settings.test_split or "test"
    made = dict(opened)
    if settings.hold_out:
        parts = [opened[split] for split in dict.fromkeys((train, test)) if split in opened]
        rows = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
        made[train], made[test] = _divide(rows, settings.hold_out, "data.hold_out")
    if settings.validate_on:
        made[train], made[VALIDATION] = _divide(made[train], settings.validate_on, "data.validate_on")
    return made


def _divide(rows: datasets.Dataset, groups: dict[str, Any], key: str) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The rows without and with the values that `groups` gives to columns: one value, or a list of them."""
    held = np.ones(len(rows), bool)
    for column, values in groups.items():
        if column not in rows.column_names:
            raise UserError(f"{key}.{column}: the data has columns {', '.join(rows.column_names)}")
        there = rows.with_format("arrow")[column].to_pylist()
        values = values if isinstance(values, list) else [values]
        if unknown := [value for value in values if value not in there]:
            found = sorted({str(value) for value in there})
            raise UserError(f"{key}.{column}={unknown[0]}: no row has it; there are {listed(found)}")
        held &= np.isin(np.array(there, dtype=object), np.array(values, dtype=object))
    if held.all() or not held.any():
        raise UserError(f"{key}={groups} leaves {'nothing to train on' if held.all() else 'nothing to hold out'}")
    return rows.select(np.flatnonzero(~held)), rows.select(np.flatnonzero(held))
