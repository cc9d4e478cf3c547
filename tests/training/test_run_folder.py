import dataclasses
import errno
import json
import time

import pytest
import torch
from accelerate import Accelerator

from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from lab.training import result
from lab.training.checkpoint import Progress, read_progress, save_checkpoint
from lab.training.result import explain_full_disk, save_result
from lab.training.run_folder import (
    LOG,
    RESULTS,
    TrainingLog,
    claim_output,
    find_start,
    keep_log_until,
    logged_changes,
    open_output,
    require_same_data,
)
from lab.training.utilization import Utilization
from modeling_perceiver_study import PerceiverStudyImageProcessor
from tests import checkpoints
from tests.models import small_model
from tests.processes import start
from tests.small_data import fresh_accelerate


@pytest.fixture
def recipe():
    return load_recipe(DEFAULT_RECIPE)


@pytest.fixture
def task():
    return build_task(load_recipe(DEFAULT_RECIPE, ["optimization.batch_size=8"]))


@pytest.fixture
def folder(tmp_path, recipe):
    claim_output(tmp_path / "run", recipe, None)
    return tmp_path / "run"


def add_checkpoint(folder, step=20, **progress):
    fresh_accelerate()
    save_checkpoint(Accelerator(cpu=True), folder, Progress(step=step, **progress), {}, keep_last=9)
    return folder / "checkpoints" / f"step-{step:08d}"


def build_log(task, path, steps_per_epoch, progress):
    fresh_accelerate()
    accelerator = Accelerator(cpu=True)
    utilization = Utilization(accelerator, task, task.build_model())
    return TrainingLog(accelerator, task, path, steps_per_epoch, progress, utilization)


def test_a_new_folder(tmp_path, recipe):
    assert find_start(tmp_path / "new", recipe, resume=False) == (None, False)
    assert find_start(tmp_path / "new", recipe, resume=True) == (None, False)
    claim_output(tmp_path / "new" / "deep", recipe, None)
    assert load_recipe(tmp_path / "new" / "deep" / "recipe.yaml") == recipe


def test_an_unfinished_run_is_not_thrown_away(folder, recipe):
    add_checkpoint(folder, 20)
    newest = add_checkpoint(folder, 40)
    with pytest.raises(UserError, match=r"unfinished run \(step-00000040\): add --resume"):
        find_start(folder, recipe, resume=False)
    assert find_start(folder, recipe, resume=True) == (newest, False)
    claim_output(folder, recipe, newest)
    assert newest.exists()


def test_a_finished_run(folder, recipe):
    add_checkpoint(folder)
    (folder / RESULTS).write_text("{}")
    assert find_start(folder, recipe, resume=True)[1]
    # The same recipe again gives the same result, so nothing is lost.
    assert find_start(folder, recipe, resume=False) == (None, False)
    claim_output(folder, recipe, None)
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.yaml"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_two_recipes_do_not_mix(folder, resume, finished):
    add_checkpoint(folder)
    if finished:
        (folder / RESULTS).write_text("{}")
    other = load_recipe(DEFAULT_RECIPE, ["seed=7", "logging.every_steps=3"])
    with pytest.raises(UserError, match=r"another recipe \(seed: 0 -> 7\): choose another output_dir"):
        find_start(folder, other, resume)
    if not resume:
        with pytest.raises(UserError, match="another recipe"):
            find_start(folder, other, resume, accept_changes=True)


def test_another_recipe_may_be_told_to_go_on(folder):
    checkpoint = add_checkpoint(folder)
    (folder / RESULTS).write_text("{}")
    said = []
    other = load_recipe(DEFAULT_RECIPE, ["optimization.epochs=70"])
    assert find_start(folder, other, True, accept_changes=True, report=said.append) == (checkpoint, False)
    assert said == ["the recipe has changed: optimization.epochs: 60 -> 70"]


def test_a_finished_run_without_checkpoints_is_not_thrown_away(folder):
    (folder / RESULTS).write_text("{}")
    other = load_recipe(DEFAULT_RECIPE, ["optimization.epochs=70"])
    with pytest.raises(UserError, match="without checkpoints to go on from: choose another output_dir"):
        find_start(folder, other, True, accept_changes=True)


def test_a_finished_run_that_was_changed_is_not_thrown_away(folder, recipe):
    """The same command would not give it again."""
    newest = add_checkpoint(folder)
    (folder / RESULTS).write_text("{}")
    other = load_recipe(DEFAULT_RECIPE, ["optimization.epochs=70"])
    claim_output(folder, other, newest)
    (folder / RESULTS).write_text("{}")
    with pytest.raises(UserError, match=r"whose recipe was changed on the way, .*: add --resume to keep it"):
        find_start(folder, other, resume=False)
    assert find_start(folder, other, resume=True) == (None, True)


