"""Fetches the common tests of the installed transformers, which its wheels leave out.

    python tests/fetch_transformers_tests.py

They go to `.transformers-tests/VERSION` in the repository root, so that another transformers fetches its own. Where the
environment variable TRANSFORMERS_TESTS names a folder of them (the `tests` of a checkout, say), that one is used.
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARKER = "test_modeling_common.py"


def tests_folder() -> Path:
    """Where the tests of the installed transformers are, or should be."""
    given = os.environ.get("TRANSFORMERS_TESTS")
    return Path(given) if given else ROOT / ".transformers-tests" / importlib.metadata.version("transformers")


def fetch() -> Path:
    """Returns the folder of the tests, downloading it first if it is not there.

    Raises:
        RuntimeError: the source distribution could not be had, or holds no common tests.
    """
    folder = tests_folder()
    if (folder / MARKER).is_file():
        return folder
    if "TRANSFORMERS_TESTS" in os.environ:
        raise RuntimeError(f"TRANSFORMERS_TESTS={folder} holds no {MARKER}.")
    version = importlib.metadata.version("transformers")
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        # --no-binary for transformers alone: with :all: pip would build its build requirements from source as well.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", "transformers", "--dest", scratch, f"transformers=={version}"]
        if subprocess.run(command).returncode:
            raise RuntimeError(
                f"pip could not download the source distribution of transformers {version} (see above). Offline, set "
                "TRANSFORMERS_TESTS to the tests folder of an unpacked one; without it the common tests are skipped."
            )
        (archive,) = Path(scratch).glob("*.tar.gz")
        prefix = f"{archive.name.removesuffix('.tar.gz')}/tests/"
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, [member for member in tar if member.name.startswith(prefix)], filter="data")
        unpacked = Path(scratch) / prefix
        if not (unpacked / MARKER).is_file():
            raise RuntimeError(f"The source distribution of transformers {version} holds no tests/{MARKER}.")
        try:
            unpacked.rename(folder)  # in one step, so that an interrupted fetch leaves nothing half done
        except OSError:
            if not (folder / MARKER).is_file():  # otherwise another process was faster
                raise
    return folder


if __name__ == "__main__":
    try:
        print(f"transformers' common tests: {fetch()}")
    except RuntimeError as error:
        sys.exit(f"error: {error}")
