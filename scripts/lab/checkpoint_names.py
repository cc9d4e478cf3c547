"""Names of checkpoints: folders, and repositories on the Hub.

Apart from `judging`, since tasks start from checkpoints too, and from `data`, since the page (app.py) has no data sets.
"""

import os
from pathlib import Path

from lab.errors import UserError

RESULTS = "metrics.json"  # of a run, written last, so a folder that has it is finished
VALIDATED = "validation_fingerprint"  # in it: what the run kept of its validation samples
LOG = "metrics.jsonl"  # of a run from its beginning


def checkpoint_name(text: str) -> str:
    """What a person calls a checkpoint, with `~` as the home folder."""
    return os.path.expanduser(text)


def check_checkpoint(checkpoint: str):
    """Raise a `UserError` unless this is a folder with a model, or may be the name of one on the Hub."""
    folder = Path(checkpoint)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"{checkpoint} does not hold a finished checkpoint: there is no config.json in it")
        if (folder / LOG).exists() and not (folder / RESULTS).exists():
            raise UserError(
                f"{checkpoint} holds a run that is not finished: there is no {RESULTS} in it; finish it with train.py, "
                "with --resume if it has checkpoints"
            )
    elif checkpoint.count("/") != 1 or folder.parent.is_dir():
        # The answer of the Hub to a mistyped folder would be slow and misleading.
        raise UserError(f"{checkpoint}: no such folder, and no OWNER/NAME of a model on the Hub")


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that `from_pretrained` reads: one, or else its parts, but no copies beside them."""
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))
