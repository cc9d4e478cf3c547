"""How much memory a piece of work needs at its peak, in a process of its own."""

import ctypes
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch


def in_own_process(function: Callable, *arguments):
    """Return `function(*arguments)`, from a process that nothing else has left memory in; all must be picklable."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_of(work: Callable[[], object], device: str) -> float:
    """Return the megabytes that the work needs at its peak beyond what is there before. On a CPU this needs Linux
    and glibc."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # What was freed before must not hide what the work takes anew.
    ctypes.CDLL(None).malloc_trim(0)
    # Linux keeps the peak of a process, even across exec; writing 5 resets it (proc(5)).
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _peak_resident()
    work()
    return _peak_resident() - before


def _peak_resident() -> float:
    """Return megabytes since the peak was last reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
