"""The folder of a run: who may write into it, and the log of metrics."""

import json
import math
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout

from lab.changes import PLACES, refusals
from lab.checkpoint_names import LOG, RESULTS
from lab.errors import UserError, one_line
from lab.provenance import describe_hardware
from lab.recipe import Recipe, differences, load_recipe, recipe_to_yaml
from lab.scoring.measures import measure_of
from lab.tasks.pretrained import PRETRAINED
from lab.tasks.task import Task
from lab.training.checkpoint import Progress, checkpoints, delete_newer, last_good_checkpoint, read_progress
from lab.training.curves import draw_curves
from lab.training.utilization import Utilization
from lab.writing import write_atomically

EPOCHS = "train.log"  # a line for each epoch, for people
_LOCK = ".lock"  # held while a run writes; it stays, as an empty file
_SECONDS_BETWEEN_PICTURES = 60.0  # one takes as long as an epoch of a small model
_ATTEMPTS, _SECONDS_BETWEEN = 20, 0.5  # to see a file that another machine has written


@contextmanager
def open_output(accelerator: Accelerator, output_dir: Path) -> Iterator[None]:
    """Make the folder of a run, see that all processes have the same one, and keep other runs out of it meanwhile.

    All processes call it together.

    Raises:
        UserError: it cannot be written to, another run writes to it, or the processes of some machine do not see it.
    """
    marker = [f"tmp-{uuid.uuid4().hex}", None]
    lock = FileLock(output_dir / _LOCK, timeout=0)
    if accelerator.is_main_process:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            (output_dir / marker[0]).touch()
        except Timeout:
            marker[1] = "is being written to by another run: wait for its end, stop it, or choose another output_dir"
        except OSError as error:
            marker[1] = f"cannot be written to: {error}"
    try:
        broadcast_object_list(marker)
        name, problem = marker
        if problem is not None:
            raise UserError(f"output_dir={output_dir} {problem}")
        blind = [] if _appears(output_dir / name) else [f"process {accelerator.process_index} on {platform.node()}"]
        blind = gather_object(blind)
        if accelerator.is_main_process:
            (output_dir / name).unlink()
        if blind:
            raise UserError(
                f"output_dir={output_dir} is not one folder for all processes: what the first one writes there is not "
                f"seen by {', '.join(blind)}. Checkpoints need a folder that all machines share, by the same absolute "
                "path"
            )
        yield
    finally:
        lock.release()


def _appears(path: Path) -> bool:
    # A network's file system may show a new file late.
    for _ in range(_ATTEMPTS):
        if path.exists():
            return True
        time.sleep(_SECONDS_BETWEEN)
    return False


def begun_recipe(output_dir: Path) -> Recipe | None:
    """The recipe of the run that a folder holds, finished or not; None where it holds none.

    Raises:
        UserError: recipe.yaml is gone or cannot be read.
    """
    if not checkpoints(output_dir) and not (output_dir / RESULTS).exists():
        return None
    path = output_dir / "recipe.yaml"
    try:
        if not path.exists() or not path.read_text(encoding="utf-8").strip():
            raise UserError("it is missing or empty")
        return load_recipe(path)
    except (UserError, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} does not say which recipe the run in that folder has ({one_line(error)}): put the file back, "
            "choose another output_dir, or delete that folder"
        ) from None


def find_start(
    output_dir: Path,
    recipe: Recipe,
    resume: bool,
    accept_changes: bool = False,
    report: Callable[[str], None] = print,
) -> tuple[Path | None, bool]:
    """The checkpoint to continue from, if any, and whether the run is finished already.

    Data that lie elsewhere are no change of the recipe where the checkpoint tells what data it was made with: it is to
    be given to `require_same_data`, also that of a finished run, which is returned only then.

    Args:
        accept_changes: resume although the recipe is another; `report` hears what differs.

    Raises:
        UserError: going on would mix two runs or throw one away.
    """
    begun, finished = begun_recipe(output_dir), (output_dir / RESULTS).exists()
    if begun is None:
        return None, False
    differing, start = differences(begun, recipe), None
    way_out = "choose another output_dir, or delete that folder"
    if resume and (differing or not finished):
        start = last_good_checkpoint(output_dir, report)
        if start is not None and read_progress(start).data is not None:
            differing = {key: line for key, line in differing.items() if key not in PLACES}
    changed, refused = "; ".join(differing.values()), ", ".join(refusals(differing, recipe.task))
    if refused or (changed and not (resume and accept_changes)):
        more = ""
        if resume and refused:
            more = f". A run cannot go on with another value of {refused}"
        elif resume:
            more = ", or resume nevertheless with --accept_changes"
        raise UserError(f"{output_dir} holds a run of another recipe ({changed}): {way_out}{more}")
    if not resume:
        if not finished:
            newest = checkpoints(output_dir)[0].name
            raise UserError(f"{output_dir} holds an unfinished run ({newest}): add --resume to continue, {way_out}")
        if logged_changes(output_dir):
            raise UserError(
                f"{output_dir} holds a finished run whose recipe was changed on the way, so another would not be the "
                f"same: add --resume to keep it, {way_out}"
            )
        return None, False
    if changed:
        if start is None:
            raise UserError(f"{output_dir} holds a finished run without checkpoints to go on from: {way_out}")
        report(f"the recipe has changed: {changed}")
        finished = False
    if start is not None and not finished:
        _require_epochs(recipe, start)
    return start, finished


