"""Load checkpoints: folders that train.py wrote, or names on the Hub."""

from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, Pipeline, PreTrainedModel, pipeline
from transformers.utils import logging

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
        if name not in VIEWS:
            raise UserError(f"{checkpoint} holds {name or 'no model'}: expected one of {', '.join(VIEWS)}")
        view = VIEWS[name]
        return Classifier(pipeline(view.task, model=checkpoint, trust_remote_code=True, **view.settings), view)
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}") from None
