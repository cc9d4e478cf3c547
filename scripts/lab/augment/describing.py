"""What cards say of random changes."""

from typing import Any


def listed_changes(kinds: dict[str, Any]) -> str:
    """Those that are on, as the end of a list; empty if none is.

    Args:
        kinds: descriptions, and the setting that turns each on.
    """
    found = [kind for kind, on in kinds.items() if on]
    return f"; {', '.join(found)}" if found else ""


def span(limits: list[float] | None) -> str:
    """Two limits in words."""
    return f"{limits[0]:g} to {limits[1]:g}" if limits else ""
