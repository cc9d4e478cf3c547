"""What `optimization.mixed_precision: auto` stands for on the hardware at hand."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from lab.machine import without_gpu
from lab.recipe import Recipe
from lab.training.run_folder import begun_recipe

# Autocast adds casts, and much of a step is not a product: a smaller gain in products is none in training.
_WORTHWHILE = 1.5


def settle_precision(recipe: Recipe, run: Path | None = None, report: Callable[[str], None] | None = None) -> Recipe:
    """The recipe with `bf16` in place of `auto` where that is fast, and `no`, which is float32, elsewhere.

    The main process chooses for all. fp16 is never chosen.

    Args:
        run: folder of a run; one that holds a run keeps the precision with which it began.
        report: hears what was chosen for `auto`, and why.
    """
    if recipe.optimization.mixed_precision != "auto":
        return recipe
    state = PartialState(cpu=without_gpu())
    choice = [None]
    if state.is_main_process:
        fast = bfloat16_is_fast(state.device)
        choice, reason = ["bf16" if fast else "no"], f"bfloat16 is {'fast' if fast else 'slow'} on this machine"
        begun = None if run is None else begun_recipe(run)
        if begun is not None:
            choice = [begun.optimization.mixed_precision]
            reason = f"as the run in {run} began; {reason}"
        if report is not None:
            report(f"optimization.mixed_precision=auto is {choice[0]} ({reason})")
    broadcast_object_list(choice)
    return dataclasses.replace(recipe, optimization=dataclasses.replace(recipe.optimization, mixed_precision=choice[0]))


@functools.cache
def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether products of bfloat16 are faster than those of float32 there, by enough to train in bfloat16.

    CUDA is asked. A CPU is measured, since a look at its instructions would have to know all makers and would not see
    whether torch uses them: the shortest of a few products of 256 × 256 matrices on one thread, which takes some
    milliseconds with bfloat16 units and a fifth of a second without. Other devices are not known to be fast.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would also measure what else the machine does
    try:
        turns = [(_seconds_of_product(torch.float32), _seconds_of_product(torch.bfloat16)) for _ in range(25)]
    finally:
        torch.set_num_threads(threads)
    full, half = (min(times) for times in zip(*turns, strict=True))
    return full / half > _WORTHWHILE


def _seconds_of_product(dtype: torch.dtype) -> float:
    matrix = torch.ones(256, 256, dtype=dtype)
    begin = time.perf_counter()
    torch.mm(matrix, matrix)
    return time.perf_counter() - begin
