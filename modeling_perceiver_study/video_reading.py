"""From a clip in any form to the frames that a model looks at: which they are, and where they come from.

Training, evaluation, the commands and the pipeline all read clips with `read_frames`. Files are decoded by PyAV, one
frame after the other, and only those that are wanted are kept. Lists and arrays of frames need no such library.
"""

import os
from collections.abc import Callable, Sequence
from io import BytesIO
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.image_utils import is_pil_image

from .fetching import content_or_path, fetched, file_in, is_file, is_url
from .image_reading import open_image

# From how many frames a clip has, and how many it shows a second if that is known, to the numbers of those wanted. Of
# frames that do not come evenly it is the second of each instead, `(count,)`.
Rate = float | np.ndarray | None
Choice = Callable[[int, Rate], Sequence[int]]

_COVER = 0x400  # what FFmpeg calls a picture that is attached to sound
_REORDERED = 16  # places that a frame may be shown before or after where it is stored, at most
_PICTURE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class MissingStream(ValueError):
    """A file that can be read has no video in it, or no sound."""


def choose_frames(
    count: int,
    rate: Rate,
    num_frames: int | None,
    fps: float | None = None,
    exactly: bool = False,
    first: bool = False,
) -> np.ndarray:
    """Numbers of the frames that are looked at, in order.

    Args:
        count: frames that there are.
        rate: how many of them a second, or `(count,)` the second at which each begins; None if nobody knows.
        num_frames: at most so many, evenly spaced over the clip; None is all.
        fps: frames wanted of each second, where `rate` is known.
        exactly: always `num_frames`, so that frames of a short clip are repeated.
        first: of a longer clip the first `num_frames`, instead of some from all over it.
    """
    frames = np.arange(count)
    if fps is not None and np.ndim(rate) == 1:
        # What is seen at each moment. The last frame is taken to last as long as others do on average.
        end = (rate[-1] - rate[0]) * count / (count - 1)
        moments = rate[0] + np.arange(max(1, round(end * fps))) / fps
        frames = np.searchsorted(rate, moments + 1e-6, side="right") - 1
    elif fps is not None and rate is not None and fps != rate:
        # The nearest frame to each moment; the last moment is before the end of the clip.
        moments = np.arange(max(1, round(count * fps / rate))) * (rate / fps)
        frames = np.minimum(np.floor(moments + 1e-6).astype(np.int64), count - 1)
    if first:
        return frames[:num_frames]
    if num_frames is not None and (exactly or len(frames) > num_frames):
        frames = frames[np.linspace(0, len(frames) - 1, num_frames).round().astype(np.int64)]
    return frames


def read_frames(source: Any, choice: Choice) -> list[Any]:
    """The frames of one clip that `choice` names, as arrays or PIL images.

    Args:
        source: a path, a URL, the bytes of a file or a file object; a dict of `datasets` with `bytes` or `path`; a list
            of frames, each a PIL image, an array, or a picture by path, bytes or dict; an array or a tensor
            `(T, H, W)`, `(T, H, W, C)` or `(T, C, H, W)`.

    Raises:
        ValueError: it has no frames, or cannot be read; of a file that has no video a `MissingStream`.
        OSError: a URL cannot be fetched.
        ImportError: a library is missing; says how to install it.
    """
    source = file_in(source)  # a file object is read whole, since files are opened twice: once to count
    if is_file(source):
        return _read_file(source, choice)
    if hasattr(source, "ndim"):
        if source.ndim not in (3, 4):
            raise ValueError(
                f"A clip has shape {tuple(source.shape)}: expected (frames, height, width), or channels as well."
            )
    elif not isinstance(source, (list, tuple)):
        raise ValueError(f"A clip is a {type(source).__name__}: expected a file, a list of frames, or an array.")
    if len(source) == 0:
        raise ValueError("A clip has no frames: expected at least one.")
    return [_frame(source[index]) for index in _checked(choice(len(source), None), len(source))]


def streams_in(source: Any) -> set[str] | None:
    """Kinds of what a file holds, `"video"` and `"audio"`; None where PyAV is missing or does not know the file.

    The picture on the cover of a recording is no video.
    """
    try:
        container, _ = open_video(source)
    except (ValueError, ImportError):
        return None
    with container:
        return {stream.type for stream in container.streams if not _is_cover(stream)}


def is_frame(value: Any) -> bool:
    """Whether something in a list is a frame, and not a clip: a picture, or an array that may be one.

    An array of three axes may be one where its first or last axis is as long as a picture has channels: 1, 3, or 4 at
    the end.
    """
    if isinstance(value, dict):
        value = content_or_path(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value[:12])
        return value.startswith(_PICTURE_STARTS) or (value.startswith(b"RIFF") and value[8:12] == b"WEBP")
    if isinstance(value, (str, os.PathLike)):
        return str(value).lower().endswith(_PICTURE_ENDINGS)
    if isinstance(value, (list, tuple)) or hasattr(value, "read"):
        return False
    axes = getattr(value, "ndim", 2)
    return axes < 3 or (axes == 3 and (value.shape[0] in (1, 3) or value.shape[-1] in (1, 3, 4)))


