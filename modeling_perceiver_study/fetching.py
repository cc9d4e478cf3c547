"""Files by their URL, and by whatever else stands for one."""

import os
from collections.abc import Mapping
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


def is_file(source: Any) -> bool:
    """Whether it is a file, by its path, its URL, its bytes, or opened."""
    return isinstance(source, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(source, "read")


def require_bytes(content: Any):
    """Raise a ValueError where a file object gives text."""
    if isinstance(content, str):
        raise ValueError("A file is opened as text: expected one that is opened as bytes, as by open(path, 'rb').")


def content_or_path(source: Mapping) -> Any:
    """What an undecoded dict of `datasets` holds: `bytes`, also empty ones, else `path`; None where it has neither."""
    content = source.get("bytes")
    return source.get("path") if content is None else content


def file_in(source: Any) -> Any:
    """What a file is given by, as its path, its URL or its content in bytes; anything else as it is.

    Args:
        source: also bytes of other types, a file object, which is read from its start, or an undecoded dict of
            `datasets`, with `bytes` or `path`.

    Raises:
        ValueError: a dict has neither, or a file is opened as text.
    """
    if isinstance(source, Mapping):
        found = content_or_path(source)
        if found is None:
            raise ValueError(f"A file is given as a dict with {sorted(source)}: expected `bytes` or `path`.")
        source = found
    if hasattr(source, "read"):
        if hasattr(source, "seekable") and source.seekable():
            source.seek(0)
        source = source.read()
        require_bytes(source)
    return bytes(source) if isinstance(source, (bytearray, memoryview)) else source
