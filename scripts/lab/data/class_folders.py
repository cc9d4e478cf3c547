"""Folders of files that `datasets` has no loader for.

They are `SPLIT/CLASS/FILE`, or `CLASS/SPLIT/FILE` as ModelNet has them.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import datasets
from datasets.packaged_modules import _EXTENSION_TO_MODULE as MODULES  # as in folders.py

from lab.errors import UserError

POINTS, SOUND = "points", "audio"  # the roles of such files
POINT_ENDINGS, SERIES_ENDINGS = (".npy", ".ply", ".off", ".pcd"), (".npy", ".csv")
_RECORDINGS = ("audiofolder", "videofolder")  # the loaders of these
ENDINGS = {POINTS: POINT_ENDINGS, SOUND: SERIES_ENDINGS}
# What can be read, but is left out of folders of classes by `datasets` without a word: of each role its loader, the
# endings, and what makes other files of such.
_UNREAD = {
    "image": ("imagefolder", (".avif", ".avifs", ".qoi", ".heic", ".heif", ".jxl"), "saving them as .png"),
    SOUND: ("audiofolder", (".m4a", ".aac", ".aif", ".aifc", ".amr", ".mka", ".oga", ".weba"), "ffmpeg -i IN OUT.flac"),
    "video": (
        "videofolder",
        (".webm", ".gif", ".m4v", ".ts", ".mpg", ".wmv", ".flv", ".ogv", ".3gp"),
        "ffmpeg -i IN -c copy OUT.mkv",
    ),
}
UNREAD_ENDINGS = frozenset(ending for _, endings, _ in _UNREAD.values() for ending in endings)


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Relative places below a folder, also where links lead, and the names of their files, without hidden ones.

    Raises:
        UserError: a link leads nowhere, or to a folder that it lies in; names it.
    """
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        files = [name for name in files if not name.startswith(".")]
        for name in files:
            require_target(Path(place, name))
        here = Path(place).relative_to(folder)
        for path in (Path(place, name) for name in folders):
            above = [folder / one for one in (here, *here.parents)]
            if path.is_symlink() and any(one.resolve().is_relative_to(path.resolve()) for one in above):
                raise UserError(f"{path} is a link to a folder that it lies in: take it away")
        yield here, files


def require_target(path: Path):
    """Raise a `UserError` where a path is a link to nothing, which others leave out without a word."""
    if not path.exists():
        raise UserError(f"{path} is a link to nothing: mend it, or take it away")


def find_files(folder: Path, wanted: Collection[str], role: str) -> dict[str, dict[Path, str]]:
    """For each split its files with their classes; none where the folder has no such files two folders down.

    Hidden ones are left out, and so are series where there are as many recordings or more.

    Args:
        wanted: names of splits, which tell which of the two folders is the split.
        role: of the input that the files are.
    """
    files = sorted(
        folder / place / name
        for place, names in walk(folder)
        for name in names
        if len(place.parts) == 2 and Path(name).suffix.lower() in ENDINGS[role]
    )
    if role == SOUND and files and _count_recordings(folder) >= len(files):
        return {}  # what lies beside recordings is made of them, or says what they are
    splits: dict[str, dict[Path, str]] = {}
    by_split = any(path.parts[-3] in wanted for path in files)
    for path in files:
        first, second = path.parts[-3:-1]
        split, name = (first, second) if by_split else (second, first)
        splits.setdefault(split, {})[path] = name
    return splits


def _count_recordings(folder: Path) -> int:
    endings = (Path(name).suffix.lower() for _, files in walk(folder) for name in files)
    return sum(MODULES.get(ending, ("",))[0] in _RECORDINGS for ending in endings)


def require_known_endings(folder: Path, files: Iterable[Path], roles: Collection[str]):
    """Raises a `UserError` for files in folders of classes that `datasets` would leave out.

    Args:
        files: those with one of `UNREAD_ENDINGS`, relative to the folder.
        roles: of the inputs that are read.
    """
    files = sorted(files)
    for role in filter(_UNREAD.__contains__, roles):
        loader, endings, change = _UNREAD[role]
        unread = [path for path in files if path.suffix.lower() in endings]
        if unread:
            known = [kind for kind, (module, _) in MODULES.items() if module == loader and kind.islower()]
            raise UserError(
                f"data.path={folder}: {unread[0]} is one of {len(unread)} files of {role} that folders "
                f"of classes cannot have, which are read with {', '.join(sorted(known))}: change them, such as by "
                f"{change}, or name the files in a table (docs/data.md)"
            )


def read_files(splits: dict[str, dict[Path, str]], role: str) -> dict[str, datasets.Dataset]:
    """Splits with a column that refers to files, and `label`; the classes are those of all splits."""
    names = sorted({name for files in splits.values() for name in files.values()})
    features = datasets.Features(
        {
            role: {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=names),
        }
    )
    found = {}
    for split, files in splits.items():
        paths = [{"bytes": None, "path": str(path.resolve())} for path in files]
        rows = {role: paths, "label": [names.index(name) for name in files.values()]}
        found[split] = datasets.Dataset.from_dict(rows, features=features)
        if role == SOUND:
            found[split] = found[split].cast_column(role, datasets.Audio(decode=False))
    return found
