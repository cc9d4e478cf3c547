"""Mistakes that a user can fix, shown as one line instead of a traceback."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SHOWN = 5  # names in a message


class UserError(Exception):
    """Its message names the value, what was expected and what to do."""


def run_command(main):
    """Call `main()`; a `UserError` or Ctrl-C ends the program with status 1 and one line on standard error.

    What the locale has no character for is printed as a question mark.
    """
    sys.stdout.reconfigure(errors="replace")
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None


def require_file(path: Path):
    """Raise a `UserError` unless there is such a file."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: expected a file")
    if not path.is_file():
        raise UserError(f"{path}: no such file")


@contextmanager
def about_file(path: Path) -> Iterator[None]:
    """What a processor or a model refuses of what was read of a file becomes a `UserError` that names the file."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """What an error of a library says, for a message of ours."""
    return " ".join(str(error).split())


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
