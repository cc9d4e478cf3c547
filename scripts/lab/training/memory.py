"""Training that does not fit into memory: an explanation, or smaller parts of a batch."""

import contextlib

import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from lab.errors import UserError
from lab.tasks.task import Task
from lab.training.cost import fixed_budget


def find_parts(accelerator: Accelerator, task: Task, model: nn.Module) -> int:
    """Accumulated parts to cut each batch into, at least the recipe's, so that one fits into every process's memory.

    Tries a forward and backward pass of empty samples, and leaves no trace of them. All processes call it together.

    Raises:
        UserError: a single sample does not fit.
    """
    settings = task.recipe.optimization
    share = settings.batch_size // accelerator.num_processes
    fewest = _fewest(task)
    most = share // settings.gradient_accumulation_steps
    sizes = [size for size in range(most, 0, -1) if share % size == 0 and size % fewest == 0]
    smaller = iter([*sizes[1:], 0])

    @find_executable_batch_size(starting_batch_size=sizes[0], reduce_batch_size_fn=lambda: next(smaller))
    def largest_size(size: int) -> int:
        arguments, targets = task.example(size, accelerator.device)
        with accelerator.autocast():
            outputs = model(**arguments)
        task.loss(outputs, targets).backward()
        return size

    model.to(accelerator.device).train()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with fixed_budget(model.config, max):
            size = largest_size()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise UserError("a single sample does not fit into memory: make the model of the recipe smaller") from error
    finally:
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])
    parts = accelerator.gather(torch.tensor([share // size], device=accelerator.device)).max().item()
    if parts > settings.gradient_accumulation_steps:
        accelerator.print(f"a batch of {settings.batch_size} fits into memory in {parts} parts")
    return parts


@contextlib.contextmanager
def explain_out_of_memory(accelerator: Accelerator, task: Task):
    """Turn running out of memory into a `UserError` that says what to change."""
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        advice = what_saves_memory(task, accelerator.num_processes) or ["make the model of the recipe smaller"]
        reason = str(error).splitlines()[0]
        raise UserError(
            f"out of memory: {', or '.join(advice)}; with --resume --accept_changes a run goes on from its last "
            f"checkpoint ({reason})"
        ) from error


def what_saves_memory(task: Task, processes: int) -> list[str]:
    """Changes of the recipe with which a process holds fewer samples, or less of each; each is possible by itself."""
    settings, fewest = task.recipe.optimization, _fewest(task)
    share = settings.batch_size // processes
    now = settings.gradient_accumulation_steps
    advice = []
    if share // now > fewest:
        more = next(n for n in range(now + 1, share + 1) if share % n == 0 and share // n % fewest == 0)
        advice.append(f"set optimization.gradient_accumulation_steps={more}")
        if not settings.find_parts:
            advice.append("let optimization.find_parts=true choose it")
        fewer = share // now // fewest // 2 * fewest
        advice.append(f"set optimization.batch_size={fewer * now * processes}")
    if not settings.gradient_checkpointing:
        advice.append("set optimization.gradient_checkpointing=true")
    return advice


def _fewest(task: Task) -> int:
    """Samples that must stay together."""
    return 2 if task.in_pairs else 1
