"""What produced a result: command, code, library versions and hardware."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator

_LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "numpy")


def describe_run(accelerator: Accelerator, launcher: tuple[str, ...] = ("accelerate", "launch")) -> dict:
    """Entries for `metrics.json`; `git_commit` is None outside of a repository, and ends in `-dirty` after edits.

    Args:
        launcher: what stands before the script on the command line.
    """
    return {"command": shlex.join([*launcher, *sys.argv])} | describe_surroundings(accelerator)


def describe_surroundings(accelerator: Accelerator) -> dict:
    """As `describe_run`, without the command, which may name folders of this machine."""
    return {
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        "hardware": describe_hardware(accelerator),
    }


def describe_hardware(accelerator: Accelerator) -> str:
    """Such as `1 x NVIDIA H100` or `AMD EPYC 7763, 2 threads`."""
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} x {torch.cuda.get_device_name(accelerator.device)}"
    threads = accelerator.num_processes * torch.get_num_threads()
    where = _cpu_name() if accelerator.device.type == "cpu" else f"{accelerator.device.type} on {_cpu_name()}"
    return f"{where}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git_commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def facts_of(runs: Sequence[dict], fact: str) -> str:
    """What all runs have in common, or else everything that one of them has, each once."""
    return " or ".join(dict.fromkeys(str(run[fact]) for run in runs))
