"""Names of checkpoints: folders, and repositories on the Hub.

Apart from `judging`, since tasks start from checkpoints too, and from `data`, since the page (app.py) has no data sets.
"""

from pathlib import Path

from lab.errors import UserError


def check_checkpoint(checkpoint: str):
    """A `UserError` for what is neither a folder with a model nor could be the name of one on the Hub."""
    folder = Path(checkpoint)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"{checkpoint} holds no finished checkpoint: there is no config.json in it")
    elif checkpoint.count("/") != 1 or folder.parent.is_dir():
        # Not asked of the Hub: its answer to a mistyped folder would be slow and beside the point.
        raise UserError(f"{checkpoint}: no such folder, and no OWNER/NAME of a model on the Hub")