def _require_epochs(recipe: Recipe, start: Path):
    done = read_progress(start).epoch
    if recipe.optimization.epochs < done:
        raise UserError(
            f"optimization.epochs={recipe.optimization.epochs}, but {start} comes after {done} epochs: "
            f"{done} ends the run there, with the best of them"
        )


def require_same_data(start: Path, data: str):
    """Refuse to go on from a checkpoint with other data, by what `identity` says of them.

    Raises:
        UserError: they are not those of the checkpoint.
    """
    known = read_progress(start).data
    if known is not None and not f"{data} ".startswith(f"{known} "):  # of streams once only a part was kept
        raise UserError(
            f"{start} was made with other data: the samples that data.path or data.name give now, their labels or "
            "their order are not those that the run began with. Give it that data, or choose another output_dir"
        )


def claim_output(output_dir: Path, recipe: Recipe, start: Path | None):
    """Make the folder ready for a run from checkpoint `start`, or from the beginning if that is None.

    Where the recipe of a run that goes on has changed, its log says so.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        if start is not None:
            keep_log_until(output_dir / LOG, read_progress(start))
            _log_changes(output_dir, recipe, start)
        (output_dir / RESULTS).unlink(missing_ok=True)
        if start is None:
            shutil.rmtree(output_dir / "checkpoints", ignore_errors=True)
            for name in (LOG, EPOCHS, PRETRAINED):
                (output_dir / name).unlink(missing_ok=True)
        else:
            delete_newer(output_dir, start)
        write_atomically(output_dir / "recipe.yaml", recipe_to_yaml(recipe))
    except OSError as error:
        raise UserError(f"output_dir={output_dir} cannot be written to: {error}") from None


def _log_changes(output_dir: Path, recipe: Recipe, start: Path):
    changed = differences(load_recipe(output_dir / "recipe.yaml"), recipe)
    # Where data lie is nobody's business, and that they are the same is checked.
    lines = [line for key, line in changed.items() if key not in PLACES]
    if lines:
        entry = {"kind": "changed", "step": read_progress(start).step, "changes": lines}
        entry["after_the_end"] = (output_dir / RESULTS).exists()
        with (output_dir / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def keep_log_until(path: Path, progress: Progress):
    """Forget what a log says of later steps: an interrupted run has logged more than its last checkpoint knows of.

    It may end in half a line, behind which nothing can be written.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        done = entry["epoch"] <= progress.epoch if entry["kind"] == "epoch" else entry["step"] <= progress.step
        kept += [line + "\n"] if done else []
    write_atomically(path, "".join(kept))


def logged_changes(output_dir: Path) -> list[dict]:
    """What was changed of the recipe on the way: `step`, `changes`, and whether that was `after_the_end` of a run."""
    log = output_dir / LOG
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    names = ("step", "changes", "after_the_end")
    return [{name: entry[name] for name in names} for entry in entries if entry["kind"] == "changed"]


