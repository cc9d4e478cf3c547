"""From a recording in any form to samples at the rate, and with the channels, that a model was made for.

Training, evaluation, the commands and the pipeline all read recordings with `read_audio`, so that a model is asked
about what it was trained on. Files are read by soundfile (WAV, FLAC, OGG, MP3 and more) and resampled by soxr, block by
block: a long recording takes the memory of what is made of it, not of the file. What soundfile does not know, such as
the sound of a video, is read by PyAV, and so is MP3 where that is installed: its files need not say how long they are,
and soundfile believes those that do. Arrays need none of these libraries, nor do `.npy` and `.csv` files of sensors.
"""

import contextlib
import csv
import math
import os
import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .fetching import content_or_path, fetched, file_in, is_url, require_bytes
from .scalars import as_list, is_number, unmasked
from .video_reading import MissingStream, film_in, open_video

_CLOCK = 1_000_000  # units of a second in which PyAV says how long a file lasts
_BLOCK = 2**18  # samples of each channel that are read at a time
_LARGEST_SAMPLE = 4  # bytes of a whole number
_NPY = b"\x93NUMPY"  # what such files begin with
MOST_CHANNELS = 8  # of sound; more are taken for samples, in an array that is the wrong way round


def read_audio(
    source: Any,
    sampling_rate: int | None,
    num_channels: int,
    do_rescale: bool = True,
    seconds: float | None = None,
    array_rate: float | None = None,
) -> np.ndarray:
    """The recording as `(C, L)` float32, in [-1, 1] if it came as integers.

    Args:
        source: a path, a URL, the bytes of a file, or a file object; an array or a tensor `(L,)` or `(channels, L)`, or
            a list, also as the path of a `.npy` file, or of a `.csv` file with a line for each moment and a column for
            each channel, and perhaps a line of names before; or a dict of `datasets` with `bytes` or `path`, or with
            `array` and `sampling_rate`.
        sampling_rate: samples a second that are wanted; None resamples nothing, and counts `seconds` in samples.
        num_channels: `C`. Of a sound, which `do_rescale` says that it is, one channel is the mean of those of the
            recording, and up to 8 may be a single one.
        do_rescale: bring integers into [-1, 1], those of files too. Otherwise they keep their units, and arrays of
            another rate are resampled about the line from their first to their last number, as they do not come from
            silence and go there.
        seconds: what is wanted at most, from the beginning, which is that of the film in a file that has one.
        array_rate: samples a second of arrays, those in `.npy` and `.csv` files too; None is `sampling_rate`. Of a dict
            its own counts.

    Raises:
        ValueError: it is empty, holds NaN or infinite numbers, or whole ones of 64 bits where they are to be rescaled;
            has another number of channels, or cannot be read. Of a file of something else than sound, such as a silent
            video, it is a `MissingStream`.
        OSError: a URL cannot be fetched.
        ImportError: a library is missing; says how to install it.
    """
    rate, end, name = _rate_of((sampling_rate or 1) if array_rate is None else array_rate), seconds, None
    if hasattr(source, "get_all_samples"):  # what `datasets` gives where torchcodec is installed
        decoded = source.get_all_samples()
        source, rate = decoded.data, decoded.sample_rate
    elif isinstance(source, dict):
        name = source.get("path")
        source, rate = _of_dict(source, rate)
    if is_url(source):
        source, name = fetched(source), source
    if hasattr(source, "seek"):  # what has it is read block by block
        require_bytes(source.read(0))
        source = _from_start(source)
    else:
        source, name = file_in(source), name or getattr(source, "name", None)
    source = _saved_array(source, name, num_channels)
    if isinstance(source, (str, os.PathLike, bytes)) or hasattr(source, "read"):
        samples = _read_file(source, name, sampling_rate, num_channels, do_rescale, end)
    else:
        samples = _with_channels(_of_array(source, num_channels, do_rescale), num_channels, do_rescale)
        if end is not None:
            samples = samples[:, : _count(end * _counted(rate, sampling_rate))]
        if sampling_rate not in (None, rate) and samples.shape[1]:
            resampled = _resampled_sound if do_rescale else _resampled_series
            samples = resampled(samples, rate, sampling_rate)
    _require_samples(samples)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _saved_array(source: Any, name: str | None, num_channels: int) -> Any:
    """The array `(L,)` or `(channels, L)` that a `.npy` or `.csv` file holds; anything else as it is.

    Args:
        name: of the file, where bytes are given.
    """
    opened = source
    if isinstance(source, (str, os.PathLike)):
        opened, name = Path(source).expanduser(), str(source)
        if not _is_file(opened):
            return source
        with opened.open("rb") as file:
            start = file.read(len(_NPY))
    elif isinstance(source, bytes):
        opened, start = BytesIO(source), source[: len(_NPY)]
    elif hasattr(source, "read") and hasattr(source, "seek"):
        start, name = source.read(len(_NPY)), getattr(source, "name", None)
        source.seek(0)
    else:
        return source
    try:
        if start == _NPY:
            return np.load(opened, allow_pickle=False)
        if str(name).lower().endswith(".csv"):
            content = opened.read_bytes() if isinstance(opened, Path) else opened.read()
            return _table(content.decode("utf-8-sig"), num_channels)
    except (ValueError, EOFError, csv.Error) as error:
        raise ValueError(f"{name or 'bytes'} is not an array or a table of numbers that can be read: {error}") from None
    return source


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # as of a name that is too long
        return False


