"""Loading a checkpoint with its task, for evaluation on labelled samples."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from lab.checkpoint_names import RESULTS, VALIDATED
from lab.errors import UserError, one_line
from lab.judging.checkpoints import reason, require_all_weights
from lab.recipe import Recipe
from lab.tasks import TASKS, find_task
from lab.tasks.task import Task
from modeling_perceiver_study import PerceiverStudyConfig


def open_checkpoint(checkpoint: str, recipe: Recipe, dtype: str = "auto") -> tuple[Task, PreTrainedModel]:
    """Return the task of a recipe for the model in a checkpoint, and that model, from safetensors only.

    Args:
        recipe: gives the task and the data.
        dtype: of the model; `auto` is as it is stored.

    Raises:
        UserError: they cannot be loaded, are of another kind, or some weights are missing.
    """
    kind = find_task(recipe)
    held = set(_settings_of(checkpoint, kind.model_class.config_class).get("architectures") or ())
    known = {task.model_class.__name__ for task in TASKS.values()}
    if held and held <= known and kind.model_class.__name__ not in held:
        raise UserError(
            f"{checkpoint} holds {', '.join(held)}: task={recipe.task} needs {kind.model_class.__name__}; name a "
            "recipe of the checkpoint's task"
        )
    try:
        processor = kind.processor_class.from_pretrained(checkpoint)
        model, report = kind.model_class.from_pretrained(
            checkpoint, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {reason(error)}") from None
    require_all_weights(checkpoint, report, kind.name)
    task = kind(recipe, model.config, processor)
    task.validated = _validated(checkpoint)
    return task, model.eval()


def _validated(checkpoint: str) -> str | None:
    """What the run in a folder kept of its validation samples; None where there is no run, or an older one."""
    results = Path(checkpoint) / RESULTS
    try:
        return json.loads(results.read_text(encoding="utf-8")).get(VALIDATED)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{results} cannot be read as what a run measured: {one_line(error)}") from None


def task_of(checkpoint: str) -> str:
    """Return the name of the task that a checkpoint's model is for, where no recipe says it.

    Raises:
        UserError: the checkpoint cannot be read, or no task here has such a model.
    """
    found = _settings_of(checkpoint).get("architectures") or ["no model"]
    models = {task.model_class.__name__: name for name, task in TASKS.items()}
    for architecture in found:
        if architecture in models:
            return models[architecture]
    raise UserError(
        f"{checkpoint} holds {', '.join(found)}; expected one of {', '.join(models)}, or the recipe of a task of yours "
        "as --config PATH"
    )


def _settings_of(checkpoint: str, kind: type[PerceiverStudyConfig] = PerceiverStudyConfig) -> dict[str, Any]:
    """What `config.json` says; a `UserError` where it cannot be read, or is of another kind of model."""
    try:
        settings, _ = PerceiverStudyConfig.get_config_dict(checkpoint)
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}") from None
    if settings.get("model_type") != kind.model_type:
        raise UserError(f"{checkpoint} holds a {settings.get('model_type')} model; expected {kind.model_type}")
    return settings