def is_several_clips(value: Any) -> bool:
    """Whether it is a list of clips, and not one as a list of frames, which may be lists of numbers."""
    if not isinstance(value, (list, tuple)) or len(value) == 0:
        return False
    first = leaf = value[0]
    while isinstance(leaf, (list, tuple)) and len(leaf) > 0:
        leaf = leaf[0]
    if leaf is not first:
        if isinstance(leaf, memoryview) or (not isinstance(leaf, Number) and getattr(leaf, "ndim", 2) > 1):
            return True
        first = np.asarray(first)
    return not is_frame(first)


def open_video(source: str | bytes | os.PathLike | Any, name: str | None = None):
    """A container of PyAV, and what messages call it.

    Args:
        name: of bytes.

    Raises:
        ValueError: it cannot be opened, or holds no video.
        OSError: a URL cannot be fetched.
        ImportError: PyAV is missing.
    """
    av = _av()
    name = name or "bytes of a clip"
    if is_url(source):
        name, source = source, fetched(source)
    if isinstance(source, (str, os.PathLike)):
        name, source = str(source), str(Path(source).expanduser())
        if not Path(source).is_file():
            raise ValueError(f"{name} is not a clip: there is no such file.")
    try:
        return av.open(BytesIO(source) if isinstance(source, bytes) else source), name
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise ValueError(f"{name} is not a clip that can be read: {error}") from None


def _read_file(source: Any, choice: Choice) -> list[np.ndarray]:
    """`(H, W, 3)` uint8 for each wanted frame."""
    av = _av()
    name = source if is_url(source) else None
    source = fetched(source) if is_url(source) else source  # once, though it is opened twice
    container, name = open_video(source, name)
    with container:
        stream = film_in(container)
        if stream is None:
            raise MissingStream(f"{name} has no video in it.")
        rate = None if stream.average_rate is None else float(stream.average_rate)
        times = []
        try:
            times = [packet.pts for packet in container.demux(stream) if packet.size > 0]
            count = len(times)
        except av.error.FFmpegError:
            count = stream.frames
        own = _uneven(times, stream.time_base)
    frames, found = _decode(source, _checked(choice(max(count, 1), rate if own is None else own), max(count, 1)))
    if frames is None:  # there are fewer than packets, which are broken, or hold no frame
        if found == 0:
            raise ValueError(f"{name} has no frames that can be decoded.")
        frames, _ = _decode(source, _checked(choice(found, rate), found))
    return frames


def film_in(container: Any) -> Any:
    """The stream of frames in a container, None where there is none."""
    return next((stream for stream in container.streams.video if not _is_cover(stream)), None)


def _is_cover(stream: Any) -> bool:
    return stream.type == "video" and bool(stream.disposition & _COVER)


def _uneven(times: list[int | None], unit: Any) -> np.ndarray | None:
    """The second at which each frame begins, in order; None where they are known to come evenly, or nothing is known.

    They come evenly if none is further than a step from where it would be then, as where times are rounded.
    """
    if len(times) < 3 or None in times:
        return None
    order = np.argsort(times, kind="stable")
    if (np.abs(order - np.arange(len(order))) > _REORDERED).any():
        return None  # of joined files whose times begin anew
    seconds = np.array(times, np.float64)[order] * float(unit)
    step = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    even = seconds[0] + step * np.arange(len(seconds))
    return seconds if (np.abs(seconds - even) > step).any() else None


def _decode(source: Any, wanted: Sequence[int]) -> tuple[list[np.ndarray] | None, int]:
    """The frames, or None where there are fewer; and how many were decoded."""
    av, kept, number = _av(), {}, 0
    needed, last = set(wanted), max(wanted)
    container, _ = open_video(source)
    with container:
        stream = film_in(container)
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                if number in needed:
                    turns = round(getattr(frame, "rotation", 0) / 90) % 4
                    kept[number] = np.rot90(_colours(frame), turns)
                number += 1
                if number > last:
                    return [kept[index] for index in wanted], number
        except av.error.FFmpegError:
            pass  # what was decoded before is what there is
    return None, number


def _colours(frame: Any) -> np.ndarray:
    """`(H, W, 3)` uint8: a decoded frame; what is transparent is laid on white, as of pictures."""
    colours = frame.to_ndarray(format="rgb24")
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        opacity = frame.to_ndarray(format="rgba")[..., 3:] / 255
        if (opacity < 1).any():
            colours = np.floor(255 + (colours - 255.0) * opacity + 0.5).astype(np.uint8)
    return colours


def _checked(numbers: Sequence[int], count: int) -> list[int]:
    numbers = [int(number) for number in numbers]
    if not numbers or min(numbers) < 0 or max(numbers) >= count:
        raise ValueError(
            f"Frames {numbers} are wanted of a clip that has {count}: expected some from 0 to {count - 1}."
        )
    return numbers


def _frame(value: Any) -> Any:
    value = file_in(value)
    if isinstance(value, (str, os.PathLike, bytes)):
        return open_image(value)
    if isinstance(value, list):
        return np.asarray(value)
    if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16:
        return value.float()
    if not (is_pil_image(value) or hasattr(value, "ndim")):
        raise ValueError(f"A frame is a {type(value).__name__}: expected a picture by path or bytes, or an array.")
    if hasattr(value, "ndim") and value.ndim not in (2, 3):
        raise ValueError(f"A frame has shape {tuple(value.shape)}: expected (height, width), or channels as well.")
    return value


def _av():
    try:
        import av
    except ImportError:
        raise ImportError("Files of clips are read by PyAV: pip install av") from None
    return av
