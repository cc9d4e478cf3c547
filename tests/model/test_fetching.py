"""Files by their URL, whatever they hold."""

import functools
import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from modeling_perceiver_study import fetching
from modeling_perceiver_study.audio_reading import read_audio
from modeling_perceiver_study.image_reading import open_image
from modeling_perceiver_study.point_reading import open_points
from modeling_perceiver_study.video_reading import open_video, read_frames
from tests.file_server import serving

READERS = {
    "picture": open_image,
    "recording": functools.partial(read_audio, sampling_rate=8000, num_channels=1),
    "clip": open_video,
    "cloud": open_points,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(folder / "picture", "PNG")
    frames[0].save(folder / "clip", "GIF", save_all=True, append_images=frames[1:])
    soundfile.write(folder / "recording", np.zeros(800), 8000, format="WAV")
    np.save(folder / "cloud.npy", np.zeros((5, 3)))
    (folder / "cloud.npy").rename(folder / "cloud")
    with serving(folder) as url:
        yield url


@pytest.mark.parametrize("kind", READERS)
def test_a_file_is_fetched_once(server, kind, monkeypatch):
    asked, get = [], fetching.httpx.get
    monkeypatch.setattr(fetching.httpx, "get", lambda url, **settings: asked.append(url) or get(url, **settings))
    read = functools.partial(read_frames, choice=lambda count, rate: range(count)) if kind == "clip" else READERS[kind]
    assert read(f"{server}/{kind}") is not None
    assert asked == [f"{server}/{kind}"]


@pytest.mark.parametrize("kind", READERS)
def test_what_is_not_there_is_said_to_be_so(server, kind):
    """Rather than that the page which says so is no picture."""
    with pytest.raises(OSError, match=f"^{re.escape(server)}/absent cannot be fetched: .*404"):
        READERS[kind](f"{server}/absent")


@pytest.mark.parametrize("kind", READERS)
def test_a_server_that_is_not_there(kind):
    with pytest.raises(OSError, match=r"^http://127.0.0.1:1/file cannot be fetched: "):
        READERS[kind]("http://127.0.0.1:1/file")


@pytest.mark.parametrize("name", ["file.csv", "file.off", "file.png"])
@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "clip"])
def test_a_file_that_is_opened_as_text(tmp_path, kind, name):
    (tmp_path / name).write_text("1\n2\n")
    with (tmp_path / name).open() as file, pytest.raises(ValueError, match=r"A file is opened as text: .*'rb'"):
        READERS[kind](file)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a..b/file"])
@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_url(kind, url):
    with pytest.raises(OSError, match=f"^{re.escape(url)} cannot be fetched: "):
        READERS[kind](url)
