"""All tasks by name. A new one is a file here, one for its input in the package, and a line below."""

from lab.errors import UserError
from lab.recipe import Recipe
from lab.tasks.image_classification import ImageClassification
from lab.tasks.task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (ImageClassification,)}


def find_task(recipe: Recipe) -> type[Task]:
    """The class of a recipe's task; a `UserError` where there is none."""
    if recipe.task not in TASKS:
        raise UserError(f"task={recipe.task}: expected one of {', '.join(TASKS)}")
    return TASKS[recipe.task]


def build_task(recipe: Recipe) -> Task:
    """The task of a recipe, for the model that it describes.

    Raises:
        UserError: there is no such task, or the recipe does not fit it.
    """
    return find_task(recipe)(recipe)
