"""Commands say how torch's threads wait before torch is loaded, which reads it once."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.paths import SCRIPTS

pytestmark = pytest.mark.slow

COMMANDS = ["train", "score", "predict", "study", "publish", "attention_maps", "app"]

# Writes down what is set when torch is first looked for or imported, in a process that a command has to itself. That
# is the end: torch reads it once.
WATCH = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            print("policy", os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
sys.argv = [sys.argv[1], "--help"]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def policies(command, **environment):
    if command == "app" and importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed here (docs/hub.md)")
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    arguments = [sys.executable, "-c", WATCH, str(SCRIPTS / f"{command}.py")]
    done = subprocess.run(arguments, env=clean | environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return {line for line in done.stdout.splitlines() if line.startswith("policy")}


@pytest.mark.parametrize("command", COMMANDS)
def test_threads_sleep(command):
    assert policies(command) == {"policy PASSIVE"}


def test_the_users_own_setting_wins():
    assert policies("predict", OMP_WAIT_POLICY="ACTIVE") == {"policy ACTIVE"}


def test_a_process_of_a_study_inherits_it():
    """A server forks them, which is started by the command after it has set the environment."""
    code = (
        "import os, lab.waiting, multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    with context.Pool(1) as pool: print(pool.apply(os.getenv, ('OMP_WAIT_POLICY',)))\n"
    )
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = clean | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "PASSIVE", done.stderr
