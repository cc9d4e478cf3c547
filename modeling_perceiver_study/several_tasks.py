"""Several tasks at once, each asked by a query of its own (Perceiver IO, arXiv 2107.14795, section 4.1 and table 2).

Logits `(B, num_labels)` hold the classes of all tasks, one task after the other, in the alphabetical order that
`config.tasks` has.
"""

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from .input_fields import require
from .inputs import check_tensor
from .labels import NO_LABEL, check_classes
from .paths import has_values
from .scalars import is_count

if TYPE_CHECKING:
    from .configuration_perceiver_study import PerceiverStudyConfig
    from .modeling_perceiver_study import PerceiverStudyClassifier

SEPARATOR = ": "  # between a task and one of its classes


def in_order(tasks: dict[str, int]) -> dict[str, int]:
    """The tasks in alphabetical order. Raises a ValueError for what are not names with numbers of classes."""
    proper = isinstance(tasks, dict) and len(tasks) > 0
    if not proper or not all(str(name).isidentifier() and is_count(count, 2) for name, count in tasks.items()):
        raise ValueError(
            f"tasks={tasks!r}: expected None or a dict, with the form of Python's identifiers for names, and for each "
            "the number of its classes, at least 2."
        )
    return dict(sorted(tasks.items()))


def check_rest(config: "PerceiverStudyConfig"):
    """Raise a ValueError where another field of a config does not fit its tasks."""
    total = sum(config.tasks.values())
    require(config, "decoder_type", config.decoder_type == "query", "'query' with tasks, each of which has its own")
    require(config, "problem_type", config.problem_type is None, "None with tasks, each of which has one class")
    require(config, "num_labels", config.num_labels == total, f"{total}, the classes of all tasks")


def names_of(tasks: dict[str, int]) -> dict[int, str]:
    """`id2label` of classes without names of their own."""
    names = [f"{task}{SEPARATOR}{label}" for task, count in tasks.items() for label in range(count)]
    return dict(enumerate(names))


def by_task(values: torch.Tensor, tasks: dict[str, int]) -> dict[str, torch.Tensor]:
    """`(.., num_labels) -> {task: (.., classes of the task)}`, such as logits. Raises a ValueError for other widths."""
    total = sum((tasks or {}).values())
    if tasks is None or values.shape[-1] != total:
        raise ValueError(f"logits have shape {tuple(values.shape)}: expected (.., {total}), with tasks={tasks}.")
    return dict(zip(tasks, values.split(list(tasks.values()), dim=-1), strict=True))


def own_answers(answers: torch.Tensor, tasks: dict[str, int]) -> torch.Tensor:
    """`(B, tasks, num_labels) -> (B, num_labels)`: of each class what the query of its task says."""
    parts = by_task(answers, tasks).values()
    return torch.cat([part[:, number] for number, part in enumerate(parts)], dim=-1)


def as_shares(labels: torch.Tensor, tasks: dict[str, int]) -> torch.Tensor:
    """`(B, tasks)` classes, or -100 `-> (B, num_labels)` of 1 and 0, which are all 0 for a task without a label."""
    shares = []
    for column, count in zip(labels.unbind(dim=-1), tasks.values(), strict=True):
        shares.append(F.one_hot(column.clamp(min=0), count) * (column != NO_LABEL)[:, None])
    return torch.cat(shares, dim=-1).float()


def task_losses(logits: torch.Tensor, shares: torch.Tensor, tasks: dict[str, int]) -> torch.Tensor:
    """`(B, num_labels)` twice `-> (B, tasks)`: cross-entropies, 0 where there is no label."""
    exact = torch.promote_types(logits.dtype, torch.float32)
    pairs = zip(by_task(logits.to(exact), tasks).values(), by_task(shares.to(exact), tasks).values(), strict=True)
    return torch.stack([-(part * one.log_softmax(dim=-1)).sum(dim=-1) for one, part in pairs], dim=-1)


def loss_of_tasks(
    logits: torch.Tensor,
    labels: torch.Tensor,
    tasks: dict[str, int],
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """`-> ()`: the mean cross-entropy over all labels of all tasks that there are; 0 where there are none.

    Args:
        labels: see `PerceiverStudyClassifier.classify`.
        num_items_in_batch: as `Trainer` gives it, entries of labels other than -100 of all parts of a batch.

    Raises:
        ValueError: labels do not fit.
    """
    check_tensor("labels", labels)
    batch, count = logits.shape
    shares = labels
    if labels.is_floating_point():
        fits = labels.shape == (batch, count)
        if fits and has_values(labels) and not ((labels >= 0) & (labels <= 1)).all():
            raise ValueError("labels hold numbers outside of [0, 1]: expected shares of classes.")
    else:
        fits = labels.shape == (batch, len(tasks)) and labels.dtype != torch.bool
        if fits:
            labels = labels.long()
            for column, (task, classes) in zip(labels.unbind(dim=-1), tasks.items(), strict=True):
                check_classes(column, classes, f" for {task}")
            shares = as_shares(labels, tasks)
    if not fits:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}: expected ({batch}, {len(tasks)}) and "
            f"torch.int64, a class for each of {', '.join(tasks)} or -100, or shares of classes, ({batch}, {count}) "
            "and torch.float32."
        )
    total = task_losses(logits, shares.to(logits.device), tasks).sum()
    count = shares.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch).to(total)
    if num_items_in_batch is not None and labels.is_floating_point():  # of which all entries were counted
        count = count * shares.mean().to(total)
    return total / count.to(total).clamp(min=torch.finfo(total.dtype).eps)


def model_of_task(model: "PerceiverStudyClassifier", task: str) -> "PerceiverStudyClassifier":
    """See `PerceiverStudyClassifier.for_task`."""
    tasks = model.config.tasks
    if tasks is None or task not in tasks:
        raise ValueError(f"There is no task {task!r}: expected one of {', '.join(map(repr, tasks or ())) or 'none'}.")
    number = list(tasks).index(task)
    first = sum(list(tasks.values())[:number])
    rows = slice(first, first + tasks[task])
    names = [model.config.id2label[label].removeprefix(f"{task}{SEPARATOR}") for label in range(rows.start, rows.stop)]
    config = copy.deepcopy(model.config)
    config.tasks = None
    config.id2label = dict(enumerate(names))
    config.label2id = {name: label for label, name in config.id2label.items()}
    weights = model.state_dict()
    if any(not isinstance(weight, torch.Tensor) or weight.is_meta for weight in weights.values()):
        raise ValueError(
            "Weights of this model are offloaded, or quantized to other things than tensors: load it otherwise to part "
            "its tasks."
        )
    weights["decoder.query.weight"] = weights["decoder.query.weight"][number : number + 1]
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][rows]
    with torch.device("meta"):
        single = type(model)(config)
    single.load_state_dict(weights, assign=True)
    for name, parameter in single.named_parameters():
        parameter.requires_grad = model.get_parameter(name).requires_grad
    for name, module in single.named_modules():
        own = model.get_submodule(name)
        if getattr(own, "gradient_checkpointing", False):  # with whatever settings it was switched on
            module.gradient_checkpointing, module._gradient_checkpointing_func = True, own._gradient_checkpointing_func
    return single.train(model.training)
