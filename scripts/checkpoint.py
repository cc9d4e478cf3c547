"""Checkpoints that `--resume` continues from: complete or absent, never half-written.

    output_dir/checkpoints/step-00000500/   accelerate's state, progress.json, best.safetensors

It is written under another name, flushed to the disk and renamed.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done and evaluated.
        best_epoch: the one with the best validation accuracy so far, counted from 1; 0 before the first.
        best_accuracy: its validation accuracy, from 0 to 1.
        best_loss: its validation loss, which decides between equal accuracies.
        seconds: time spent on training and validation.
    """

    step: int = 0
    epoch: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0
    seconds: float = 0.0


def last_checkpoint(output_dir: Path) -> Path | None:
    """The complete checkpoint of the highest step, None if there is none."""
    return max((output_dir / "checkpoints").glob("step-*"), default=None)


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    progress: Progress,
    best_weights: dict[str, torch.Tensor] | None,
    keep_last: int,
):
    """Write everything under a temporary name, rename, then delete all but the `keep_last` newest."""
    folder = output_dir / "checkpoints"
    final = folder / f"step-{progress.step:08d}"
    unfinished = folder / f"tmp-{final.name}"
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        _delete_leftovers(folder)
        unfinished.mkdir()
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    if best_weights is not None:
        save_file(best_weights, unfinished / "best.safetensors")
    (unfinished / "progress.json").write_text(json.dumps(dataclasses.asdict(progress), indent=2) + "\n")
    # Without these the name can reach the disk before the contents do.
    for path in unfinished.rglob("*"):
        _flush(path)
    _flush(unfinished)
    if final.exists():
        _delete(final)
    unfinished.rename(final)
    _flush(folder)
    for old in sorted(folder.glob("step-*"))[:-keep_last]:
        _delete(old)


def load_checkpoint(accelerator: Accelerator, folder: Path) -> tuple[Progress, dict[str, torch.Tensor] | None]:
    """Restore what was given to `accelerator.prepare`; returns the progress and the best weights so far."""
    accelerator.load_state(str(folder))
    progress = Progress(**json.loads((folder / "progress.json").read_text()))
    best = folder / "best.safetensors"
    return progress, load_file(best) if best.exists() else None


def _delete(checkpoint: Path):
    # Renamed first: a deletion cut short must not leave something that looks complete.
    doomed = checkpoint.with_name(f"tmp-old-{checkpoint.name}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def _delete_leftovers(folder: Path):
    for path in folder.glob("tmp-*"):
        shutil.rmtree(path)


def _flush(path: Path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