@pytest.mark.parametrize("finished", [False, True])
def test_data_that_lie_elsewhere(folder, finished):
    """They may, where the checkpoint tells what they are; the caller compares."""
    moved = load_recipe(DEFAULT_RECIPE, ["data.path=/elsewhere", "data.name=other"])
    older = add_checkpoint(folder, 20)
    if finished:
        (folder / RESULTS).write_text("{}")
    with pytest.raises(UserError, match=r"another recipe \(data.name: .*data.path: .*--accept_changes"):
        find_start(folder, moved, resume=True)
    newest = add_checkpoint(folder, 40, data="a checksum")
    assert find_start(folder, moved, resume=True) == (newest, finished)
    require_same_data(newest, "a checksum")
    require_same_data(newest, "a checksum and-of-rows")  # of which only the first part was kept once
    for other in ("another", "a checksums"):
        with pytest.raises(UserError, match="was made with other data"):
            require_same_data(newest, other)
    with pytest.raises(UserError, match="another recipe"):
        find_start(folder, moved, resume=False)
    longer = dataclasses.replace(moved, optimization=dataclasses.replace(moved.optimization, epochs=70))
    with pytest.raises(UserError, match=r"another recipe \(optimization.epochs: 60 -> 70\): "):
        find_start(folder, longer, resume=True)
    assert find_start(folder, longer, True, accept_changes=True) == (newest, False) and older.exists()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"seed: [", b"sede: 3\n"])
@pytest.mark.parametrize("finished", [False, True])
def test_a_run_whose_recipe_is_damaged(folder, recipe, finished, content):
    (folder / RESULTS).write_text("{}") if finished else add_checkpoint(folder)
    path = folder / "recipe.yaml"
    path.unlink() if content is None else path.write_bytes(content)
    for resume in (False, True):
        with pytest.raises(UserError, match=r"recipe.yaml does not say which recipe the run in that folder has \(.+\)"):
            find_start(folder, recipe, resume)


def test_one_run_at_a_time_writes(tmp_path):
    fresh_accelerate()
    accelerator = Accelerator(cpu=True)
    for _ in range(2):
        with open_output(accelerator, tmp_path / "run"):
            message = "is being written to by another run: wait for its end, stop it, or choose another output_dir"
            with pytest.raises(UserError, match=message), open_output(accelerator, tmp_path / "run"):
                pass
            with open_output(accelerator, tmp_path / "other"):
                pass
        with pytest.raises(ZeroDivisionError), open_output(accelerator, tmp_path / "run"):
            raise ZeroDivisionError
    # Nor does a process that was killed keep the folder.
    process = start(hold, tmp_path / "run")
    while not (tmp_path / "run" / "held").exists():
        time.sleep(0.01)
    with pytest.raises(UserError, match="another run"), open_output(accelerator, tmp_path / "run"):
        pass
    process.kill()
    process.join()
    with open_output(accelerator, tmp_path / "run"):
        pass


