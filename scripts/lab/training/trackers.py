"""Trackers such as TensorBoard or Weights & Biases, which accelerate feeds with what is logged."""

from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available

from lab.errors import UserError
from lab.recipe import Logging, Recipe, flatten

# What each calls the name of a run where accelerate starts it.
_RUN_NAME = {
    "clearml": "task_name",
    "mlflow": "run_name",
    "swanlab": "experiment_name",
    "trackio": "name",
    "wandb": "name",
}


def chosen_tracker(settings: Logging) -> str | None:
    """The one that a recipe asks for, by accelerate's name.

    Raises:
        UserError: a name of a project or a run is not possible.
    """
    tracker = settings.log_with
    if tracker == "auto":
        tracker = "tensorboard" if is_tensorboard_available() else None
    for key in ("project", "run_name"):
        name = getattr(settings, key)
        if name is not None and (name in ("", ".", "..") or {"/", "\\"} & set(name)):
            # It may become a folder in output_dir.
            raise UserError(f"logging.{key}={name}: expected a name without / and \\")
    if settings.run_name is not None and tracker not in (None, "tensorboard", *_RUN_NAME):
        known = ", ".join(["tensorboard", *_RUN_NAME])
        raise UserError(f"logging.run_name={settings.run_name}: {tracker} takes none from accelerate, but {known} do")
    return tracker


def start_trackers(accelerator: Accelerator, recipe: Recipe):
    """Begin a run with the recipe as its settings."""
    if not accelerator.log_with:
        return
    project, run = recipe.logging.project, recipe.logging.run_name
    trackers, names = list(map(str, accelerator.log_with)), {}
    if run is not None and trackers == ["tensorboard"]:
        project = f"{project}/{run}"  # a folder of its own, which is all that TensorBoard knows of a run
    elif run is not None:
        names = {tracker: {_RUN_NAME[tracker]: run} for tracker in trackers}
    settings = {key: str(value) for key, value in flatten(recipe).items()}
    accelerator.init_trackers(project, config=settings, init_kwargs=names)
