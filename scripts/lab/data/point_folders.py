"""Folders of files of points: `SPLIT/CLASS/FILE`, or `CLASS/SPLIT/FILE` as ModelNet has them.

`datasets` has no loader for them.
"""

from collections.abc import Collection
from pathlib import Path

import datasets

POINTS = "points"  # the role of such files
ENDINGS = (".npy", ".ply", ".off", ".pcd")


def find_clouds(folder: Path, wanted: Collection[str]) -> dict[str, dict[Path, str]]:
    """For each split its files with their classes; none where the folder has no such files two folders down.

    Args:
        wanted: names of splits, which tell which of the two folders is the split.
    """
    files = sorted(path for path in folder.glob("*/*/*") if path.suffix.lower() in ENDINGS and path.is_file())
    splits: dict[str, dict[Path, str]] = {}
    by_split = any(path.parts[-3] in wanted for path in files)
    for path in files:
        first, second = path.parts[-3:-1]
        split, name = (first, second) if by_split else (second, first)
        splits.setdefault(split, {})[path] = name
    return splits


def read_clouds(splits: dict[str, dict[Path, str]]) -> dict[str, datasets.Dataset]:
    """Splits with columns `points`, which refer to files, and `label`; the classes are those of all splits."""
    names = sorted({name for files in splits.values() for name in files.values()})
    features = datasets.Features(
        {
            POINTS: {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=names),
        }
    )
    found = {}
    for split, files in splits.items():
        points = [{"bytes": None, "path": str(path.resolve())} for path in files]
        rows = {POINTS: points, "label": [names.index(name) for name in files.values()]}
        found[split] = datasets.Dataset.from_dict(rows, features=features)
    return found
