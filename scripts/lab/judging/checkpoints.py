"""Load checkpoints: folders that train.py wrote, or names on the Hub."""

from pathlib import Path

from transformers import pipeline
from transformers.utils import logging

from lab.errors import UserError, one_line


def check_checkpoint(checkpoint: str):
    """Raise a `UserError` unless this is a folder with a model, or may be the name of one on the Hub."""
    folder = Path(checkpoint)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"{checkpoint} does not hold a finished checkpoint: there is no config.json in it")
    elif checkpoint.count("/") != 1 or folder.parent.is_dir():
        # The Hub's answer to a mistyped folder would be slow and misleading.
        raise UserError(f"{checkpoint}: no such folder, and no OWNER/NAME of a model on the Hub")


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
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}") from None
