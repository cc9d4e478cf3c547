"""Results on the disk: written beside their place, and moved there when they are whole, so that none is half a file."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lab.errors import UserError, one_line


@contextmanager
def beside(folder: Path, stale: tuple[str, ...] = ()) -> Iterator[Path]:
    """A folder to write into, whose files replace those of their names in `folder` at the end.

    After an error `folder` is as it was.

    Args:
        stale: names of files of `folder` that go at the end, even where no new ones come.
    """
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder, ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)
        files = [path for path in sorted(Path(temporary).rglob("*")) if path.is_file()]
        for path in files:
            flush(path)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        for path in files:
            place = folder / path.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)


@contextmanager
def new_files(folder: Path, stale: tuple[str, ...] = ()) -> Iterator[Path]:
    """`beside` for a command, which a person gave the folder.

    Raises:
        UserError: they cannot be written.
    """
    with _telling(folder), beside(folder, stale) as unfinished:
        yield unfinished


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write a file to, which replaces `path` at the end; after an error that is as it was.

    Raises:
        UserError: it cannot be written.
    """
    path = path.resolve()  # what a link leads to is replaced, and not the link
    if path.exists() and not path.is_file():  # such as /dev/stdout
        with _telling(path):
            yield path
    else:
        with _telling(path), beside(path.parent) as unfinished:
            yield unfinished / path.name


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` in one step at the end, or vanishes after an error.

    Raises:
        UserError: it cannot be written, or there is meanwhile something of its name.
    """
    with (
        _telling(folder),
        tempfile.TemporaryDirectory(prefix="tmp-", dir=_made(folder.parent), ignore_cleanup_errors=True) as temporary,
    ):
        unfinished = Path(temporary) / folder.name  # as a temporary folder itself is closed to others
        unfinished.mkdir()
        yield unfinished
        unfinished.replace(folder)


def write_atomically(path: Path, text: str):
    """Write a file that is the old one or the new one at any moment, never a part."""
    unfinished = path.with_name(f"tmp-{path.name}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        flush(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def flush(path: Path):
    """Have what was written to a file, or the names in a folder, on the disk."""
    folder = path.is_dir()
    if folder and sys.platform == "win32":
        return  # Windows opens no folder
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)  # and flushes only what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        first = error.args[0][0][-1] if isinstance(error, shutil.Error) else error  # that has one for each file
        raise UserError(
            f"{path} cannot be written ({one_line(first)}): make room there, or name another place; what was there "
            "before is as it was"
        ) from None


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
