"""Load checkpoints: folders that train.py wrote, or names on the Hub."""

import copy
import functools
import math
import os
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, Pipeline, PreTrainedModel, pipeline
from transformers.utils import logging
from transformers.utils.hub import cached_file

from lab.checkpoint_names import check_checkpoint
from lab.errors import UserError, one_line
from lab.looking.view import View
from lab.looking.views import VIEWS


@dataclass(frozen=True)
class Classifier:
    """A trained model, ready to be asked.

    Attributes:
        pipeline: transformers' pipeline for it.
        view: what reads and draws its samples.
    """

    pipeline: Pipeline
    view: type[View]

    @property
    def model(self) -> PreTrainedModel:
        """The model, in evaluation mode."""
        return self.pipeline.model

    @functools.cached_property
    def pipelines(self) -> dict[str | None, Pipeline]:
        """A pipeline for each of the model's tasks by name, or the only one by None."""
        found = {}
        for task in self.model.config.tasks or ():
            found[task] = copy.copy(self.pipeline)
            found[task].model = self.model.for_task(task)
        return found or {None: self.pipeline}

    def answer(self, sample: Any, top_k: int) -> tuple[list[tuple[str, float]], str]:
        """Names and scores of the likeliest answers, of each task if there are several, and what is told in words.

        Numbers come in the order of the model's own.

        Args:
            top_k: how many of classes; of numbers all are given.

        Raises:
            ValueError: the sample does not fit the model, or its answers are not finite numbers.
        """
        top_k, named, told = self.model.config.num_labels if self.answers_numbers else top_k, [], []
        if self.view.task == "fill-mask":  # which, unlike others, fails where there are not so many
            top_k = min(top_k, self.model.config.vocab_size)
        for task, asked in self.pipelines.items():
            predictions = asked(sample, top_k=top_k)
            prefix = "" if task is None else f"{task}: "
            named += [(f"{prefix}{name}", score) for name, score in self.view.named(predictions)]
            told.append(self.view.told(self.processor, sample, predictions))
        if self.answers_numbers:  # in the order of the model, not from the largest down
            order = list(self.model.config.id2label.values())
            named.sort(key=lambda answer: order.index(answer[0]))
        if not all(math.isfinite(score) for _, score in named):
            raise ValueError("answers are not finite numbers: the sample has huge ones, or the checkpoint is broken")
        return named, "\n\n".join(filter(None, told))

    @property
    def answers_numbers(self) -> bool:
        """Whether answers are numbers, and not classes with probabilities."""
        return self.model.config.problem_type == "regression"

    @property
    def processor(self) -> Any:
        """What turns a sample into the model's arguments."""
        return getattr(self.pipeline, self.view.processor)


def load_classifier(checkpoint: str) -> Classifier:
    """Return the model of a folder, or of a name on the Hub.

    Raises:
        UserError: there is no such model, it cannot be loaded, or nothing is known of its kind.
    """
    check_checkpoint(checkpoint)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
        name = next(iter(config.architectures or ()), None)
        view = _own_view(checkpoint, name) or VIEWS.get(name)
        if view is None:
            raise UserError(
                f"{checkpoint} holds {name or 'no model'}: expected one of {', '.join(VIEWS)}, or of a task of yours "
                "that has a view, and is named in the checkpoint's recipe.yaml"
            )
        loaded = pipeline(view.task, model=checkpoint, trust_remote_code=True, **view.settings)
        # Once more, as a pipeline makes up weights that are missing, and does not tell.
        _, report = type(loaded.model).from_pretrained(checkpoint, output_loading_info=True)
    except KeyError as error:
        if "Unknown task" not in str(error):  # of the registry of pipelines
            raise
        raise UserError(
            f"{checkpoint}: there is no pipeline {view.task}; custom_pipelines of its configuration name one "
            "(docs/extending.md)"
        ) from None
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {reason(error)}") from None
    require_all_weights(checkpoint, report, view.task)
    return Classifier(loaded, view)


def _own_view(checkpoint: str, model: str | None) -> type[View] | None:
    """The view of a task from outside (`module:Class`) that the checkpoint was trained for; None where it has none.

    Raises:
        UserError: the task cannot be imported, or it has an input of its own and no view.
    """
    if model in VIEWS and not os.path.isdir(checkpoint):  # a name on the Hub is not asked for a file more
        return None
    path = cached_file(checkpoint, "recipe.yaml", _raise_exceptions_for_missing_entries=False)
    task = _read_task(path) if path else ""
    if ":" not in task:
        return None
    from lab.recipe import Recipe  # here, as a page of a shipped kind gets by without `datasets`
    from lab.tasks import TASKS, find_task

    kind = find_task(Recipe(task=task))
    if kind.view is None and not issubclass(kind, tuple(TASKS.values())):
        raise UserError(f"{checkpoint}: task={task} has no view, which says how a file is read (docs/extending.md)")
    return kind.view


def _read_task(path: str) -> str:
    """The key `task` of a recipe file, or an empty text."""
    try:
        with open(path, encoding="utf-8") as file:
            recipe = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {one_line(error)}") from None
    return str(recipe.get("task", "")) if isinstance(recipe, dict) else ""


def require_all_weights(checkpoint: str, report: dict[str, Any], task: str):
    """Raise a `UserError` where some weights of the model were not in the checkpoint.

    Args:
        report: what transformers tells with `output_loading_info=True`.
    """
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{checkpoint} does not hold a whole model for {task}: {len(missing)} weights are missing "
            f"({', '.join(missing[:3])})"
        )


def reason(error: Exception) -> str:
    """Why transformers could not load a checkpoint, in a line."""
    if "ignore_mismatched_sizes" in str(error):
        return "its weights have other shapes than its config.json says; expected the files of one model"
    return one_line(error)