def _table(text: str, num_channels: int) -> np.ndarray:
    """Lines of numbers between commas `-> (columns, lines)`; a first line that holds names is left out.

    Columns that are too many are not channels to take the mean of: one may count lines, or commas be decimal ones.
    """
    lines = [line for line in csv.reader(text.splitlines()) if any(cell.strip() for cell in line)]
    if lines and not any(map(_is_number_text, lines[0])):
        names = lines.pop(0)
        if not all(name.strip() for name in names):
            raise ValueError("a column has no name, as those have that count lines: leave it out")
    if _counts_columns(lines):
        raise ValueError("its first line, 0, 1, 2 and so on, are names of columns as it seems: leave it out")
    if len({len(line) for line in lines}) > 1:
        raise ValueError("lines have different numbers of columns")
    if lines and len(lines[0]) != num_channels:
        raise ValueError(f"it has {len(lines[0])} columns, expected {num_channels}")
    return np.array(lines, dtype=np.float64).T if lines else np.zeros((1, 0))


def _counts_columns(lines: list[list[str]]) -> bool:
    """Whether the first line is 0, 1, 2 and so on, as data frames without names have it, and no other line is whole."""
    whole = [all(cell.strip().isdigit() for cell in line) for line in lines]
    first = [cell.strip() for cell in lines[0]] if lines else []
    return len(first) > 2 and first == [str(column) for column in range(len(first))] and sum(whole) == 1 < len(lines)


