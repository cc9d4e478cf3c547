import contextlib
import os
import pickle
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from lab.errors import UserError
from lab.training.checkpoint import (
    Progress,
    checkpoints,
    find_damage,
    last_good_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from tests.small_data import fresh_accelerate


@pytest.fixture
def accelerator():
    fresh_accelerate()
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(3, 2)
    accelerator.model, accelerator.optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    return accelerator


def take_step(accelerator):
    accelerator.model(torch.randn(4, 3)).square().sum().backward()
    accelerator.optimizer.step()


def last(folder):
    return last_good_checkpoint(folder, report=pytest.fail)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_everything_comes_back(accelerator, tmp_path):
    take_step(accelerator)
    progress = Progress(
        step=7, epoch=2, samples=16, best_epoch=1, best_scores={"accuracy": 0.5, "loss": 0.25}, seconds=3.5
    )
    best = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    average = {"weight": torch.randn(2, 3)}
    save_checkpoint(accelerator, tmp_path, progress, {"best": best, "average": average}, keep_last=2)
    weights = {name: tensor.clone() for name, tensor in accelerator.model.state_dict().items()}
    noise = torch.randn(3)
    take_step(accelerator)

    loaded, tensors = load_checkpoint(accelerator, last(tmp_path))
    assert loaded == progress
    assert tensors.keys() == {"best", "average"}
    assert tensors["best"].keys() == best.keys()
    assert all(torch.equal(tensors["best"][name], best[name]) for name in best)
    assert torch.equal(tensors["average"]["weight"], average["weight"])
    assert all(torch.equal(tensor, weights[name]) for name, tensor in accelerator.model.state_dict().items())
    assert accelerator.optimizer.state_dict()["state"][0]["step"] == 1
    assert torch.equal(torch.randn(3), noise)


def test_without_a_best_epoch_yet(accelerator, tmp_path):
    save_checkpoint(accelerator, tmp_path, Progress(step=1), {"best": None}, keep_last=2)
    assert load_checkpoint(accelerator, last(tmp_path)) == (Progress(step=1), {})


def test_the_last_ones_are_kept(accelerator, tmp_path):
    assert last(tmp_path) is None
    for step in (9, 10, 100):
        save_checkpoint(accelerator, tmp_path, Progress(step=step), {}, keep_last=2)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]
    assert last(tmp_path).name == "step-00000100"


def test_saving_the_same_step_again_replaces_it(accelerator, tmp_path):
    for epoch in (0, 1):
        save_checkpoint(accelerator, tmp_path, Progress(step=5, epoch=epoch), {}, keep_last=2)
    assert names(tmp_path) == ["step-00000005"]
    assert load_checkpoint(accelerator, last(tmp_path))[0].epoch == 1


def test_an_interrupted_one_is_not_seen(accelerator, tmp_path, monkeypatch):
    save_checkpoint(accelerator, tmp_path, Progress(step=5), {}, keep_last=1)

    def die(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(accelerator, tmp_path, Progress(step=6), {}, keep_last=1)
    assert names(tmp_path) == ["step-00000005", "tmp-step-00000006"]
    assert last(tmp_path).name == "step-00000005"
    assert load_checkpoint(accelerator, last(tmp_path))[0].step == 5

    save_checkpoint(accelerator, tmp_path, Progress(step=6), {}, keep_last=1)
    assert names(tmp_path) == ["step-00000006"]


@pytest.fixture
def small_files():
    """Writing beyond 64 KiB fails, as on a full disk, but for one's own account and without one."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("full_at", ["own tensors", "model"])
def test_a_full_disk_leaves_the_last_one(accelerator, tmp_path, small_files, full_at):
    save_checkpoint(accelerator, tmp_path, Progress(step=5), {}, keep_last=1)
    large = torch.zeros(2**16)
    if full_at == "model":
        accelerator.model.register_buffer("large", large)
    with pytest.raises(UserError, match=r"step-00000006 cannot be written \(.*\)\. Kept: step-00000005\. Make room"):
        save_checkpoint(accelerator, tmp_path, Progress(step=6), {"best": {"large": large}}, keep_last=1)
    assert names(tmp_path) == ["step-00000005"]
    assert find_damage(last(tmp_path)) is None


def test_nothing_is_unpickled(accelerator, tmp_path):
    """Whichever file is exchanged for a pickle that runs code, checksums made to fit, the code does not run."""
    save_checkpoint(accelerator, tmp_path, Progress(step=5), {"best": {"weight": torch.zeros(2)}}, keep_last=1)
    checkpoint = checkpoints(tmp_path)[0]
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (ran,)

    files = [path for path in checkpoint.iterdir() if path.suffix in (".bin", ".pkl", ".pt")]
    assert {path.name for path in files} >= {"optimizer.bin", "random_states_0.pkl"}
    for path in files:
        honest = path.read_bytes()
        for dump in (torch.save, lambda evil, path: path.write_bytes(pickle.dumps(evil, protocol=2))):
            dump(Evil(), path)
            with contextlib.suppress(UserError, RuntimeError):
                load_checkpoint(accelerator, checkpoint)
            assert not ran.exists(), path.name
        path.write_bytes(honest)
    load_checkpoint(accelerator, checkpoint)


@pytest.mark.parametrize("had_one", [False, True])
def test_a_run_may_go_on_in_float16(tmp_path, had_one):
    """accelerate has a scaler on GPUs alone, so here it is given one."""
    fresh_accelerate()
    accelerator = Accelerator(cpu=True)
    if had_one:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    save_checkpoint(accelerator, tmp_path, Progress(step=1), {}, keep_last=1)
    accelerator.scaler = fresh = torch.amp.GradScaler("cpu", init_scale=2.0)
    load_checkpoint(accelerator, tmp_path / "checkpoints" / "step-00000001")
    assert accelerator.scaler is fresh
    assert fresh.state_dict()["scale"] == (8.0 if had_one else 2.0)
