"""Files that are named by their URL."""

from typing import Any

from transformers.image_utils import httpx  # the client that transformers itself fetches pictures with


def is_url(source: Any) -> bool:
    """Whether it is a string that begins with http:// or https://."""
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def fetched(url: str, timeout: float | None = 5.0) -> bytes:
    """What is at a URL, or where it leads to.

    Args:
        timeout: seconds to wait for each answer of the server; None waits forever.

    Raises:
        OSError: the URL is none, the server cannot be reached, or has nothing there; names the URL.
    """
    try:
        return httpx.get(url, timeout=timeout, follow_redirects=True).raise_for_status().content
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last of a host that is no name
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise OSError(f"{url} cannot be fetched: {reason}.") from None
