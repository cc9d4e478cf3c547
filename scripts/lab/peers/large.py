"""Time and memory of what the processors make of very large inputs."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from lab.peers.memory import in_own_process, peak_of
from modeling_perceiver_study import (
    PerceiverStudyFeatureExtractor,
    PerceiverStudyPointCloudProcessor,
    PerceiverStudyVideoProcessor,
)

POINTS, SOUND, VIDEO = "points", "sound", "video"
_NUM_POINTS = 1024
_RATE = 44_100
_FRAMES_A_SECOND, _EDGE = 30, 240


def measure_large(points: int, hours: float, minutes: float, threads: int) -> dict[str, dict]:
    """Seconds, and megabytes beyond the input, of the processors of clouds, recordings and videos.

    Args:
        points: of the cloud, with three coordinates each in float32.
        hours: of a WAV file, stereo, 16 bits, 44.1 kHz, of which all becomes samples at 16 kHz.
        minutes: of a video with 30 frames of 240 × 240 a second, of which 16 become what the model takes.
    """
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {SOUND: Path(folder) / "sound.wav", VIDEO: Path(folder) / "video.mp4"}
        in_own_process(_write_sound, files[SOUND], hours)
        in_own_process(_write_video, files[VIDEO], minutes)
        works = {
            f"{points:,} points, {_NUM_POINTS:,} taken by checksum": (POINTS, points, {"num_points": _NUM_POINTS}),
            f"{points:,} points, {_NUM_POINTS:,} taken by distance": (
                POINTS,
                points,
                {"num_points": _NUM_POINTS, "sampling": "farthest"},
            ),
            f"{points:,} points, all kept": (POINTS, points, {}),
            f"a WAV file of {hours:g} hours, {_megabytes(files[SOUND]):,.0f} MB": (SOUND, files[SOUND], {}),
            f"a video of {minutes:g} minutes, {_megabytes(files[VIDEO]):,.0f} MB, 16 frames": (VIDEO, files[VIDEO], {}),
        }
        for name, (kind, given, settings) in tqdm(works.items(), desc="large inputs"):
            results[name] = in_own_process(_measure, kind, given, settings, threads)
    return results


def large_table(found: dict) -> str:
    """Return a Markdown table of `scripts/benchmark_large.py`."""
    lines = ["| input | seconds | MB beyond the input | MB of the result |", "|---|---:|---:|---:|"]
    for name, one in found["inputs"].items():
        lines.append(f"| {name} | {one['seconds']:.1f} | {one['megabytes']:,.0f} | {one['result_megabytes']:,.2f} |")
    crowded = f" at a load of {found['load_average']:.1f}, so take times roughly" if found["load_average"] > 1.5 else ""
    lines += ["", f"One run each{crowded}; {found['hardware']}; commit {found['git_commit']}."]
    return "\n".join(lines) + "\n"


def _measure(kind: str, given, settings: dict, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    work = _work(kind, given, settings)
    made: dict[str, torch.Tensor] = {}
    begin = time.perf_counter()
    megabytes = peak_of(lambda: made.update(work()), "cpu")
    seconds = time.perf_counter() - begin
    result = sum(values.nbytes for values in made.values()) / 2**20
    return {"seconds": seconds, "megabytes": megabytes, "result_megabytes": result}


def _work(kind: str, given, settings: dict) -> Callable[[], dict]:
    if kind == POINTS:
        cloud = np.random.default_rng(0).standard_normal((given, 3), dtype=np.float32)
        processor = PerceiverStudyPointCloudProcessor(**settings)
        processor(cloud[:8])  # what is loaded only once
        return lambda: processor(cloud)
    if kind == SOUND:
        return lambda: PerceiverStudyFeatureExtractor(**settings)(str(given))
    return lambda: PerceiverStudyVideoProcessor(num_frames=16, **settings)(str(given))


def _write_sound(path: Path, hours: float):
    import soundfile

    with soundfile.SoundFile(path, "w", samplerate=_RATE, channels=2, subtype="PCM_16") as file:
        for block in _noise(round(hours * 3600 * _RATE), _RATE * 60):
            file.write(block)


def _noise(count: int, most: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    while count:
        size = min(count, most)
        yield rng.integers(-(2**12), 2**12, (size, 2), dtype=np.int16)
        count -= size


def _write_video(path: Path, minutes: float):
    import av

    rows = np.arange(_EDGE, dtype=np.int64)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=_FRAMES_A_SECOND)
        stream.width, stream.height, stream.pix_fmt = _EDGE, _EDGE, "yuv420p"
        for number in range(round(minutes * 60 * _FRAMES_A_SECOND)):
            waves = ((rows[:, None] + rows + number) % 256).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.stack([waves] * 3, axis=-1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
