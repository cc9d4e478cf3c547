"""Processes of the tests begin with what takes long to import, and with nothing else."""

import sys
from pathlib import Path

import pytest

from tests.fresh_processes import python
from tests.processes import start


def write_whether_imported(path: Path):
    path.write_text(str("train" in sys.modules))


def test_imports_are_done_before_a_process_starts(tmp_path):
    """The server from which processes are forked says nothing of modules that it does not find."""
    process = start(write_whether_imported, tmp_path / "found")
    process.join(timeout=240)
    assert (tmp_path / "found").read_text() == "True"


SAYS = """
import os, sys, torch
print(sys.argv[1:], os.getcwd(), os.environ.get("HF_HOME"), sys.path[1:2])
print(sorted({name.partition(".")[0] for name in sys.modules} & {"transformers", "datasets", "lab", "tests"}))
"""


@pytest.mark.parametrize("path", [None, "/nowhere"])
def test_a_fresh_process_has_the_environment_that_is_asked_for(path, tmp_path):
    environment = {"HF_HOME": "/cache"} | ({"PYTHONPATH": path} if path else {})
    done = python("-c", SAYS, "a", folder=tmp_path, environment=environment)
    words, modules = done.stdout.splitlines()
    assert words.startswith(f"['a'] {tmp_path} /cache") and (path == "/nowhere") == words.endswith("['/nowhere']")
    assert modules == "[]" and done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    ("program", "code", "error"),
    [
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("raise SystemExit('too much')", 1, "too much\n"),
        ("raise SystemExit(3)", 3, ""),
        ("import atexit, os; atexit.register(os.write, 2, b'at last')", 0, "at last"),
        ("import warnings; warnings.warn('now')", 1, "UserWarning: now\n"),
    ],
)
def test_a_fresh_process_ends_as_python_does(program, code, error, tmp_path):
    done = python("-W", "error", "-c", program, folder=tmp_path)
    assert done.returncode == code and done.stderr.endswith(error)


def test_a_fresh_process_that_takes_too_long_is_killed(tmp_path):
    done = python("-c", "import time; time.sleep(60)", folder=tmp_path, timeout=0.2)
    assert done.returncode == -9
