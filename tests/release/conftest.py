"""A Hub on this machine, a finished run that was pushed to it, and what is pushed."""

import time
from contextlib import ExitStack

import datasets
import huggingface_hub
import pytest

import train
from lab.release import staging
from tests.hub_server import TOKEN, serve
from tests.small_data import TINY_RUN, fresh_accelerate, make_parquet

RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serve() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + RESOLVE)
        # hf_xet moves large files to servers of its own, which are not part of the Hub's protocol.
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):
    """A finished run of `train.py --push_to_hub org/tiny --private`, on data in a folder of a telling name."""
    folder = tmp_path_factory.mktemp("publish")
    parquet = make_parquet(folder / "secret-place")
    fresh_accelerate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        arguments = [*TINY_RUN, f"data.path={parquet}", "data.name=null", f"output_dir={folder / 'tiny'}"]
        train.main([*arguments, "optimization.epochs=6", "--push_to_hub", "org/tiny", "--private"])
        yield folder / "tiny"


@pytest.fixture(scope="module")
def staged(run):
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(staging, "check_loads", lambda *arguments: None)  # publishing `run` has loaded it already
            folder = stack.enter_context(staging.stage(run, "org/tiny"))
        yield folder


@pytest.fixture
def repo(hub, monkeypatch):
    """The name of an empty repository; the client does not wait between attempts."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    name = f"org/name-{len(hub.repositories)}"
    hub.create(name)
    yield name
    hub.faults.clear()
