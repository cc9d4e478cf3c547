import os

import pytest
import torch
from accelerate import Accelerator

from checkpoint import Progress, last_checkpoint, load_checkpoint, save_checkpoint
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


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_everything_comes_back(accelerator, tmp_path):
    take_step(accelerator)
    progress = Progress(step=7, epoch=2, best_epoch=1, best_accuracy=0.5, best_loss=0.25, seconds=3.5)
    best = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    save_checkpoint(accelerator, tmp_path, progress, best, keep_last=2)
    weights = {name: tensor.clone() for name, tensor in accelerator.model.state_dict().items()}
    noise = torch.randn(3)
    take_step(accelerator)

    loaded, loaded_best = load_checkpoint(accelerator, last_checkpoint(tmp_path))
    assert loaded == progress
    assert loaded_best.keys() == best.keys()
    assert all(torch.equal(loaded_best[name], best[name]) for name in best)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in accelerator.model.state_dict().items())
    assert accelerator.optimizer.state_dict()["state"][0]["step"] == 1
    assert torch.equal(torch.randn(3), noise)


def test_without_a_best_epoch_yet(accelerator, tmp_path):
    save_checkpoint(accelerator, tmp_path, Progress(step=1), None, keep_last=2)
    assert load_checkpoint(accelerator, last_checkpoint(tmp_path)) == (Progress(step=1), None)


def test_the_last_ones_are_kept(accelerator, tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10, 100):
        save_checkpoint(accelerator, tmp_path, Progress(step=step), None, keep_last=2)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]
    assert last_checkpoint(tmp_path).name == "step-00000100"


def test_saving_the_same_step_again_replaces_it(accelerator, tmp_path):
    for epoch in (0, 1):
        save_checkpoint(accelerator, tmp_path, Progress(step=5, epoch=epoch), None, keep_last=2)
    assert names(tmp_path) == ["step-00000005"]
    assert load_checkpoint(accelerator, last_checkpoint(tmp_path))[0].epoch == 1


def test_an_interrupted_one_is_not_seen(accelerator, tmp_path, monkeypatch):
    save_checkpoint(accelerator, tmp_path, Progress(step=5), None, keep_last=1)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(accelerator, tmp_path, Progress(step=6), None, keep_last=1)
    assert names(tmp_path) == ["step-00000005", "tmp-step-00000006"]
    assert last_checkpoint(tmp_path).name == "step-00000005"
    assert load_checkpoint(accelerator, last_checkpoint(tmp_path))[0].step == 5

    save_checkpoint(accelerator, tmp_path, Progress(step=6), None, keep_last=1)
    assert names(tmp_path) == ["step-00000006"]
