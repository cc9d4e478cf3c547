"""Loading a checkpoint with its task, for evaluation on labelled samples."""

from safetensors import SafetensorError
from transformers import PreTrainedModel

from lab.errors import UserError, one_line
from lab.recipe import Recipe
from lab.tasks import find_task
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
    try:
        found = PerceiverStudyConfig.get_config_dict(checkpoint)[0].get("model_type")
        if found != PerceiverStudyConfig.model_type:
            raise UserError(f"{checkpoint} holds a {found} model; expected {PerceiverStudyConfig.model_type}")
        processor = kind.processor_class.from_pretrained(checkpoint)
        model, report = kind.model_class.from_pretrained(
            checkpoint, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}") from None
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(
            f"{checkpoint} does not hold a whole model for {kind.name}: {len(report['missing_keys'])} weights are "
            f"missing ({missing})"
        )
    return kind(recipe, model.config, processor), model.eval()
