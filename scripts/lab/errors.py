"""Mistakes that a user can fix, shown as one line instead of a traceback."""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SHOWN = 5  # names in a message
_FULL = (errno.ENOSPC, errno.EDQUOT)  # no room on the disk, or none left of what a person may use


class UserError(Exception):
    """Its message names the value, what was expected and what to do."""


def run_command(main):
    """Call `main()`; a `UserError`, a full disk or Ctrl-C ends the program with status 1 and one line on stderr.

    What the locale has no character for is printed as a question mark.
    """
    sys.stdout.reconfigure(errors="replace")
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise SystemExit(f"error: the disk is full ({one_line(error)}): make room, then repeat the command") from None


def is_full_disk(error: Exception) -> bool:
    """Whether an error says that there is no room to write; of safetensors, which is in Rust, its text alone does."""
    return getattr(error, "errno", None) in _FULL or any(f"(os error {number})" in str(error) for number in _FULL)


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


def one_line(text: Exception | str) -> str:
    """What an error of a library says, or a name that may have line breaks in it, for a line of ours."""
    return " ".join(str(text).split())


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def counted(number: int, one: str, several: str) -> str:
    """A number and what there are so many of, such as `1 class` or `10 classes`."""
    return f"{number:,} {one if number == 1 else several}"
