"""Processes of their own that start in milliseconds: forked from one that has imported all there is to import."""

import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from typing import TextIO

import pytest
import torch
from PIL import Image

from lab.runs import Runs
from lab.training import run_folder
from lab.training.curves import read_metrics
from tests.paths import SCRIPTS
from tests.small_data import TINY_RUN

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["train", "lab.augment.trivial_augment", "tests.small_data"])


def start(function, *arguments) -> multiprocessing.Process:
    # Python 3.11 does not tell the server that processes are forked from where to import from.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    process = _CONTEXT.Process(target=_call, args=(function, arguments))
    process.start()
    return process


def draw_a_dot(metrics: Path, picture: Path, **_):
    """In place of `draw_curves`, which takes a third of the time of a tiny run, and needs an epoch that has ended."""
    assert read_metrics(metrics)[1]
    Image.new("L", (1, 1)).save(picture)


def train_tiny(*arguments: str):
    """`train.py` with the tiny run of the tests, in this process."""
    import train

    train.main([*TINY_RUN, *arguments])


def train_quickly(
    runs: Runs, arguments: list[str], stdout: TextIO | int | None = None, **_
) -> subprocess.CompletedProcess:
    """As `Runs.train`, without the seconds that imports take.

    Args:
        stdout: a file for all that is printed; anything else returns it as `stdout` and `stderr` alike.
    """
    command = [str(SCRIPTS / "train.py"), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(getattr(stdout, "name", f"{folder}/printed"))
        process = start(_as_script, str(printed), command)
        process.join(timeout=240)
        text = printed.read_text(encoding="utf-8")
    return subprocess.CompletedProcess(command, process.exitcode, text, text)


def _as_script(printed: str, command: list[str]):
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for own in (1, 2):
        os.dup2(file, own)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def run_together(count: int, function, *arguments, machines: bool = False) -> list[int]:
    """Exit codes of `count` processes that form one group, as `accelerate launch` would start them, on CPUs.

    Args:
        machines: each is started as the only process of a machine of its own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start(_as_rank, rank, count, port, machines, function, arguments) for rank in range(count)]
    for process in started:
        process.join(timeout=240)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in started]


def _call(function, arguments):
    gc.freeze()  # the collector runs at the end of each command, and need not look at what was imported
    torch.set_num_threads(1)
    run_folder.draw_curves = draw_a_dot
    function(*arguments)


def _as_rank(rank, count, port, machines, function, arguments):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": "0" if machines else str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": "1" if machines else str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    function(*arguments)