def _is_number_text(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _of_dict(source: dict, rate: float) -> tuple[Any, float]:
    """What a dict holds, and the rate that it has if it is an array."""
    array = source.get("array", source.get("raw"))
    if array is not None and "sampling_rate" not in source:
        raise ValueError(f"A recording given as a dict with {sorted(source)} lacks `sampling_rate`.")
    if array is not None or source.get("sampling_rate") is not None:
        rate = _rate_of(source["sampling_rate"])
    if array is not None:
        return array, rate
    found = content_or_path(source)
    if found is None:
        raise ValueError(
            f"A recording is given as a dict with {sorted(source)}: expected `array` and `sampling_rate`, or `bytes`, "
            "or `path`."
        )
    return found, rate


def _counted(rate: float, sampling_rate: int | None) -> float:
    """By which rate the time of a recording is counted: its own, where there is one that is wanted."""
    return 1 if sampling_rate is None else rate


def _rate_of(given: Any) -> float:
    # Formats of `datasets` make it a tensor or an array without axes.
    rate = given.item() if getattr(given, "ndim", None) == 0 else given
    if not is_number(rate) or not 0 < rate < math.inf:
        raise ValueError(f"A recording has sampling_rate={rate!r}: expected a finite number above 0.")
    return rate


def _of_array(source: Any, num_channels: int, do_rescale: bool) -> np.ndarray:
    """`(L,)` or `(channels, L) -> (channels, L)` float32"""
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = source.float() if source.dtype == torch.bfloat16 else source  # which numpy has not
    try:
        array = np.asarray(unmasked(as_list(source)))
    except ValueError:
        raise ValueError("A recording has channels of different lengths: expected as many samples in each.") from None
    if array.dtype.kind not in "iuf":
        raise ValueError(f"A recording has dtype {array.dtype}: expected whole or real numbers.")
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or (len(array) != num_channels and len(array) > max(MOST_CHANNELS, array.shape[1]) > 0):
        raise ValueError(f"A recording has shape {array.shape}: expected (samples,) or (channels, samples).")
    if do_rescale and array.dtype.kind in "iu":
        if array.dtype.itemsize > _LARGEST_SAMPLE:
            raise ValueError(
                f"A recording has dtype {array.dtype}, as lists of whole numbers have: how large its numbers can be is "
                "not known. Give int16, or whatever they were recorded in, or floats from -1 to 1."
            )
        limits = np.iinfo(array.dtype)
        middle = (int(limits.max) + int(limits.min) + 1) / 2  # 0, or 128 of 8-bit files
        return ((array - middle) / ((int(limits.max) - int(limits.min) + 1) / 2)).astype(np.float32)
    with np.errstate(over="ignore"):  # infinite then, which is refused
        return array.astype(np.float32)


def _with_channels(samples: np.ndarray, num_channels: int, is_sound: bool) -> np.ndarray:
    """`(channels, L) -> (C, L)`; the only channel of a sound is all of a few, and that of a series is another thing."""
    if len(samples) == num_channels:
        return samples
    if num_channels == 1 and is_sound:
        return samples.mean(axis=0, keepdims=True)
    takes_one = is_sound and num_channels <= MOST_CHANNELS
    if len(samples) == 1 and takes_one:
        return np.repeat(samples, num_channels, axis=0)
    expected = f"{num_channels} or 1" if takes_one else num_channels
    raise ValueError(f"A recording has {len(samples)} channels: expected {expected}. Arrays are (channels, samples).")


def _read_file(
    source: Any, name: str | None, sampling_rate: int | None, num_channels: int, do_rescale: bool, seconds: float | None
) -> np.ndarray:
    """A file `-> (C, L)` float32, block by block."""
    soundfile = _soundfile()
    if isinstance(source, (str, os.PathLike)):
        name, source = str(source), str(Path(source).expanduser())
    name = name or "bytes of a recording"
    if isinstance(source, bytes) and not source:
        raise ValueError(f"{name} is not a recording: it is empty.")
    opened = BytesIO(source) if isinstance(source, bytes) else source
    wanted = sampling_rate, num_channels, do_rescale, seconds
    try:
        with soundfile.SoundFile(_for_soundfile(opened)) as file:
            is_mp3 = file.format == "MP3"
        made = _read_container(_from_start(opened), name, *wanted) if is_mp3 else None
        if made is None:
            with soundfile.SoundFile(_for_soundfile(opened)) as file:
                unit, middle = _unit_of(file.subtype, do_rescale)
                parts = (
                    part * unit + middle for part in _parts(file, _counted(file.samplerate, sampling_rate), seconds)
                )
                blocks = (_with_channels(part, num_channels, do_rescale) for part in parts)
                made = _at_rate(blocks, file.samplerate, sampling_rate, num_channels)
    except soundfile.LibsndfileError as error:
        if isinstance(opened, str) and not _is_file(Path(opened)):
            raise ValueError(f"{name} is not a recording: there is no such file.") from None
        made = _read_container(_from_start(opened), name, *wanted)
        if made is None:
            raise ValueError(f"{name} is not a recording that can be read: {error.error_string}") from None
    return np.concatenate(made, axis=1) if made else np.zeros((num_channels, 0), np.float32)


def _unit_of(encoding: str, do_rescale: bool) -> tuple[int, int]:
    """What the largest whole number of a file is, which its readers give as 1, and what lies in the middle, as 0.

    Args:
        encoding: as soundfile or FFmpeg call it, such as `PCM_16` or `pcm_u8`.
    """
    whole = re.match(r"pcm_([su]?)(\d+)", encoding.lower())
    if do_rescale or whole is None:
        return 1, 0
    unit = 2 ** (int(whole[2]) - 1)
    return unit, unit if whole[1] == "u" else 0


def _parts(file: Any, rate: float, seconds: float | None):
    """`(channels, l)` float32, one after the other, of what soundfile has opened."""
    left = math.inf if seconds is None else _count(seconds * rate)
    while left > 0:
        # Of a file that was cut off fewer come than it says that it has.
        block = file.read(min(_BLOCK, left), dtype="float32", always_2d=True).T
        if block.shape[1] == 0:
            return
        yield block
        left -= block.shape[1]


def _for_soundfile(opened: Any) -> Any:
    """A file from its start; a name that is not UTF-8 by its bytes, which soundfile does not make of it."""
    is_other = isinstance(opened, str) and not opened.isascii() and opened.encode(errors="ignore").decode() != opened
    return os.fsencode(opened) if is_other else _from_start(opened)


def _from_start(opened: Any) -> Any:
    if hasattr(opened, "seek"):
        opened.seek(0)
    return opened


def _read_container(
    source: Any, name: str, sampling_rate: int | None, num_channels: int, do_rescale: bool, seconds: float | None
) -> list | None:
    """The sound of a video, or of another file that PyAV knows, as blocks `(C, l)`; None where it does not know it.

    Raises:
        MissingStream: there is no sound in it.
    """
    try:
        container, _ = open_video(source)
    except (ValueError, ImportError):
        return None
    with container:
        if not container.streams.audio:
            raise MissingStream(f"{name} has no sound in it.")
        rate = container.streams.audio[0].rate
        blocks = _from_first_frame(container, _blocks(container, do_rescale))
        blocks = (
            _with_channels(block, num_channels, do_rescale)
            for block in _cut(blocks, _counted(rate, sampling_rate), seconds)
        )
        return _at_rate(blocks, rate, sampling_rate, num_channels) or None


def _blocks(container: Any, do_rescale: bool) -> Iterator[np.ndarray]:
    """`(channels, l)` float32, one after the other, of the first stream of sound, without what is damaged."""
    import av  # there, since the container is

    stream = container.streams.audio[0]
    unit, middle = _unit_of(stream.codec_context.codec.name, do_rescale)
    floats = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    for frame in _decoded(container, stream):
        for part in floats.resample(frame):
            yield part.to_ndarray() * unit + middle


def _from_first_frame(container: Any, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same beside a film: silence until sound begins that begins later, and without what is heard before."""
    sound, film = container.streams.audio[0], film_in(container)
    ahead = 0  # samples
    if film is not None and None not in (film.start_time, sound.start_time, container.duration):
        seconds = float(film.start_time * film.time_base - sound.start_time * sound.time_base)
        if abs(seconds) < container.duration / _CLOCK:  # otherwise times are broken
            ahead = round(seconds * sound.rate)
    for block in blocks:
        if ahead < 0:
            yield np.zeros((len(block), -ahead), block.dtype)
            ahead = 0
        yield block[:, ahead:]
        ahead = max(0, ahead - block.shape[1])


def _cut(blocks: Iterable[np.ndarray], rate: int, seconds: float | None) -> Iterator[np.ndarray]:
    """No more than the first `seconds`."""
    left = None if seconds is None else _count(seconds * rate)
    for block in blocks:
        yield block[:, :left]
        if left is not None:
            left -= block[:, :left].shape[1]
            if left <= 0:
                return


def _decoded(container: Any, stream: Any):
    """Frames of a stream, as far as they can be decoded."""
    from av import FFmpegError  # there, since the container is

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:  # what was read before is what there is
            return
        if packet is None:
            return
        with contextlib.suppress(FFmpegError):
            yield from packet.decode()


def _at_rate(
    blocks: Iterable[np.ndarray], rate: float, sampling_rate: int | None, num_channels: int
) -> list[np.ndarray]:
    """Blocks `(C, l)` of one recording at another rate, block by block, so that all at once are never in memory.

    Of a few samples resampling leaves none: then there is the first one.
    """
    if sampling_rate in (None, rate):
        return list(blocks)
    stream = _soxr().ResampleStream(rate, sampling_rate, num_channels, dtype="float32")
    made, first, place = [], np.zeros((num_channels, 0), np.float32), 0
    for block in blocks:
        _require_finite(block, place)  # NaN would be spread
        place += block.shape[1]
        first = first if first.shape[1] else block[:, :1]
        made.append(stream.resample_chunk(np.ascontiguousarray(block.T)).reshape(-1, num_channels).T)
    rest = np.zeros((0, num_channels), np.float32)
    made.append(stream.resample_chunk(rest, last=True).reshape(-1, num_channels).T)
    return made if any(block.shape[1] for block in made) else [first]


def _resampled_sound(samples: np.ndarray, rate: float, sampling_rate: int) -> np.ndarray:
    """`(C, L) -> (C, l)`"""
    return np.concatenate(_at_rate([samples], rate, sampling_rate, len(samples)), axis=1)


def _resampled_series(samples: np.ndarray, rate: float, sampling_rate: int) -> np.ndarray:
    """`(C, L) -> (C, l)`: what lies off the line from the first to the last number, which is 0 at both ends."""
    _require_finite(samples)  # NaN would be spread
    first, last = samples[:, :1].astype(np.float64), samples[:, -1:].astype(np.float64)
    slope = (last - first) / max(1, samples.shape[1] - 1)
    rest = (samples - (first + slope * np.arange(samples.shape[1]))).astype(np.float32)
    rest = _resampled_sound(rest, rate, sampling_rate)
    return rest + first + slope * (np.arange(rest.shape[1]) * (rate / sampling_rate))


def _require_samples(samples: np.ndarray):
    if samples.shape[1] == 0:
        raise ValueError("A recording has no samples: expected at least one.")
    _require_finite(samples)


def _require_finite(samples: np.ndarray, first: int = 0):
    if not np.isfinite(samples).all():
        channel, place = np.argwhere(~np.isfinite(samples))[0]
        raise ValueError(
            f"A recording holds {samples[channel, place]} at sample {first + place}: expected finite numbers within "
            "float32."
        )


def _count(samples: float) -> int:
    return max(1, math.ceil(samples - 1e-6))  # what rounding adds to a whole number is no sample


def _soundfile():
    try:
        import soundfile
    except ImportError:
        raise ImportError("Files of recordings are read by soundfile: pip install soundfile soxr") from None
    return soundfile


def _soxr():
    try:
        import soxr
    except ImportError:
        raise ImportError("Recordings of another sampling rate are resampled by soxr: pip install soxr") from None
    return soxr
