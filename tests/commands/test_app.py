"""The page of scripts/app.py, run as a Space on the Hub would run it, in a real browser."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
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
def served(request, tmp_path_factory):
    """The address of the page of a tiny model of a kind, once for all tests of it, and the kind by name."""
    folder = tmp_path_factory.mktemp("app")
    task = build_task(load_recipe(None, [*KINDS[request.param].recipe, "data.name=tiny"]))
    task.new_model().save_pretrained(folder / "checkpoint")
    task.processor.save_pretrained(folder / "checkpoint")
    with running(folder / "checkpoint", folder) as url:
        yield url, request.param


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page_of_kind(browser, served):
    url, kind = served
    return browsed(browser, url), kind


@pytest.fixture
def browser_page(browser, url):
    return browsed(browser, url)


def browsed(browser, url: str):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(url)
    return page


# What a visitor gives for a sample of each kind.
GIVEN = {
    "spectrograms": "recording",
    "points": "cloud",
    "video": "clip",
    "multimodal": "sample",
    "text": "text",
    "masked-lm": "text",
    "captions": "sample",
}


def give(page, name: str, what: Path | str):
    """Choose a file for, or type into, what the page calls `name`, in place of what stands there."""
    page.goto(page.url)
    if isinstance(what, str):
        page.fill(f"#{name} textarea", what)
    else:
        page.set_input_files(f"#{name} input[type=file]", what)


def width_of_map(page) -> int:
    return page.wait_for_selector("#map img").evaluate("image => image.decode().then(() => image.naturalWidth)")


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


def test_an_image_gets_its_classes_and_its_map(browser_page, tmp_path):
    page = browser_page
    coloured_images(1, seed=2, size=24)[0][0].save(tmp_path / "image.png")
    page.set_input_files("#image input[type=file]", tmp_path / "image.png")
    page.wait_for_selector("#labels >> text=%")
    text = page.inner_text("#labels")
    assert all(name in text for name in CLASSES)
    page.wait_for_selector("#told >> text=ms")
    shown = page.wait_for_selector("#map img")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 384
    first = shown.get_attribute("src")
    page.click("#latent input")
    page.click("[role=option] >> text=3")
    page.wait_for_function("first => document.querySelector('#map img')?.src != first", arg=first)


@pytest.mark.parametrize("served", GIVEN, indirect=True)
def test_a_sample_of_each_kind_gets_its_answer_and_its_map(page_of_kind, tmp_path):
    page, kind = page_of_kind
    path = KINDS[kind].write_file(tmp_path)
    give(page, GIVEN[kind], path.read_text(encoding="utf-8") if GIVEN[kind] == "text" else path)
    page.wait_for_selector("#labels >> text=%")
    page.wait_for_selector("#told >> text=ms")
    text = page.inner_text("#labels")
    if KINDS[kind].classifies:
        assert text.count("%") == 3
    else:  # five bytes for each of two masks, and the text with the likeliest of them
        assert text.count("byte 1:") >= 5 and text.count("byte 2:") >= 5
        assert "bad h" in page.inner_text("#told") and "[MASK]" not in page.inner_text("#told")
    assert width_of_map(page) > 99


@pytest.mark.parametrize("served", GIVEN, indirect=True)
def test_what_is_no_sample_gets_a_clear_message(page_of_kind, tmp_path):
    page, kind = page_of_kind
    if GIVEN[kind] == "text":
        give(page, "text", "no byte is masked" if kind == "masked-lm" else " ")
        page.wait_for_selector("#told >> text=/holds no \\[MASK\\]|ms/")
        return
    path = (tmp_path / "broken").with_suffix(KINDS[kind].write_file(tmp_path).suffix)
    path.write_bytes(b"not what it says it is")
    give(page, GIVEN[kind], path)
    page.wait_for_selector("#told >> text=/^broken.* is not a readable/")
    assert page.query_selector("#map img") is None


BAD_ARRAYS = {
    "points": ("cloud", {"empty": np.zeros((0, 4)), "columns": np.zeros((5, 3)), "nan": np.full((5, 4), np.nan)}),
    "multimodal": (
        "sample",
        {
            "video": np.zeros((0, 4, 4, 3)),
            "sound": np.zeros((3, 0)),
            "other": np.zeros(3),
            "sound of the server": np.array("/etc/hostname"),
        },
    ),
}


@pytest.mark.parametrize("served", BAD_ARRAYS, indirect=True)
def test_arrays_that_do_not_fit_get_a_clear_message(page_of_kind, tmp_path):
    page, kind = page_of_kind
    name, arrays = BAD_ARRAYS[kind]
    for array_name, array in arrays.items():
        path = tmp_path / f"{array_name}.npy"
        np.save(path, array)
        if name == "sample":
            path = path.with_suffix(".npz")
            np.savez(path, **{array_name.partition(" ")[0]: array})
        give(page, name, path)
        page.wait_for_selector("#told >> text=expected")
        assert str(path.parent) not in page.inner_text("#told") and "/tmp" not in page.inner_text("#told")


@pytest.mark.parametrize("served", ["multimodal"], indirect=True)
def test_one_modality_by_itself_is_enough(page_of_kind, tmp_path):
    page, _ = page_of_kind
    give(page, "video", KINDS["video"].write_file(tmp_path))
    page.wait_for_selector("#labels >> text=%")
    alone = page.inner_text("#labels")
    width_of_map(page)
    page.set_input_files("#sound input[type=file]", KINDS["spectrograms"].write_file(tmp_path))
    page.wait_for_function("alone => document.querySelector('#labels').innerText != alone", arg=alone)


def test_numbers_are_not_shown_as_probabilities(tmp_path):
    import app

    regression = ["model.problem_type=regression", "model.num_labels=2"]
    task = build_task(load_recipe(None, [*KINDS["points"].recipe, "data.name=tiny", *regression]))
    task.new_model().save_pretrained(tmp_path / "checkpoint")
    task.processor.save_pretrained(tmp_path / "checkpoint")
    classifier = app.load_classifier(str(tmp_path / "checkpoint"))
    text, probabilities = app.answer(classifier, (str(KINDS["points"].write_file(tmp_path)),))
    assert probabilities is None and re.match(r"LABEL\\_\d\\: ", text) and "ms" in text


def test_a_program_may_ask_what_a_visitor_asks(url, tmp_path):
    from gradio_client import Client, handle_file

    coloured_images(1, seed=2, size=24)[0][0].save(tmp_path / "image.png")
    client, image = Client(url, verbose=False), handle_file(tmp_path / "image.png")
    told, likeliest = client.predict(image, api_name="/answer")
    assert told.endswith("ms") and likeliest["label"] in CLASSES
    assert Path(client.predict(image, "1", "mean of all", "3", api_name="/map")).stat().st_size > 0


# Gradio leaves sockets open that it could not bind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("port", "message"), [("0", "expected a number from"), ("taken", "the page cannot be served")])
def test_a_port_that_cannot_be_had(tmp_path, port, message):
    import app
    from lab.errors import UserError

    save_checkpoint(tmp_path / "checkpoint")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1]) if port == "taken" else port
        with pytest.raises(UserError, match=message):
            app.main([str(tmp_path / "checkpoint"), "--port", number])


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
    browser_page.wait_for_selector(f"#told >> text={name} is not a readable image")


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
