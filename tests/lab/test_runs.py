import os
import signal
import subprocess
import sys
import time

import pytest

from lab import runs
from lab.runs import Runs
from tests.paths import SCRIPTS

# A run that says which process it is, and takes long; and a command that does three of them, two at a time.
RUN = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
COMMAND = """
import sys
from pathlib import Path
from lab import runs
from lab.errors import run_command

def main():
    runs._TRAIN = Path(sys.argv[1], "run.py")
    with runs.Runs(2) as started:
        for run in [started.submit(started.train, [f"{sys.argv[1]}/{name}.pid"]) for name in "abc"]:
            run.result()

run_command(main)
"""


def running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def process_of(path) -> int:
    """That of a run, when it has written it."""
    until = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return int(path.read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_no_run_outlives_the_command(tmp_path, number):
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, "-c", COMMAND, str(tmp_path)]
    # A group of its own, as nobody else is to hear the signal, which may be ignored where these tests run.
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        begun = [process_of(tmp_path / f"{name}.pid") for name in "ab"]
        assert all(map(running, begun))
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and errors.decode().strip() == "interrupted"
    assert not any(map(running, begun)) and not (tmp_path / "c.pid").exists()


def test_others_are_done_after_an_error(tmp_path, monkeypatch):
    (tmp_path / "run.py").write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).touch()")
    monkeypatch.setattr(runs, "_TRAIN", tmp_path / "run.py")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Runs(1) as started:
        for name in "ab":
            started.submit(started.train, [str(tmp_path / name)])
        raise ZeroDivisionError
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_streams_are_those_of_subprocess(tmp_path, monkeypatch):
    (tmp_path / "run.py").write_text("import sys; print('out'); sys.exit('no')")
    monkeypatch.setattr(runs, "_TRAIN", tmp_path / "run.py")
    with Runs(1) as started:
        done = started.train([], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (1, "out\n", "no\n")