class TrainingLog:
    """Mean loss and speed, as lines of `metrics.jsonl` and to trackers."""

    def __init__(
        self,
        accelerator: Accelerator,
        task: Task,
        path: Path,
        steps_per_epoch: int,
        progress: Progress,
        utilization: Utilization,
    ):
        self.accelerator = accelerator
        self.task = task
        self.path = path
        self.batch_size = task.recipe.optimization.batch_size
        self.steps_per_epoch = steps_per_epoch
        self.utilization = utilization
        # A sum on the device: reading it at every step would wait for the device at every step.
        self.loss = torch.zeros((), device=accelerator.device)
        self.first_bad = torch.full((), float("inf"), device=accelerator.device)
        self.drawn, self.undrawn = time.perf_counter(), False
        self.restart(progress)

    def restart(self, progress: Progress):
        """Begin to average at this step and moment."""
        self.loss.zero_()
        self.since_step, self.since = progress.step, time.perf_counter()

    def add(self, loss: torch.Tensor, progress: Progress):
        """Count in the loss of the last step."""
        self.loss += loss
        self.first_bad = torch.where(loss.isfinite(), self.first_bad, self.first_bad.clamp(max=progress.step))

    def check(self, progress: Progress):
        """Refuse to go on from a loss that is not a number; called where waiting for the device is cheap.

        Raises:
            UserError: some loss was NaN or infinite; names the step and the batch of the epoch.
        """
        first_bad = self.first_bad.item()
        if first_bad < float("inf"):
            first_bad = int(first_bad)
            # Samples of the epoch up to the end of that batch: an epoch ends with a check, so it is still the same one.
            samples = progress.samples - (progress.step - first_bad) * self.batch_size
            batch = math.ceil(samples / self.batch_size)
            raise UserError(
                f"the loss is NaN or infinite at step {first_bad} (batch {batch} of epoch {progress.epoch + 1}); "
                "checkpoints from before it are kept. Lower optimization.learning_rate, lengthen optimization.warmup, "
                "or choose another optimization.mixed_precision, then --resume --accept_changes"
            )

    def start(self, progress: Progress):
        """Write where training starts or goes on: the precision and the hardware."""
        if self.accelerator.is_main_process:
            precision, hardware = self.accelerator.mixed_precision, describe_hardware(self.accelerator)
            self._append(progress, kind="start", mixed_precision=precision, hardware=hardware)

    def step(self, progress: Progress, learning_rate: float) -> str:
        """Write the means since the last line; returns them as text. All processes call it together."""
        self.check(progress)
        steps = progress.step - self.since_step
        loss = self.accelerator.reduce(self.loss, "mean").item() / steps
        speed = steps * self.batch_size / (time.perf_counter() - self.since)
        # At most 1: an epoch that began with another batch size may have a few samples more.
        epoch = progress.epoch + min(1.0, progress.samples / (self.steps_per_epoch * self.batch_size))
        values = {"loss": loss, "learning_rate": learning_rate, "samples_per_second": speed}
        values |= self.utilization.of(speed)
        self._write(progress, kind="step", epoch=epoch, **values)
        self.restart(progress)
        return f"loss {loss:.3f}, rate {learning_rate:.2g}, {speed:.0f} {self.task.samples}/s"

    def epoch(self, progress: Progress, scores: dict[str, float] | None) -> str:
        """Write the validation scores of the epoch that ended, if any; returns them as text.

        Now and then draw the curves.
        """
        named = {f"validation_{name}": score for name, score in (scores or {}).items()}
        self._write(progress, kind="epoch", epoch=progress.epoch, **named)
        text = f"epoch {progress.epoch}"
        if scores is not None:
            measure, best = measure_of(self.task.best), self.task.best
            now, then = measure.write(scores[best]), measure.write(progress.best_scores[best])
            text += f": validation {measure.title} {now} (best {then}, epoch {progress.best_epoch})"
            text += f", loss {scores['loss']:.4f}"
        if self.accelerator.is_main_process:
            with self.path.with_name(EPOCHS).open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self.undrawn = True
        if time.perf_counter() - self.drawn > _SECONDS_BETWEEN_PICTURES:
            self.draw()
        self.restart(progress)
        return text

    def draw(self):
        """Draw the curves of what is written so far, if an epoch is new."""
        if self.undrawn and self.accelerator.is_main_process:
            picture = self.path.with_name("curves.png")
            draw_curves(self.path, picture, title=self.path.parent.name, best=self.task.best)
        self.drawn, self.undrawn = time.perf_counter(), False

    def _write(self, progress: Progress, kind: str, **values):
        self.accelerator.log(values, step=progress.step)
        if self.accelerator.is_main_process:
            self._append(progress, kind, **values)

    def _append(self, progress: Progress, kind: str, **values):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": progress.step, **values}) + "\n")
