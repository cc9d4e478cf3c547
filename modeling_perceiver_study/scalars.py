"""What a setting that is a number may be."""

from typing import Any


def is_count(value: Any, minimum: int = 1) -> bool:
    """Whether it is a whole number of at least `minimum`; a truth value, which Python takes for one, is not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_number(value: Any) -> bool:
    """Whether it is a whole or a floating-point number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
