"""Runs of scripts/train.py that another command starts: several at a time, and none outlives it."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_TRAIN = Path(__file__).parents[1] / "train.py"
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no second


class Runs(ThreadPoolExecutor):
    """Threads that wait for one run each, as `with Runs(2) as runs: runs.submit(runs.train, arguments)`.

    Where the command is interrupted or ended by a signal, runs are ended too, and waiting ones do not begin. After an
    error those that have begun and those that wait are still done.
    """

    def __init__(self, at_a_time: int):
        super().__init__(at_a_time)
        self.started: list[subprocess.Popen] = []
        self.stopped = False

    def train(self, arguments: Sequence[str], **streams) -> subprocess.CompletedProcess:
        """Run scripts/train.py with these arguments to its end.

        Args:
            streams: as `subprocess.run` takes them, such as `stdout`.
        """
        command = [sys.executable, str(_TRAIN), *arguments]
        with subprocess.Popen(command, **streams) as run:
            self.started.append(run)
            if self.stopped:  # in between
                run.terminate()
            printed = run.communicate()
        return subprocess.CompletedProcess(command, run.returncode, *printed)

    def __enter__(self) -> "Runs":
        # As Ctrl-C does, which all processes of a terminal hear; what is ignored stays so, as under `nohup`.
        self.before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, handler in self.before.items():
            if handler == signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, *_):
        try:
            if kind is None or issubclass(kind, Exception):
                self.shutdown()
        finally:
            self._stop()
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def _stop(self):
        self.stopped = True
        self.shutdown(wait=False, cancel_futures=True)
        for run in [*self.started]:
            run.terminate()  # which does nothing to those that have ended
        self.shutdown()
