"""Recordings in every form: files of all kinds, rates, channels and dtypes, or a clear error."""

import io
import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from modeling_perceiver_study import PerceiverStudyFeatureExtractor, audio_reading
from modeling_perceiver_study.audio_reading import read_audio
from tests.clips import encoded_clip, random_clip
from tests.fresh_processes import python

RATE = 8000
TIME = np.arange(RATE) / RATE
TONE = (0.5 * np.sin(2 * np.pi * 200 * TIME)).astype(np.float32)


def encoded(samples=TONE, rate=RATE, format="WAV", subtype=None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAV", "ULAW", 3e-2),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 5e-2),
    ],
)
@pytest.mark.parametrize("form", ["bytes", "path", "Path", "file", "dict of bytes", "dict of a path"])
def test_files(tmp_path, format, subtype, tolerance, form):
    content = encoded(format=format, subtype=subtype)
    path = tmp_path / "a [1] #2.wav"
    path.write_bytes(content)
    given = {
        "bytes": content,
        "path": str(path),
        "Path": path,
        "file": io.BytesIO(content),
        "dict of bytes": {"bytes": content, "path": None},
        "dict of a path": {"bytes": None, "path": str(path)},
    }[form]
    samples = read_audio(given, RATE, 1)
    assert samples.dtype == np.float32 and samples.shape == (1, RATE)
    np.testing.assert_allclose(samples[0], TONE, atol=tolerance, rtol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="others have names in Unicode alone")
@pytest.mark.parametrize("name", [b"\xff\xfe.wav", "sieben \u4e03.wav".encode()])
def test_names_of_files(tmp_path, name):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    Path(path).write_bytes(encoded())
    np.testing.assert_allclose(read_audio(path, RATE, 1)[0], TONE, atol=1e-4)


@pytest.mark.parametrize("rate", [4000, 11025, 44100])
@pytest.mark.parametrize("form", ["file", "array"])
def test_other_rates(rate, form):
    time = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 200 * time)).astype(np.float32)
    given = encoded(tone, rate, subtype="FLOAT") if form == "file" else {"array": tone, "sampling_rate": rate}
    samples = read_audio(given, RATE, 1)
    assert abs(samples.shape[1] - RATE) <= 1
    middle = slice(1000, 7000)  # apart from the filter's ends
    np.testing.assert_allclose(samples[0, middle], TONE[middle], atol=2e-3)


def test_a_long_file_is_read_in_blocks():
    """Several blocks, resampled: as in one go."""
    noise = np.random.default_rng(0).normal(size=700_000).astype(np.float32) / 10
    in_blocks = read_audio(encoded(noise, 16000, subtype="FLOAT"), RATE, 1)
    at_once = read_audio({"array": noise, "sampling_rate": 16000}, RATE, 1)
    assert abs(in_blocks.shape[1] - at_once.shape[1]) <= 1
    length = min(in_blocks.shape[1], at_once.shape[1])
    np.testing.assert_allclose(in_blocks[:, :length], at_once[:, :length], atol=1e-4)


