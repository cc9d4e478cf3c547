"""What recipes may say of random changes, and what cards say of them."""

from typing import Any

from lab.errors import UserError


def listed_changes(kinds: dict[str, Any]) -> str:
    """Those that are on, as the end of a list; empty if none is.

    Args:
        kinds: descriptions, and the setting that turns each on.
    """
    found = [kind for kind, on in kinds.items() if on]
    return f"; {', '.join(found)}" if found else ""


def require_span(key: str, limits: list[float] | None, positive: bool = True):
    """Raise a `UserError` for what is not null or two numbers, the lower first.

    Args:
        positive: both have to be above 0.
    """
    if limits is not None and not (len(limits) == 2 and limits[0] <= limits[1] and (limits[0] > 0 or not positive)):
        above = " above 0" if positive else ""
        raise UserError(f"{key}={limits}: expected null, or two numbers{above}, the lower first")


def span(limits: list[float] | None) -> str:
    """Two limits in words."""
    return f"{limits[0]:g} to {limits[1]:g}" if limits else ""
