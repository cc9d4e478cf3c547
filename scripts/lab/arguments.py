"""Command lines on which changes of a recipe may stand anywhere."""

import argparse
import dataclasses
import math
import re
import sys

from lab.errors import UserError
from lab.recipe import Recipe

_KEYS = "|".join(field.name for field in dataclasses.fields(Recipe))
_CHANGE = re.compile(rf"({_KEYS})(\.[^=]*)?=")


def require_of_data(changes: list[str]):
    """Raise a `UserError` for a change of a finished run's recipe that is about other things than its data."""
    for text in changes:
        if not text.startswith(("data.", "optimization.cpu_threads=")):
            raise UserError(f"{text}: only keys of section data: can be changed here, such as data.path=FOLDER")


def at_least_one(text: str) -> int:
    """A number of at least 1, as a `type` of argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0, as a `type` of argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number


def parse_with_changes(
    parser: argparse.ArgumentParser, arguments: list[str] | None, name: str = "overrides"
) -> argparse.Namespace:
    """The options of a parser, which takes several `key=value` as its argument `name`.

    They may also follow an option that takes several values, to which argparse would give them.
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_intermixed_args([word for word in given if not _CHANGE.match(word)])
    setattr(options, name, [*getattr(options, name), *filter(_CHANGE.match, given)])
    return options
