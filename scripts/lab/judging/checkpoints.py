"""Load checkpoints: folders that train.py wrote, or names on the Hub."""

from safetensors import SafetensorError
from transformers import pipeline
from transformers.utils import logging

from lab.checkpoint_names import check_checkpoint
from lab.errors import UserError, one_line


def load_classifier(checkpoint: str):
    """Return transformers' image-classification pipeline for a folder, or for a name on the Hub.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    check_checkpoint(checkpoint)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return pipeline("image-classification", model=checkpoint, trust_remote_code=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}") from None
