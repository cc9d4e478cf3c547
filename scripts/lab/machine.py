"""What a process of a command runs on, CPU or not, how many threads and what memory, and how it ends."""

import ctypes
import os
import sys

import torch
from accelerate import Accelerator


def without_gpu() -> bool:
    """What `Accelerator` has to be told: of itself it forms no group of processes that have no GPU."""
    return not torch.accelerator.is_available()


def finish(accelerator: Accelerator):
    """End all processes together, when the main one has written its files.

    The caller keeps nothing that `accelerator.prepare` returned: a wrapped model would let the group of processes end
    only with itself, while Python's lock is held, for which torch's gloo threads may wait to free what they gathered.
    Neither would ever go on. `end_training` ends the group without the lock.
    """
    accelerator.free_memory()
    accelerator.wait_for_everyone()
    accelerator.end_training()


def use_threads(accelerator: Accelerator, count: int | None):
    """Without a GPU let torch use `count` threads; None shares out the cores among the processes of the machine."""
    if accelerator.device.type == "cpu":
        keep_memory()
        # `accelerate launch` asks for a single thread unless told otherwise.
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(count or max(1, available_cores() // local_processes))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def keep_memory():
    """Let glibc keep the memory that tensors leave, which it would give back to Linux after nearly every operation.

    Each page of 4 kB taken anew costs a page fault: 15,000 of them in a step of the CIFAR-10 recipe. Elsewhere nothing
    is changed, and nothing for tensors on a GPU, whose memory torch keeps itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # other C libraries have none
        m_trim_threshold, m_mmap_max = -1, -4  # as in malloc.h
        mallopt(m_trim_threshold, -1)  # nothing is given back,
        mallopt(m_mmap_max, 0)  # and nothing has a mapping of its own, which goes when it is freed
