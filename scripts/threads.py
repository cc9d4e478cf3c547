"""What a process of a command runs on, CPU or not and how many threads, and how it ends."""

import os

import torch
from accelerate import Accelerator


def without_gpu() -> bool:
    """What `Accelerator` has to be told: of itself it forms no group of processes that have no GPU."""
    return not torch.accelerator.is_available()


def finish(accelerator: Accelerator):
    """End all processes together, when the main one has written its files."""
    # A process that ends right after a gather may never do so: torch's gloo threads still want Python's lock to free
    # what they gathered, while the main thread holds it and waits for them. In a barrier it does not hold it.
    accelerator.wait_for_everyone()
    accelerator.end_training()


def use_threads(accelerator: Accelerator, count: int | None):
    """Without a GPU let torch use `count` threads; None shares out the cores among the processes of the machine."""
    if accelerator.device.type == "cpu":
        # `accelerate launch` asks for a single thread unless told otherwise.
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(count or max(1, available_cores() // local_processes))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
