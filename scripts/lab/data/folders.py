"""Which files of a local folder belong to which split.

`datasets` looks for words such as "test" anywhere in the path of a file. Pictures of a class called `train` or
`blood_test` would so be in two splits at once. Here the splits of a folder of pictures (sounds, films, ...) are its
uppermost folders, and names of class folders mean nothing.
"""

import glob
import re
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.data_files import get_data_patterns, resolve_pattern
from datasets.packaged_modules import _EXTENSION_TO_MODULE as MODULES  # which of its loaders reads files of an ending
from huggingface_hub import DatasetCard

from lab.data.class_folders import UNREAD_ENDINGS, require_known_endings, require_target, walk
from lab.errors import UserError

# Folders with these names are splits, whatever the recipe calls its own.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_BESIDE = ("json", "xml", "text", "harbor")  # loaders of what often lies beside pictures, and is not what to read
_TABLES = ("csv", "json", "parquet", "arrow")  # loaders of tables
SOUND = "audio"  # the column of paths of recordings
SOUND_KEYS = {"features", "names_in"}  # keys of arguments of which one is there where that column is read
FILE_NAME = "file_name"  # the column of a table of files that names them
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # what `datasets` takes for a table of the files


@dataclass
class _Folder:
    """What is somewhere below a folder.

    Attributes:
        here: pictures and the like lie in it directly.
        below: such lie in its folders.
        metadata: it has a table that says what its files are.
    """

    here: bool = False
    below: bool = False
    metadata: bool = False


def find_splits(
    folder: Path, wanted: Collection[str], has_paths: bool = False, roles: Collection[str] = ()
) -> dict[str, dict[str, Any]] | None:
    """Return the arguments of `datasets.load_dataset` that read each split of a folder, whatever its path contains.

    Args:
        wanted: splits that the recipe names, which may be folders as well.
        has_paths: the recipe names a column of an input, so that tables beside pictures are what to read.
        roles: of the inputs that a task reads.

    Returns:
        None where a `README.md` says which files are which split.

    Raises:
        FileNotFoundError: there are no data.
        UserError: a file is in several of the wanted splits, or in a folder of a class and would be left out.
    """
    readme = folder / "README.md"
    if readme.is_file() and any("data_files" in config for config in _configs(readme)):
        return None
    if has_paths and (tables := _splits_of_tables(folder, wanted)):
        return tables
    loader, media, files = _find_media(folder)
    if media is not None:
        return {
            split: {
                "path": loader,
                "data_files": {split: _patterns(folder, paths, media)},
                **(_class_options(folder, loader, paths, media, files, roles) if _holds_classes(paths, media) else {}),
                **(_named_recordings(folder, split, paths) if loader == "audiofolder" else {}),
            }
            for split, paths in _media_splits(media, wanted).items()
        }
    require_known_endings(folder, files, roles)
    _require_no_links(folder)
    if _has_other_case(folder, wanted):
        return _splits_of_tables(folder, wanted)
    escaped = glob.escape(str(folder.resolve()))
    patterns = {str(split): found for split, found in get_data_patterns(escaped).items()}
    _require_own_files(patterns, escaped, wanted)
    return {
        split: {"path": str(folder), "data_files": {split: [f"{escaped}/{pattern}" for pattern in found]}}
        for split, found in patterns.items()
    }


def _require_no_links(folder: Path):
    """Raise a `UserError` for tables and the like in linked folders, which `datasets` leaves out without a word."""
    for here, files in walk(folder):
        linked = [place for place in (here, *here.parents[:-1]) if (folder / place).is_symlink()] if here.parts else []
        read = [name for name in files if not MODULES.get(Path(name).suffix.lower(), ("folder",))[0].endswith("folder")]
        if linked and read:
            raise UserError(
                f"{folder / linked[0]} is a link to a folder, of which files such as {read[0]} would be left out: put "
                "the folder itself there, or links to its files"
            )


