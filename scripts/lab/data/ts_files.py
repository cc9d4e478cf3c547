"""Folders of `.ts` files, as archives of time series have them (UCR, UEA): `NAME_TRAIN.ts` and `NAME_TEST.ts`.

`datasets` has no loader for them, and the libraries that read them bring a compiler along.
"""

from pathlib import Path
from typing import Any

import datasets
import numpy as np

from lab.errors import UserError

_ENDINGS = {"train": "_TRAIN.ts", "test": "_TEST.ts"}


def find_ts(folder: Path) -> dict[str, Path]:
    """The files of a folder by split; none where it has no such files.

    Raises:
        UserError: there are those of several problems, and none is called like the folder.
    """
    names = sorted(path.name.removesuffix(_ENDINGS["train"]) for path in folder.glob(f"[!.]*{_ENDINGS['train']}"))
    if not names:
        return {}
    name = folder.resolve().name if folder.resolve().name in names else names[0]
    if len(names) > 1 and name != folder.resolve().name:
        raise UserError(
            f"data.path={folder} holds {', '.join(names)}: keep one, or call the folder like the one to read"
        )
    paths = {split: folder / f"{name}{ending}" for split, ending in _ENDINGS.items()}
    return {split: path for split, path in paths.items() if path.is_file()}


def read_ts(paths: dict[str, Path]) -> dict[str, datasets.Dataset]:
    """Splits with columns `series`, lists `(C, L)`, and `label`, a class or a number.

    Raises:
        UserError: a file is not in this form; names file and line.
    """
    return {split: _read(path) for split, path in paths.items()}


def _read(path: Path) -> datasets.Dataset:
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    header: dict[str, list[str]] = {}
    series, labels = [], []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith(("#", "%")):
            continue
        if line.startswith("@"):
            key, *values = line[1:].split()
            header[key.lower()] = values
            if _is_true(header, "timestamps"):
                raise UserError(f"{path.name} has time stamps, which are not read: expected series of equal steps")
            continue
        *channels, label = line.split(":")
        try:
            series.append([np.array(channel.replace("?", "nan").split(","), dtype=np.float32) for channel in channels])
        except ValueError as error:
            raise UserError(f"{path.name}, line {number} is not a series: {error}") from None
        labels.append(label.strip())
    names = header.get("classlabel", [])
    has_classes, has_numbers = (_is_true(header, key) for key in ("classlabel", "targetlabel"))
    if not series or has_classes == has_numbers:
        raise UserError(
            f"{path.name} is not a .ts file with labels: expected @classLabel true or @targetLabel true, @data, and "
            "series"
        )
    feature: Any = datasets.Value("float32") if has_numbers else datasets.ClassLabel(names=names[1:])
    numbers = [_target(label, path) if has_numbers else _number(label, names[1:], path) for label in labels]
    features = datasets.Features({"series": datasets.List(datasets.List(datasets.Value("float32"))), "label": feature})
    return datasets.Dataset.from_dict({"series": series, "label": numbers}, features=features)


def _is_true(header: dict[str, list[str]], key: str) -> bool:
    return [value.lower() for value in header.get(key, [])[:1]] == ["true"]


def _target(label: str, path: Path) -> float:
    try:
        return float(label)
    except ValueError:
        raise UserError(f"{path.name}: target {label} is not a number, as @targetLabel true says") from None


def _number(label: str, names: list[str], path: Path) -> int:
    if label not in names:
        raise UserError(f"{path.name}: label {label} is none of those that @classLabel says, {', '.join(names)}")
    return names.index(label)
