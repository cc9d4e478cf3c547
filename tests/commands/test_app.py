"""The page of scripts/app.py, run as a Space on the Hub would run it, in a real browser."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.recipe import load_recipe
from lab.tasks import build_task
from tests.checkpoints import save_checkpoint
from tests.small_data import CLASSES, coloured_images
from tests.space import copy_space
from tests.task_kinds import KINDS

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if BROWSER else ["a Chromium browser"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)} (docs/hub.md)"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    checkpoint = folder / "checkpoint"
    save_checkpoint(checkpoint, "model.num_blocks=2", "model.num_cross_attends=2")
    (checkpoint / "examples").mkdir()
    coloured_images(1, seed=1)[0][0].save(checkpoint / "examples" / "0.png")
    with running(checkpoint, folder) as url:
        yield url


@pytest.fixture(scope="module")
def url_of_sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    task = build_task(load_recipe(None, [*KINDS["spectrograms"].recipe, "data.name=tones"]))
    task.new_model().save_pretrained(folder / "checkpoint")
    task.processor.save_pretrained(folder / "checkpoint")
    with running(folder / "checkpoint", folder) as url:
        yield url


@contextmanager
def running(checkpoint: Path, folder: Path):
    """The page of a checkpoint while it runs; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    copy_space(folder)
    space = {"CHECKPOINT": str(checkpoint), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **space}
    environment.pop("PYTHONPATH", None)
    with (folder / "log").open("w") as log:
        app = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait_for(url, app, folder / "log")
            yield url
        finally:
            app.terminate()
            app.wait()


@pytest.fixture
def browser_page(url):
    with browsed(url) as page:
        yield page


@contextmanager
def browsed(url: str):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(60_000)
        page.goto(url)
        yield page
        browser.close()


def test_an_image_gets_its_classes_and_its_map(browser_page, tmp_path):
    page = browser_page
    coloured_images(1, seed=2, size=24)[0][0].save(tmp_path / "image.png")
    page.set_input_files("#image input[type=file]", tmp_path / "image.png")
    page.wait_for_selector("#labels >> text=%")
    text = page.inner_text("#labels")
    assert all(name in text for name in CLASSES)
    page.wait_for_selector("#seconds >> text=ms")
    shown = page.wait_for_selector("#map img")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 384
    first = shown.get_attribute("src")
    page.click("#latent input")
    page.click("[role=option] >> text=3")
    page.wait_for_function("first => document.querySelector('#map img')?.src != first", arg=first)


def test_a_recording_gets_its_classes_and_its_map(url_of_sound, tmp_path):
    with browsed(url_of_sound) as page:
        page.set_input_files("#recording input[type=file]", KINDS["spectrograms"].write_file(tmp_path))
        page.wait_for_selector("#labels >> text=%")
        assert page.inner_text("#labels").count("%") == 3
        assert (
            page.wait_for_selector("#map img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 99
        )


def test_a_file_that_is_no_recording_gets_a_friendly_message(url_of_sound, tmp_path):
    (tmp_path / "sound.wav").write_bytes(b"not a recording")
    with browsed(url_of_sound) as page:
        page.set_input_files("#recording input[type=file]", tmp_path / "sound.wav")
        page.wait_for_selector("text=That file is not a readable recording")


def test_an_example(browser_page):
    page = browser_page
    page.click(".gallery-item, .gallery button, button.gallery-item")
    page.wait_for_selector("#map img")
    assert "%" in page.inner_text("#labels")


@pytest.mark.parametrize("name", ["text.png", "half.png"])
def test_a_file_that_is_no_image_gets_a_friendly_message(browser_page, tmp_path, name):
    path = tmp_path / name
    coloured_images(1, seed=2, size=64)[0][0].save(path)
    path.write_bytes(b"not an image" if name == "text.png" else path.read_bytes()[:500])
    browser_page.set_input_files("#image input[type=file]", path)
    browser_page.wait_for_selector("text=That file is not a readable image")


def _wait_for(url: str, app: subprocess.Popen, log: Path):
    for _ in range(600):
        assert app.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text())
