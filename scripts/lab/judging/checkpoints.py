"""Load checkpoints to judge them: folders of train.py, or names on the Hub."""

from pathlib import Path

from transformers import pipeline
from transformers.utils import logging

from lab.errors import UserError, one_line


def check_checkpoint(checkpoint: str):
    """A `UserError` for what is neither a folder with a model nor could be the name of one on the Hub."""
    folder = Path(checkpoint)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"{checkpoint} holds no finished checkpoint: there is no config.json in it")
    elif checkpoint.count("/") != 1 or folder.parent.is_dir():
        # Not asked of the Hub: its answer to a mistyped folder would be slow and beside the point.
        raise UserError(f"{checkpoint}: no such folder, and no OWNER/NAME of a model on the Hub")


def load_classifier(checkpoint: str):
    """transformers' image-classification pipeline for a folder, or a name on the Hub; else a `UserError`."""
    check_checkpoint(checkpoint)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return pipeline("image-classification", model=checkpoint, trust_remote_code=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}") from None
