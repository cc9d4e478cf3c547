"""Checkpoints that `--resume` continues from: complete or absent, never half-written.

    output_dir/checkpoints/step-00000500/   accelerate's state, progress.json, own-NAME.safetensors, checksums.json

It is written under another name, flushed to the disk and renamed. One that was damaged later fails its checksums, and
the one before it takes its place. Nothing in it is unpickled: what accelerate keeps in torch's format it reads with
`weights_only=True`.
"""

import dataclasses
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import SCALER_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

from lab.errors import UserError, one_line
from lab.writing import flush

_CHECKSUMS = "checksums.json"
_PROGRESS = "progress.json"
_OWN = "own-"  # files of tensors beside those that accelerate names


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done and judged.
        samples: samples of the present epoch that steps were taken with.
        best_epoch: the best one so far, counted from 1; 0 before the first.
        best_scores: its validation scores; None before the first, and where nothing is validated.
        seconds: time spent on training and validation.
        data: `identity` of the data; None in checkpoints from before it was kept.
    """

    step: int = 0
    epoch: int = 0
    samples: int = 0
    best_epoch: int = 0
    best_scores: dict[str, float] | None = None
    seconds: float = 0.0
    data: str | None = None


def checkpoints(output_dir: Path) -> list[Path]:
    """All that carry the name of a complete one, the newest first."""
    return sorted((output_dir / "checkpoints").glob("step-*"), reverse=True)


def last_good_checkpoint(output_dir: Path, report: Callable[[str], None]) -> Path | None:
    """The newest one whose checksums are right, None where there is none; `report` hears of each that is passed over.

    Raises:
        UserError: there are some, and all are damaged.
    """
    found = checkpoints(output_dir)
    for checkpoint in found:
        damage = find_damage(checkpoint)
        if damage is None:
            return checkpoint
        report(f"{checkpoint} is damaged ({damage}); trying the one before it")
    if found:
        raise UserError(f"all checkpoints in {found[0].parent} are damaged: delete that folder to start anew")
    return None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with its files, None if nothing is."""
    try:
        expected = json.loads((checkpoint / _CHECKSUMS).read_text(encoding="utf-8"))
        for name, checksum in expected.items():
            if _checksum(checkpoint / name) != checksum:
                return f"the content of {name} has changed"
    except (OSError, ValueError, AttributeError) as error:
        return one_line(error)
    return None


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    progress: Progress,
    tensors: dict[str, dict[str, torch.Tensor] | None],
    keep_last: int,
):
    """Write everything under a temporary name, rename, then delete all but the `keep_last` newest.

    Args:
        tensors: state dicts beside accelerate's own state, by the name of their file; None writes no file.

    Raises:
        UserError: it cannot be written; older checkpoints are as they were.
    """
    folder = output_dir / "checkpoints"
    final = folder / f"step-{progress.step:08d}"
    unfinished = folder / f"tmp-{final.name}"
    try:
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            _delete_leftovers(folder)
            unfinished.mkdir()
        accelerator.wait_for_everyone()
        accelerator.save_state(str(unfinished))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _write(unfinished, progress, tensors)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        kept = ", ".join(path.name for path in checkpoints(output_dir)) or "none before it"
        reason = one_line(error)
        raise UserError(
            f"checkpoint {final} cannot be written ({reason}). Kept: {kept}. Make room, then add --resume"
        ) from error
    if not accelerator.is_main_process:
        return
    if final.exists():
        _delete(final)
    unfinished.rename(final)
    flush(folder)
    for old in checkpoints(output_dir)[keep_last:]:
        _delete(old)


def load_checkpoint(accelerator: Accelerator, folder: Path) -> tuple[Progress, dict[str, dict[str, torch.Tensor]]]:
    """Restore what was given to `accelerator.prepare`; returns the progress and the other tensors by name.

    Raises:
        UserError: a file holds more than tensors and plain values.
    """
    scaler = accelerator.scaler
    if not (folder / SCALER_NAME).exists():
        accelerator.scaler = None  # a run that goes on in float16 did not have one: it keeps the fresh one
    try:
        accelerator.load_state(str(folder))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{folder} holds more than tensors and plain values, and loading it could run code: delete it"
        ) from error
    accelerator.scaler = scaler
    accelerator.step = 0  # parts of a batch so far: none, however many parts batches had before
    progress = read_progress(folder)
    names = set(json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8")))
    found = [folder / name for name in names if name.startswith(_OWN) and name.endswith(".safetensors")]
    return progress, {path.stem.removeprefix(_OWN): load_file(path) for path in found}


def read_progress(checkpoint: Path) -> Progress:
    """How far the run of a checkpoint had come."""
    return Progress(**json.loads((checkpoint / _PROGRESS).read_text(encoding="utf-8")))


def delete_newer(output_dir: Path, start: Path):
    """Delete damaged checkpoints after `start`, so that they count neither as the last nor as ones to keep."""
    for checkpoint in checkpoints(output_dir):
        if checkpoint.name > start.name:
            _delete(checkpoint)


def _write(folder: Path, progress: Progress, tensors: dict[str, dict[str, torch.Tensor] | None]):
    for name, state in tensors.items():
        if state is not None:
            save_file(state, folder / f"{_OWN}{name}.safetensors")
    (folder / _PROGRESS).write_text(json.dumps(dataclasses.asdict(progress), indent=2) + "\n", encoding="utf-8")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    checksums = {path.relative_to(folder).as_posix(): _checksum(path) for path in files}
    (folder / _CHECKSUMS).write_text(json.dumps(checksums, indent=2) + "\n", encoding="utf-8")
    # Without these the name can reach the disk before the contents do.
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _delete(checkpoint: Path):
    # Renamed first: a deletion cut short must not leave something that looks complete.
    doomed = checkpoint.with_name(f"tmp-old-{checkpoint.name}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def _delete_leftovers(folder: Path):
    for path in folder.glob("tmp-*"):
        shutil.rmtree(path)


def get_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy on the CPU; of a sharded model on the first process, and nothing on the others. All call it together."""
    model = accelerator.unwrap_model(model, keep_torch_compile=False)
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: tensor.clone() for name, tensor in weights.items()}


def set_weights(accelerator: Accelerator, model: nn.Module, weights: dict[str, torch.Tensor]):
    """Give a model what `get_weights` returned, from the first process to all. All call it together."""
    model = accelerator.unwrap_model(model, keep_torch_compile=False)
    several = accelerator.num_processes > 1
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=several)
    set_model_state_dict(model, weights, options=options)
