"""What a model says of a set of samples, each counted once on any number of processes, and how well it does."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator

from lab.tasks.task import Batch, Judged, Scores, Task, concatenate


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
            outputs = [model(**arguments)]
            if mirrored:
                outputs.append(model(**task.mirrored(arguments)))
        found = [task.judge(outputs[: 1 + view], targets) for view in range(len(outputs))]
        found = accelerator.gather_for_metrics(found)  # drops what fills up the last batch
        batches.append([{name: tensor.cpu() for name, tensor in of_view.items()} for of_view in found])
    return [concatenate(of_view) for of_view in zip(*batches, strict=True)]


def evaluate(accelerator: Accelerator, task: Task, model, loader: Iterable[Batch]) -> Scores:
    """The scores of a model for all samples of a prepared loader."""
    return task.scores(predict(accelerator, task, model, loader)[0])
