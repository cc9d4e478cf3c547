"""Paths as people give them, and names that only some systems can read."""

import os
import sys
from pathlib import Path

from lab.errors import UserError, one_line


def place(text: str) -> Path:
    """Return the path that a user means, with `~` as the home folder.

    Raises:
        UserError: the text is empty, there is no such user, or the locale cannot name the path.
    """
    if not text:  # such as a variable of the shell that is not set; it would be the present folder
        raise UserError("a path is an empty text: name a file or a folder, or . for this one")
    try:
        text.encode("utf-8")  # what was not ASCII on the command line is no text where the locale is ASCII
        return Path(text).expanduser()
    except UnicodeEncodeError:
        shown = text.encode("ascii", "backslashreplace").decode()
        raise UserError(
            f"{shown} cannot be read as {sys.getfilesystemencoding()}, which is what the locale says: "
            "set PYTHONUTF8=1, or a locale with UTF-8"
        ) from None
    except RuntimeError as error:
        raise UserError(f"{text}: {one_line(error)}") from None


def folder_to_write(folder: Path, option: str = "--output") -> Path:
    """Return a folder, made if it is not there. Asked for before the work, which would be lost otherwise.

    Raises:
        UserError: it is a file, or cannot be made or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {folder} cannot be made a folder ({error}): name another") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option} {folder} cannot be written into: name another folder")
    return folder


def file_to_write(path: Path, option: str = "--output") -> Path:
    """Return the path of a file that is to be written. Asked for before the work, too.

    Raises:
        UserError: it is a folder, its folder is not there, or it cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{option} {path} cannot be written: it is a folder; name a file")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path} cannot be written: there is no folder {path.parent}; make it first")
    forbidden = path.exists() and not os.access(path, os.W_OK)
    if forbidden or not (path.is_char_device() or os.access(path.parent, os.W_OK | os.X_OK)):  # it is written beside
        raise UserError(f"{option} {path} cannot be written: its permissions forbid it; name another file")
    return path
