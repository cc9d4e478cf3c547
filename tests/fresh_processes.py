"""Python processes that know nothing of this one, without the seconds that libraries take to import."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

from tests import library_server


def python(
    *arguments: str, folder: Path, environment: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess:
    """Run `python` with these arguments, which are a script or `-c` and a program, after `-W error` or nothing.

    The process is forked from one that has imported third-party libraries and nothing of this repository: what it may
    find is the environment's to say. Torch has one thread in it. Use `subprocess` where Python has to start with a
    setting, such as that of a locale, or a library to be loaded with one, and where it matters whether imports warn:
    warnings become errors by `-W error` or `PYTHONWARNINGS=error` when they are done.

    Args:
        folder: in which it runs.
        environment: all of it; None is that of this process, without `PYTHONPATH`.
        timeout: seconds after which it is killed.

    Raises:
        subprocess.TimeoutExpired: it was.
    """
    if environment is None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = _server()
    with tempfile.TemporaryDirectory() as outputs:
        printed = [Path(outputs, name) for name in ("stdout", "stderr")]
        for file in printed:
            file.touch()
        request = {
            "arguments": list(map(str, arguments)),
            "folder": str(folder),
            "environment": environment,
            "outputs": list(map(str, printed)),
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        process = server.stdout.readline()
        assert process, "the server of libraries has ended: see what it printed"
        killer = threading.Timer(timeout, os.kill, (int(process), 9))
        killer.start()
        code = int(server.stdout.readline())
        if killer.finished.is_set():
            raise subprocess.TimeoutExpired(arguments, timeout, *(file.read_bytes() for file in printed))
        killer.cancel()
        return subprocess.CompletedProcess(arguments, code, *(file.read_text("utf-8", "replace") for file in printed))


def run(command: list[str], cwd: Path, env: dict[str, str], **_) -> subprocess.CompletedProcess:
    """In place of `subprocess.run` where code under test starts Python."""
    interpreter, *arguments = command
    assert interpreter == sys.executable
    return python(*arguments, folder=cwd, environment=env)


@cache
def _server() -> subprocess.Popen:
    command = [sys.executable, library_server.__file__]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own)
    atexit.register(server.communicate)  # which closes what it reads, and waits for it
    return server