def test_a_file_without_content_is_empty_and_not_absent():
    for given in (b"", {"bytes": b"", "path": "absent.wav"}, {"bytes": b"", "path": None}):
        with pytest.raises(ValueError, match="is not a recording: it is empty"):
            read_audio(given, RATE, 1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float16", "float32", "float64"])
def test_arrays_of_every_dtype(dtype):
    levels = np.array([-1.0, -0.5, 0.0, 0.5])
    scale = {"uint8": 2**7, "int16": 2**15, "int32": 2**31}.get(dtype, 1)
    array = (levels * scale + (128 if dtype == "uint8" else 0)).astype(dtype)
    for given in (array, torch.from_numpy(array), array.tolist() if scale == 1 else array):
        np.testing.assert_array_equal(read_audio(given, RATE, 1), levels.astype(np.float32)[None])
    if scale > 1:  # sensors keep their units
        np.testing.assert_array_equal(read_audio(array, RATE, 1, do_rescale=False)[0], array.astype(np.float32))


def test_channels():
    left, right = TONE, np.zeros_like(TONE)
    stereo = np.stack([left, right])
    content = encoded(stereo.T, subtype="FLOAT")
    for given in (stereo, content):
        np.testing.assert_allclose(read_audio(given, RATE, 1)[0], TONE / 2, atol=1e-7)
        np.testing.assert_array_equal(read_audio(given, RATE, 2), stereo)
    np.testing.assert_array_equal(read_audio(TONE, RATE, 2), np.stack([TONE, TONE]))
    with pytest.raises(ValueError, match=r"has 2 channels: expected 3 or 1"):
        read_audio(stereo, RATE, 3)
    mono, mp3 = encoded(TONE, subtype="FLOAT"), encoded(format="MP3")
    for given in (TONE, mono, mp3):  # neither 26 numbers of MFCC nor three sensors
        with pytest.raises(ValueError, match=r"has 1 channels: expected 26\. Arrays"):
            read_audio(given, RATE, 26)
        with pytest.raises(ValueError, match=r"has 1 channels: expected 3\. Arrays"):
            read_audio(given, RATE, 3, do_rescale=False)


def test_only_what_is_wanted():
    for given in (TONE, encoded(subtype="FLOAT")):
        np.testing.assert_array_equal(read_audio(given, RATE, 1, seconds=0.25)[0], TONE[:2000])
        assert read_audio(given, RATE, 1, seconds=1e-9).shape == (1, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(0), r"has no samples"),
        (np.array([0, np.nan, 0]), r"holds nan at sample 1"),
        (np.array([0, 1e300]), r"holds inf at sample 1"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.zeros((100, 2)), r"shape \(100, 2\): expected \(samples,\) or \(channels, samples\)"),
        (np.array(["a"]), r"dtype <U1"),
        (np.array([True]), r"dtype bool"),
        (b"no sound", r"bytes of a recording is not a recording that can be read"),
        ("/nowhere/a.wav", r"/nowhere/a.wav is not a recording: there is no such file"),
        ({"array": TONE}, r"lacks `sampling_rate`"),
        ({"bytes": None, "path": None}, r"expected `array` and `sampling_rate`, or `bytes`, or `path`"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        read_audio(given, RATE, 1)


def test_an_empty_file():
    with pytest.raises(ValueError, match="has no samples"):
        read_audio(encoded(np.zeros(0, np.float32)), RATE, 1)


@pytest.mark.slow
def test_missing_libraries_are_named(tmp_path):
    program = """
import sys
sys.modules["soundfile"] = sys.modules["soxr"] = None
import numpy as np
from modeling_perceiver_study.audio_reading import read_audio
assert read_audio(np.ones(3), 8000, 1).shape == (1, 3)
for given in (b"RIFF", {"array": np.ones(3), "sampling_rate": 16000}):
    try:
        read_audio(given, 8000, 1)
    except ImportError as error:
        assert "pip install" in str(error)
    else:
        raise AssertionError("nothing was raised")
"""
    done = python("-c", program, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("make", [lambda array: array.tolist(), lambda array: torch.from_numpy(array).long()])
def test_whole_numbers_of_an_unknown_range(make):
    """16-bit samples as a list are 64-bit numbers, of which they would be silence."""
    array = np.array([-(2**15), 0, 2**14], dtype=np.int16)
    with pytest.raises(ValueError, match=r"dtype int64, as lists of whole numbers have.* Give int16"):
        read_audio(make(array), RATE, 1)
    np.testing.assert_array_equal(read_audio(make(array), RATE, 1, do_rescale=False)[0], array.astype(np.float32))


SERIES = np.array([[1.5, -2.0, 3.0], [40.0, 5.0, 6.0]])


@pytest.mark.parametrize("form", ["path", "Path", "dict of a path", "bytes"])
def test_saved_arrays(tmp_path, form):
    path = tmp_path / "series.npy"
    np.save(path, SERIES)
    given = {"path": str(path), "Path": path, "dict of a path": {"path": str(path)}, "bytes": path.read_bytes()}[form]
    np.testing.assert_array_equal(read_audio(given, RATE, 2), SERIES)
    np.testing.assert_array_equal(read_audio(given, RATE, 1)[0], SERIES.mean(axis=0))
    with path.open("rb") as file:
        np.testing.assert_array_equal(read_audio(file, RATE, 2), SERIES)
    np.testing.assert_array_equal(read_audio(given, RATE, 2, seconds=2 / RATE), SERIES[:, :2])


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("start", ["", "x,y", "\ufeffx,y"])
def test_tables(tmp_path, start, ends):
    text = ends.join([start, "1.5,40", "-2,5", "3,6"])
    (tmp_path / "series.CSV").write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(read_audio(tmp_path / "series.CSV", RATE, 2), SERIES)
    in_memory = {"bytes": text.replace("1.5", '"1.5"').encode(), "path": "series.csv"}
    np.testing.assert_array_equal(read_audio(in_memory, RATE, 2), SERIES)


def test_a_text_that_is_no_path():
    with pytest.raises(ValueError, match="not a recording"):
        read_audio("x" * 5000, RATE, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("series.csv", b"1,2\n3,4\n", "it has 2 columns, expected 1"),
        ("series.csv", b",x\n0,5\n", "a column has no name"),
        ("series.csv", b"1,2\n3\n", "series.csv is not an array or a table of numbers"),
        ("series.csv", b"1,2\n3,high\n", "series.csv is not an array or a table of numbers"),
        ("series.csv", b"0,1,2\n0.5,1.5,2.5\n", "its first line, 0, 1, 2 and so on, are names of columns"),
        ("series.csv", b"0,1,2\n3,4,5\n", "it has 3 columns, expected 1"),
        ("series.csv", b"", "no samples"),
        ("series.csv", b"x,y\n", "no samples"),
        ("series.csv", b"1\nnan\n", "holds nan at sample 1"),
        ("series.npy", b"\x93NUMPY\x01\x00", "series.npy is not an array or a table"),
        ("series.npy", b"", "series.npy is not a recording that can be read"),
        ("series.csv", b"\xff\xfe\x00", "series.csv is not an array or a table"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_audio(tmp_path / name, RATE, 1)


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "series.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not an array or a table of numbers"):
        read_audio(tmp_path / "series.npy", RATE, 1)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_of_other_kinds_are_files(kind):
    content = encoded()
    np.testing.assert_array_equal(read_audio(kind(content), RATE, 1), read_audio(content, RATE, 1))


@pytest.mark.parametrize("library", ["PyAV", "soundfile"])
@pytest.mark.parametrize("share", [1, 4])
def test_mp3_that_is_cut_off_has_no_invented_samples(monkeypatch, library, share):
    """Its beginning says how long it was: soundfile believes that, and gives whatever memory held for the rest."""
    if library == "soundfile":
        monkeypatch.setattr(audio_reading, "open_video", _not_installed)
    long = np.tile(TONE, 20)
    content = encoded(long, format="MP3")
    samples = read_audio(content[: len(content) // share], RATE, 1)[0]
    assert len(samples) == pytest.approx(len(long) / share, rel=0.15)  # the bit rate varies
    assert np.abs(samples).max() < 0.6


def _not_installed(source):
    raise ImportError


def test_arrays_in_files_have_the_rate_that_is_given(tmp_path):
    np.save(tmp_path / "tone.npy", TONE)
    content = (tmp_path / "tone.npy").read_bytes()
    expected = read_audio({"array": TONE, "sampling_rate": 2 * RATE}, RATE, 1)
    for source in (tmp_path / "tone.npy", content, {"bytes": content}, {"bytes": content, "sampling_rate": 2 * RATE}):
        np.testing.assert_array_equal(read_audio(source, RATE, 1, array_rate=2 * RATE), expected)
    own = {"bytes": content, "sampling_rate": 2 * RATE}
    np.testing.assert_array_equal(read_audio(own, RATE, 1), expected)
    np.testing.assert_array_equal(read_audio(encoded(), RATE, 1, array_rate=2 * RATE), read_audio(encoded(), RATE, 1))


@pytest.mark.parametrize("rate", [RATE, 3 * RATE])
@pytest.mark.parametrize("is_file", [False, True])
def test_the_place_of_nan_is_that_in_what_was_given(rate, is_file):
    broken = np.tile(TONE, 3)
    broken[len(TONE) + 7] = np.nan
    source = {"array": broken, "sampling_rate": rate}
    if is_file:
        source = encoded(broken, rate, subtype="FLOAT")
    with pytest.raises(ValueError, match=f"holds nan at sample {len(TONE) + 7}:"):
        read_audio(source, RATE, 1)


def test_sensors_are_not_averaged():
    with pytest.raises(ValueError, match="A recording has 6 channels: expected 1"):
        read_audio(np.random.randn(6, 50), RATE, 1, do_rescale=False)
    assert read_audio(np.random.randn(6, 50), RATE, 1).shape == (1, 50)


def test_of_a_damaged_container_the_rest_is_read():
    tone = np.tile(TONE, 20)
    content = bytearray(encoded_clip(random_clip(4), sound=tone, sound_rate=RATE, codec="aac"))
    whole = read_audio(bytes(content), RATE, 1)
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(100)
    found = read_audio(bytes(content), RATE, 1)
    assert 0.7 * whole.shape[1] < found.shape[1] <= whole.shape[1]


@pytest.mark.parametrize("format", ["FLAC", "OGG", "WAV"])
def test_files_that_are_cut_off(format):
    content = encoded(np.tile(TONE, 20), format=format)
    try:
        samples = read_audio(content[: len(content) // 2], RATE, 1)[0]
    except ValueError as error:
        assert "bytes of a recording is not a recording that can be read" in str(error)
    else:
        assert np.abs(samples).max() < 0.6 and len(samples) < 20 * len(TONE)


@pytest.mark.parametrize(
    ("subtype", "unit", "middle"), [("PCM_16", 2**15, 0), ("PCM_24", 2**23, 0), ("PCM_U8", 128, 128)]
)
def test_files_of_sensors_keep_their_units(subtype, unit, middle):
    samples = np.array([0.5, -0.25, 0.0])
    found = read_audio(encoded(samples, subtype=subtype), RATE, 1, do_rescale=False)[0]
    np.testing.assert_array_equal(found, samples * unit + middle)


@pytest.mark.parametrize(
    ("codec", "unit", "middle"),
    [("pcm_s16le", 2**15, 0), ("pcm_s24le", 2**23, 0), ("pcm_u8", 128, 128), ("pcm_f32le", 1, 0)],
)
def test_containers_of_sensors_keep_their_units(codec, unit, middle):
    """A file that soundfile cannot read."""
    samples, content = np.tile(np.array([0.5, -0.25, 0.0], np.float32), 400), io.BytesIO()
    with av.open(content, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for part in av.AudioResampler(format=stream.format.name, layout="mono", rate=RATE).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    for do_rescale, expected in ((False, samples * unit + middle), (True, samples)):
        np.testing.assert_array_equal(read_audio(content.getvalue(), RATE, 1, do_rescale)[0], expected)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("do_rescale", [True, False])
def test_a_few_samples_of_another_rate(count, do_rescale):
    samples = np.full(count, 0.25, np.float32)
    for given in ({"array": samples, "sampling_rate": 44100}, encoded(samples, 44100, subtype="FLOAT")):
        np.testing.assert_allclose(read_audio(given, RATE, 1, do_rescale)[:, 0], [0.25], atol=1e-6)


def test_series_of_another_rate_keep_their_ends():
    """They neither come from 0 nor go there."""
    given = {"array": np.stack([np.full(100, 20.0), 20 + 0.1 * np.arange(100)]), "sampling_rate": 2}
    found = read_audio(given, 1, 2, do_rescale=False)
    np.testing.assert_allclose(found, [np.full(50, 20.0), 20 + 0.2 * np.arange(50)], rtol=1e-6)


@pytest.mark.parametrize("shape", [(24, 1), (50, 2), (144, 62)])
def test_arrays_with_more_channels_than_moments(shape):
    """They are right for a model of so many channels, and otherwise the wrong way round."""
    assert read_audio(np.ones(shape), RATE, shape[0]).shape == shape
    with pytest.raises(ValueError, match=rf"shape \({shape[0]}, {shape[1]}\): expected \(samples,\) or \(channels"):
        read_audio(np.ones(shape), RATE, 1)


def test_an_infinite_rate():
    with pytest.raises(ValueError, match="sampling_rate=inf: expected a finite number above 0"):
        read_audio({"array": TONE, "sampling_rate": float("inf")}, RATE, 1)


def test_a_file_that_cannot_be_wound_back():
    class Pipe:
        def read(self):
            return encoded()

    np.testing.assert_array_equal(read_audio(Pipe(), RATE, 1), read_audio(encoded(), RATE, 1))


@pytest.mark.parametrize("kind", ["wav", "npy", "csv"])
def test_an_opened_file_is_read_from_its_start(tmp_path, kind):
    counts = np.arange(-50, 50, dtype=np.int16)
    path = tmp_path / f"sensor.{kind}"
    if kind == "wav":
        path.write_bytes(encoded(counts, subtype="PCM_16"))
    elif kind == "npy":
        np.save(path, counts)
    else:
        path.write_text("\n".join(map(str, counts)))
    with open(path, "rb") as file:
        for _ in range(2):
            np.testing.assert_array_equal(read_audio(file, RATE, 1, do_rescale=False)[0], counts)


def test_seconds_are_those_of_the_recording():
    """Of arrays of another rate, of containers as a whole, and without what rounding adds to a number of samples."""
    given = {"array": np.ones(100, np.float32), "sampling_rate": 2 * RATE}
    assert read_audio(given, RATE, 1, seconds=50 / (2 * RATE)).shape == (1, 25)
    clip = encoded_clip(random_clip(20, 16, 16), sound=np.tile(TONE, 2), sound_rate=RATE, codec="flac")
    assert read_audio(clip, RATE, 1, seconds=1.5).shape == (1, 3 * RATE // 2)  # of several blocks
    assert read_audio(np.ones(3000), 16000, 1, seconds=2007 / 16000).shape == (1, 2007)


def test_raw_is_another_name_of_an_array():
    np.testing.assert_array_equal(read_audio({"raw": TONE, "sampling_rate": RATE}, RATE, 1)[0], TONE)


def test_two_columns_are_not_numbered(tmp_path):
    """0 and 1 are as likely to be measured as to be names."""
    (tmp_path / "two.csv").write_text("0,1\n0.5,1.5")
    np.testing.assert_array_equal(read_audio(tmp_path / "two.csv", RATE, 2, do_rescale=False), [[0, 0.5], [1, 1.5]])


@pytest.mark.parametrize("seconds", [None, 30])
@pytest.mark.parametrize("form", ["file", "array", "dict", "container"])
def test_series_without_a_rate_are_taken_as_they_are(tmp_path, form, seconds):
    """Of which `seconds` are samples."""
    samples = np.linspace(-1, 1, 90, dtype=np.float32)
    given = {
        "file": encoded(samples, 50, subtype="FLOAT"),
        "array": samples,
        "dict": {"array": samples, "sampling_rate": 50},
        "container": encoded(samples, 44100, format="MP3"),
    }[form]
    read = read_audio(given, None, 1, do_rescale=False, seconds=seconds)
    if form == "container":
        assert read.shape[1] == (seconds or read.shape[1])
    else:
        np.testing.assert_array_equal(read[0], samples[:seconds])
    extract = PerceiverStudyFeatureExtractor(
        sampling_rate=None, do_rescale=False, normalize=None, max_length=seconds, stretch_to=None
    )
    np.testing.assert_array_equal(extract(given)["input_values"], read)


@pytest.mark.parametrize("settings", [{}, {"do_rescale": False, "feature_type": "log-mel"}])
def test_sound_has_a_rate(settings):
    with pytest.raises(ValueError, match=r"sampling_rate=None .* None of waveforms with do_rescale=False"):
        PerceiverStudyFeatureExtractor(sampling_rate=None, **settings)