def _splits_of_tables(folder: Path, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    """Tables that lie in the folder itself, by the words of their names; all are one split where no name says which."""
    known = _SPLITS | {split: split for split in wanted}
    files, loaders = {}, {}
    for path in _tables_in(folder):
        loader, options = MODULES[path.suffix.lower()]
        loaders[loader] = options
        found = {known.get(word, known.get(word.lower())) for word in _words(path)}
        for split in found - {None} or {None}:
            files.setdefault(split, []).append(glob.escape(str(path)))
    if len(loaders) > 1:
        raise UserError(f"{folder} holds tables of several kinds ({', '.join(loaders)}): keep one of them")
    without = files.pop(None, [])
    files = files or ({"train": without} if without else {})
    _require_own_files(files, str(folder), wanted)
    return {
        split: {"path": loader, **options, "data_files": {split: found}}
        for loader, options in loaders.items()
        for split, found in files.items()
    }


def _tables_in(folder: Path) -> list[Path]:
    found = [
        path
        for path in sorted(folder.resolve().iterdir())
        if MODULES.get(path.suffix.lower(), ("",))[0] in _TABLES
        and not path.name.startswith(".")
        and path.name not in _METADATA
    ]
    for path in found:
        require_target(path)
    return found


def _words(path: Path) -> set[str]:
    return {*re.split(r"[-._ 0-9]+", path.stem)}


def _has_other_case(folder: Path, wanted: Collection[str]) -> bool:
    """Whether a table of a split is called like `Test.csv` or `test.CSV`, which `datasets` would leave out."""
    known = {*_SPLITS, *wanted}
    return any(
        any(word.lower() in _SPLITS for word in _words(path) - known)
        or (path.suffix != path.suffix.lower() and _words(path) & known)
        for path in _tables_in(folder)
    )


def _configs(readme: Path) -> list[dict]:
    return DatasetCard.load(readme).data.to_dict().get("configs") or []


def _require_own_files(patterns: dict[str, list[str]], folder: str, wanted: Collection[str]):
    owners = {}
    for split in [split for split in patterns if split in wanted]:
        for file in {file for pattern in patterns[split] for file in _resolve(pattern, folder)}:
            if file in owners:
                raise UserError(
                    f"{Path(file).name} is in split {owners[file]} and in split {split}: its path names both; "
                    "rename it, or say in a README.md which files are which split"
                )
            owners[file] = split


def _resolve(pattern: str, folder: str) -> list[str]:
    try:
        return resolve_pattern(pattern, folder)
    except FileNotFoundError:  # not every pattern of a split finds something
        return []


def _find_media(folder: Path) -> tuple[str | None, dict[Path, _Folder] | None, list[Path]]:
    """What lies in a folder and below, by relative paths.

    Returns:
        The loader of the pictures or the like, and every folder that has some: both None where there are more tables
        and archives than such files. And files that may be left out, unless they lie beside what is read instead.
    """
    found, loaders, others, beside, unread = defaultdict(_Folder), Counter(), 0, 0, []
    for here, files in walk(folder):
        for name in files:
            ending = Path(name).suffix.lower()
            loader = MODULES.get(ending, ("",))[0]
            if ending in UNREAD_ENDINGS:
                unread.append(here / name)
            if name in _METADATA:
                found[here].metadata = True
                beside += 1
            elif loader.endswith("folder"):
                loaders[loader] += 1
                found[here].here = True
            elif name.endswith(".zip") or loader not in ("", *_BESIDE):
                others += 1
            else:
                beside += loader != ""
        if found[here].here:
            for above in here.parents:
                found[above].below = True
    if loaders.total() <= others:
        return None, None, [] if others or beside else unread
    media = {place: found[place] for place in found if found[place] != _Folder()}
    return loaders.most_common(1)[0][0], media, unread


def _patterns(folder: Path, paths: list[Path], media: dict[Path, _Folder]) -> list[str]:
    """What finds all files below some folders: `**` does not enter a link, so that each is named as well.

    Raises:
        UserError: a link has a place that only a pattern can name, which does not enter it either.
    """
    found = []
    for path in paths:
        top = (folder / path).resolve()
        found.append(f"{glob.escape(str(top))}/**")
        for place in sorted(media):
            if path in place.parents and (folder / place).is_symlink():
                link = str(top / place.relative_to(path))
                if glob.escape(link) != link:
                    raise UserError(
                        f"{link} is a link to a folder, which `datasets` does not enter where a path has *, ? or [ in "
                        "it: rename, or put the folder itself there"
                    )
                found.append(f"{link}/**")
    return found


def _media_splits(media: dict[Path, _Folder], wanted: Collection[str]) -> dict[str, list[Path]]:
    """Folders of each split, relative."""
    known = _SPLITS | {split: split for split in wanted}
    top = Path()
    inner = _children(media, top)
    # What was unpacked often lies in one folder more.
    while len(inner) == 1 and inner[0].name.lower() not in known and media[inner[0]].below and not _has_own(media[top]):
        top = inner[0]
        inner = _children(media, top)
    named = [path for path in inner if known.keys() & {path.name, path.name.lower()}]
    classes = [path for path in inner if not media[path].below and not media[path].metadata]
    # A class may be called `train`, but not all of them are.
    if not named or (len(classes) == len(inner) and len(named) < len(inner)):
        return {"train": [top]}
    splits = {}
    for path in inner:
        split = known.get(path.name, known.get(path.name.lower(), path.name))
        if re.fullmatch(r"\w+(\.\w+)*", split):  # what `datasets` allows
            splits.setdefault(split, []).append(path)
    return splits


def _has_own(folder: _Folder) -> bool:
    return folder.here or folder.metadata


def _holds_classes(paths: list[Path], media: dict[Path, _Folder]) -> bool:
    """Whether folders in these are classes: unless files lie outside of them, or a table says what files are."""
    within = [found for place, found in media.items() if any(path in (place, *place.parents) for path in paths)]
    return not any(media[path].here for path in paths) and not any(found.metadata for found in within)


def _require_flat_classes(folder: Path, paths: list[Path], media: dict[Path, _Folder]):
    """Raise a `UserError` where folders of several classes have folders in them: `datasets` takes these for classes."""
    for path in paths:
        deep = sorted(place for place in media if media[place].here and path in place.parent.parents)
        if deep and len(_children(media, path)) > 1:
            raise UserError(
                f"{folder / deep[0]} holds files, and the folders of {folder / path} are classes: put the files of a "
                "class into one folder, or say what they are in a table (metadata.csv)"
            )


def _class_options(
    folder: Path,
    loader: str,
    paths: list[Path],
    media: dict[Path, _Folder],
    files: list[Path],
    roles: Collection[str],
) -> dict[str, Any]:
    """For folders that are classes, also where there is only one; `files` are those that may be left out of them.

    Of recordings `datasets` reads paths: it would ask for torchcodec before it takes even an encoded one.
    """
    _require_flat_classes(folder, paths, media)
    of_classes = (file for file in files if any(path in file.parent.parents for path in paths))
    require_known_endings(folder, of_classes, roles)
    if loader != "audiofolder":
        return {"drop_labels": False}
    names = sorted(
        {place.name for place in media if media[place].here and any(path in place.parents for path in paths)}
    )
    features = {SOUND: datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    return {"drop_labels": False, "features": datasets.Features(features)}


def _named_recordings(folder: Path, split: str, paths: list[Path]) -> dict[str, Any]:
    """Where a table says what recordings are, that is read, and the recordings are paths in it.

    Raises:
        UserError: there is more than one for a split.
    """
    tables = [folder / path / name for path in paths for name in _METADATA if (folder / path / name).is_file()]
    if not tables:
        return {}
    if len(tables) > 1:
        raise UserError(f"split {split} of {folder} has {len(tables)} tables, such as {tables[1]}: keep one of them")
    loader, _ = MODULES[tables[0].suffix]
    return {
        "path": loader,
        "data_files": {split: [glob.escape(str(tables[0].resolve()))]},
        "names_in": str(tables[0].parent.resolve()),
    }


def _children(media: dict[Path, _Folder], top: Path) -> list[Path]:
    return sorted({top / path.relative_to(top).parts[0] for path in media if top in path.parents})
