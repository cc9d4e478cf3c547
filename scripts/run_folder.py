"""The folder of a run: who may write into it, and the log of metrics."""

import json
import shutil
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from checkpoint import Progress, last_checkpoint
from errors import UserError
from recipe import Recipe, differences, load_recipe, recipe_to_yaml

RESULTS = "metrics.json"  # written last, so a folder that has it is finished
LOG = "metrics.jsonl"


def find_start(output_dir: Path, recipe: Recipe, resume: bool) -> tuple[Path | None, bool]:
    """The checkpoint to continue from, if any, and whether the run is finished already.

    Raises:
        UserError: going on would mix two runs or throw one away.
    """
    checkpoint = last_checkpoint(output_dir)
    finished = (output_dir / RESULTS).exists()
    way_out = "choose another output_dir, or delete that folder"
    if checkpoint or finished:
        changed = differences(load_recipe(output_dir / "recipe.yaml"), recipe)
        if changed:
            raise UserError(f"{output_dir} holds a run of another recipe ({'; '.join(changed)}): {way_out}")
    if resume:
        return checkpoint, finished
    if checkpoint and not finished:
        raise UserError(
            f"{output_dir} holds an unfinished run ({checkpoint.name}): add --resume to continue it, {way_out}"
        )
    return None, False


def claim_output(output_dir: Path, recipe: Recipe, start: Path | None):
    """Make the folder ready for a run from checkpoint `start`, or from the beginning if that is None."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / RESULTS).unlink(missing_ok=True)
        if start is None:
            shutil.rmtree(output_dir / "checkpoints", ignore_errors=True)
            (output_dir / LOG).unlink(missing_ok=True)
        (output_dir / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    except OSError as error:
        raise UserError(f"output_dir={output_dir} cannot be written to: {error}") from None


class TrainingLog:
    """Mean loss and speed, as lines of `metrics.jsonl` and to trackers."""

    def __init__(self, accelerator: Accelerator, path: Path, batch_size: int, steps_per_epoch: int, progress: Progress):
        self.accelerator = accelerator
        self.path = path
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        # A sum on the device: reading it at every step would wait for the device at every step.
        self.loss = torch.zeros((), device=accelerator.device)
        self.restart(progress)
        if accelerator.is_main_process and path.exists():
            self._forget_after(progress)

    def restart(self, progress: Progress):
        """Begin to average at this step and moment."""
        self.loss.zero_()
        self.since_step, self.since = progress.step, time.perf_counter()

    def add(self, loss: torch.Tensor):
        """Count in the loss of a step, or its share of one."""
        self.loss += loss.detach()

    def step(self, progress: Progress, learning_rate: float) -> str:
        """Write the means since the last line; returns them as text. All processes call it together."""
        steps = progress.step - self.since_step
        loss = self.accelerator.reduce(self.loss, "mean").item() / steps
        speed = steps * self.batch_size / (time.perf_counter() - self.since)
        if loss != loss or abs(loss) == float("inf"):
            raise UserError(
                f"the loss is {loss} at step {progress.step}: lower optimization.learning_rate, lengthen "
                "optimization.warmup, or choose another optimization.mixed_precision"
            )
        epoch = progress.step / self.steps_per_epoch
        self._write(progress, kind="step", epoch=epoch, loss=loss, learning_rate=learning_rate, images_per_second=speed)
        self.restart(progress)
        return f"loss {loss:.3f}, {speed:.0f} images/s"

    def epoch(self, progress: Progress, scores: dict[str, float]):
        """Write the validation scores of the epoch that ended."""
        named = {f"validation_{name}": score for name, score in scores.items()}
        self._write(progress, kind="epoch", epoch=progress.epoch, **named)
        self.restart(progress)

    def _write(self, progress: Progress, kind: str, **values):
        self.accelerator.log(values, step=progress.step)
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"kind": kind, "step": progress.step, **values}) + "\n")

    def _forget_after(self, progress: Progress):
        # An interrupted run has logged more than its last checkpoint knows of, perhaps half a line.
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break
            done = entry["epoch"] <= progress.epoch if entry["kind"] == "epoch" else entry["step"] <= progress.step
            kept += [line + "\n"] if done else []
        self.path.write_text("".join(kept))
