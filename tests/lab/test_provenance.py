import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from accelerate import Accelerator

from lab.provenance import describe_run
from tests.small_data import fresh_accelerate


@pytest.fixture
def accelerator():
    fresh_accelerate()
    return Accelerator(cpu=True)


def test_what_produced_a_result(accelerator, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", "output_dir=two words"])
    run = describe_run(accelerator)
    assert run["command"] == "accelerate launch scripts/train.py 'output_dir=two words'"
    assert run["versions"]["torch"] == version("torch")
    assert re.fullmatch(r".+, \d+ threads?", run["hardware"])


def test_commit(accelerator, monkeypatch):
    described = subprocess.CompletedProcess([], 0, stdout="0123456789abcdef-dirty\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: described)
    assert describe_run(accelerator)["git_commit"] == "0123456789abcdef-dirty"


@pytest.mark.parametrize("error", [FileNotFoundError("no git"), subprocess.CalledProcessError(128, "git")])
def test_without_a_repository(accelerator, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert describe_run(accelerator)["git_commit"] is None
