"""Processes of the tests begin with what takes long to import."""

import sys
from pathlib import Path

from tests.processes import start


def write_whether_imported(path: Path):
    path.write_text(str("train" in sys.modules))


def test_imports_are_done_before_a_process_starts(tmp_path):
    """The server from which processes are forked says nothing of modules that it does not find."""
    process = start(write_whether_imported, tmp_path / "found")
    process.join(timeout=240)
    assert (tmp_path / "found").read_text() == "True"
