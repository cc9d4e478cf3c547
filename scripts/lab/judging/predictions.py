"""What a model says of a set of samples, each counted once on any number of processes, and how well it does."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from transformers.utils import ModelOutput

from lab.tasks.task import Arguments, Batch, Judged, Scores, Task, batch_size, concatenate


@torch.no_grad()
def predict(
    accelerator: Accelerator, task: Task, model, loader: Iterable[Batch], mirrored: bool = False
) -> list[Judged]:
    """What `task.judge` says of all samples of a prepared loader, the same on every process.

    Args:
        loader: batches, prepared by `accelerator`.
        mirrored: add a second entry, for the mean of the answers to the samples and to their mirror images.
    """
    model.eval()
    batches = []
    for batch in loader:
        arguments, targets = task.inputs(batch)
        with accelerator.autocast():  # a moving average, which accelerate did not prepare, has none of its own
            outputs = [_answers(accelerator, model, arguments, batch_size(batch))]
            if mirrored:
                outputs.append(_answers(accelerator, model, task.mirrored(arguments), batch_size(batch)))
        found = [task.judge(outputs[: 1 + view], targets) for view in range(len(outputs))]
        found = accelerator.gather_for_metrics(found)  # drops what fills up the last batch
        batches.append([{name: tensor.cpu() for name, tensor in of_view.items()} for of_view in found])
    return [concatenate(of_view) for of_view in zip(*batches, strict=True)]


def _answers(accelerator: Accelerator, model, arguments: Arguments, most: int) -> ModelOutput:
    """The model's answers to so many rows at a time at most: long recordings of a batch are cut into more of them.

    All processes call the model equally often, as layers that are spread over them must.
    """
    rows = next(iter(arguments.values())).shape[0]
    calls = -(-rows // most)
    if accelerator.num_processes > 1:
        calls = int(accelerator.gather(torch.tensor([calls], device=accelerator.device)).max())
    if calls == 1:
        return model(**arguments)
    found = []
    for call in range(calls):
        first = min(call, (rows - 1) // most) * most
        part = model(**{name: value[first : first + most] for name, value in arguments.items()})
        if call * most < rows:
            found.append(part)
    kept = [name for name, value in found[0].items() if isinstance(value, torch.Tensor) and value.ndim > 0]
    return type(found[0])(**{name: torch.cat([part[name] for part in found]) for name in kept})


def evaluate(accelerator: Accelerator, task: Task, model, loader: Iterable[Batch]) -> Scores:
    """The scores of a model for all samples of a prepared loader."""
    return task.scores(predict(accelerator, task, model, loader)[0])