def hold(folder):
    with open_output(Accelerator(cpu=True), folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(folder, recipe):
    older, newer = add_checkpoint(folder, 20), add_checkpoint(folder, 40)
    (newer / "progress.json").write_text("{}")
    said = []
    assert find_start(folder, recipe, resume=True, report=said.append) == (older, False)
    assert said == [f"{newer} is damaged (the content of progress.json has changed); trying the one before it"]
    # Gone before the run goes on: as the newest by name it would be kept in place of a good one.
    claim_output(folder, recipe, older)
    assert older.exists() and not newer.exists()


def test_changes_on_the_way_are_logged_without_paths(folder, recipe):
    newest = add_checkpoint(folder, 20)
    (folder / LOG).write_text('{"kind": "step", "step": 20}\n')
    claim_output(folder, recipe, newest)
    assert logged_changes(folder) == []
    (folder / RESULTS).write_text("{}")
    other = load_recipe(DEFAULT_RECIPE, ["optimization.epochs=70", "data.path=/home/me", "output_dir=/home/me/other"])
    claim_output(folder, other, newest)
    claim_output(folder, load_recipe(DEFAULT_RECIPE, ["optimization.epochs=80"]), newest)
    step, epochs = read_progress(newest).step, recipe.optimization.epochs
    assert logged_changes(folder) == [
        {"step": step, "changes": [f"optimization.epochs: {epochs} -> 70"], "after_the_end": True},
        {"step": step, "changes": ["optimization.epochs: 70 -> 80"], "after_the_end": False},
    ]
    assert "/home" not in (folder / LOG).read_text()


def test_only_damaged_checkpoints(folder, recipe):
    checkpoint = add_checkpoint(folder)
    next(checkpoint.glob("*.pkl")).unlink()
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged"):
        find_start(folder, recipe, resume=True)


def test_a_folder_that_cannot_be_written(tmp_path, recipe):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output_dir=.*file cannot be written to"):
        claim_output(tmp_path / "file", recipe, None)


def test_what_changed_is_logged_behind_half_a_line(folder, recipe):
    start = add_checkpoint(folder)
    (folder / LOG).write_text('{"kind": "step", "step": 10, "epoch": 1.0}\n{"kind": "st')
    changed = dataclasses.replace(recipe, optimization=dataclasses.replace(recipe.optimization, learning_rate=0.5))
    claim_output(folder, changed, start)
    assert [entry["step"] for entry in logged_changes(folder)] == [20]
    assert len((folder / LOG).read_text().splitlines()) == 2


def test_the_log_forgets_what_a_resumed_run_repeats(tmp_path):
    path = tmp_path / LOG
    lines = [
        {"kind": "step", "step": 10, "epoch": 1.0},
        {"kind": "epoch", "step": 10, "epoch": 1},
        {"kind": "step", "step": 20, "epoch": 2.0},
        {"kind": "epoch", "step": 20, "epoch": 2},
        {"kind": "step", "step": 30, "epoch": 3.0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "st')
    # Saved after step 20, before the evaluation that ends its epoch.
    keep_log_until(path, Progress(step=20, epoch=1))
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines[:3]


def test_means_since_the_last_line(tmp_path, task):
    progress = Progress()
    log = build_log(task, tmp_path / LOG, steps_per_epoch=4, progress=progress)
    for losses in ([1.0, 2.0, 6.0], [4.0]):
        for loss in losses:
            progress.step, progress.samples = progress.step + 1, progress.samples + 8
            log.add(log.loss.new_tensor(loss), progress)
        log.step(progress, learning_rate=0.5)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["loss"] for line in lines] == [3.0, 4.0]
    assert [line["epoch"] for line in lines] == [0.75, 1.0]
    for line in lines:
        assert line["samples_per_second"] > 0
        assert line["gflops_per_second"] == pytest.approx(log.utilization.flops * line["samples_per_second"] / 1e9)
        assert "utilization" not in line  # of a CPU nobody says the peak


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path, task, loss):
    log = build_log(task, tmp_path / LOG, 4, Progress())
    for step, value in enumerate([1.0, 1.0, 1.0, 1.0, 1.0, loss, 1.0, loss]):
        log.add(log.loss.new_tensor(value), Progress(step=step + 1))
    with pytest.raises(UserError, match=r"at step 6 \(batch 2 of epoch 2\).* Lower optimization\.learning_rate"):
        log.step(Progress(step=8, epoch=1, samples=4 * 8), learning_rate=0.5)


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("steps", [[], [20, 40]])
def test_a_full_disk_ends_a_run_with_what_is_kept_and_how_to_go_on(tmp_path, steps):
    for step in steps:
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    told = r"Kept: nothing. Make room, then run it again, from the start$"
    if steps:
        told = r"Kept: step-00000040, step-00000020. Make room, then add --resume to go on from step-00000040$"
    message = rf"{tmp_path} cannot be written to: the disk is full \(.*\). {told}"
    with pytest.raises(UserError, match=message), explain_full_disk(tmp_path):
        full_disk()
    with pytest.raises(FileNotFoundError), explain_full_disk(tmp_path):
        (tmp_path / "none").read_bytes()


@pytest.mark.parametrize("fails", ["weights", "code", "processor"])
def test_weights_come_first_and_are_kept_where_the_disk_is_full(tmp_path, monkeypatch, fails):
    """They load, while what came before in that folder, and what was half written, is gone."""
    model, processor = small_model(), PerceiverStudyImageProcessor()
    checkpoints.save_checkpoint(tmp_path)
    weights = {name: torch.full_like(tensor, 0.5) for name, tensor in model.state_dict().items()}
    where = {"weights": (result, "save_torch_state_dict"), "code": (model, "save_pretrained")}
    monkeypatch.setattr(*where.get(fails, (processor, "save_pretrained")), full_disk)
    kept = "nothing" if fails == "weights" else f"the trained weights, which {type(model).__name__}.from_pretrained"
    with pytest.raises(UserError, match=f"Kept: {kept}"), explain_full_disk(tmp_path):
        save_result(tmp_path, model, weights, processor, {})
    assert not (tmp_path / "metrics.json").exists() and not list(tmp_path.glob("tmp-*"))
    if fails == "weights":
        assert not (tmp_path / "model.safetensors").exists()
    else:
        found = type(model).from_pretrained(tmp_path)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in found.state_dict().items())
