"""Paths as people give them, and names that only some systems can read."""

import sys
from pathlib import Path

from lab.errors import UserError, one_line


def place(text: str) -> Path:
    """Return the path that a user means, with `~` as the home folder.

    Raises:
        UserError: there is no such user, or the locale cannot name the path.
    """
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
