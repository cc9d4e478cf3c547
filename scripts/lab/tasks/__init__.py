"""All tasks by name. A new one is a file here, one for its input in the package, and a line below or in `kinds`."""

import importlib

from lab.errors import UserError, one_line
from lab.recipe import Recipe
from lab.tasks.masked_lm import MaskedLM
from lab.tasks.multimodal_classification import MultimodalClassification
from lab.tasks.pretrained import open_pretrained
from lab.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (*MultimodalClassification.kinds, MultimodalClassification, MaskedLM)
}


def find_task(recipe: Recipe) -> type[Task]:
    """Return the class of a recipe's task: one of `TASKS`, or `module:Class` from anywhere that Python finds.

    Raises:
        UserError: there is no such task.
    """
    module, colon, name = recipe.task.partition(":")
    if not colon:
        if recipe.task not in TASKS:
            raise UserError(
                f"task={recipe.task}: expected one of {', '.join(TASKS)}, or module:Class of a task of yours"
            )
        return TASKS[recipe.task]
    try:
        task = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"task={recipe.task} cannot be imported: {one_line(error)}") from None
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(f"task={recipe.task}: expected a subclass of lab.tasks.task.Task")
    return task


def build_task(recipe: Recipe, resume: bool = False) -> Task:
    """Return the task of a recipe, for the model that it describes.

    Args:
        resume: where the recipe starts from a checkpoint, settings are those that the run in `output_dir` began with.

    Raises:
        UserError: there is no such task, the recipe does not fit it, or the checkpoint to start from cannot be read.
    """
    kind = find_task(recipe)
    pretrained = open_pretrained(recipe, kind.processor_class, resume, kind.model_class.config_class)
    return kind(recipe, pretrained=pretrained)
