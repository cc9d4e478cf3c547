"""Processes of the tests begin with what takes long to import, and with nothing else."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests import fresh_processes
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
import json, os, sys, torch
print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), sys.path, sorted(sys.modules)]))
"""


@pytest.mark.parametrize("path", [None, "/nowhere"])
def test_a_fresh_process_has_the_environment_that_is_asked_for(path, tmp_path, monkeypatch):
    """And nothing of this one's, in which the server of libraries was started."""
    monkeypatch.setenv("PYTHONPATH", "/here")
    monkeypatch.setattr(fresh_processes, "_server", cache(fresh_processes._server.__wrapped__))
    environment = {"HF_HOME": "/cache"} | ({"PYTHONPATH": path} if path else {})
    done = python("-c", SAYS, "a", folder=tmp_path, environment=environment)
    assert done.returncode == 0 and done.stderr == ""
    words, folder, found, paths, modules = json.loads(done.stdout)
    assert (words, folder, found) == (["a"], str(tmp_path), environment)
    assert paths[0] == "" and (paths[1] == "/nowhere") == (path is not None) and "/here" not in paths
    tops = {name.partition(".")[0] for name in modules}
    assert not tops & {"modeling_perceiver_study", "lab", "tests", "transformers", "huggingface_hub", "datasets"}


@pytest.mark.parametrize(
    ("program", "code", "error"),
    [
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("raise SystemExit('too much')", 1, "too much\n"),
        ("raise SystemExit(['much'])", 1, "['much']\n"),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit", 0, ""),
        ("import atexit, os; atexit.register(os.write, 2, b'at last')", 0, "at last"),
        ("import warnings; warnings.warn('now')", 1, "UserWarning: now\n"),
    ],
)
def test_a_fresh_process_ends_as_python_does(program, code, error, tmp_path):
    done = python("-W", "error", "-c", program, folder=tmp_path)
    assert done.returncode == code and done.stderr.endswith(error)


def test_a_fresh_process_that_takes_too_long_is_killed(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        python("-c", "import time; time.sleep(60)", folder=tmp_path, timeout=0.2)
