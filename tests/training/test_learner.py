"""One step after another: what holds of optimisers that learn together."""

import itertools

import pytest
import torch

from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from lab.training.checkpoint import Progress
from lab.training.learner import Learner
from lab.training.loop import build_accelerator, training_loader
from tests.small_data import TINY_RUN, fresh_accelerate, make_parquet


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_parquet(tmp_path_factory.mktemp("learner") / "data")


def learned(data, scale, *options, steps=3, spoil=None):
    """`(learner, model)` after some steps; `spoil` is a weight of which the first gradient is infinite."""
    fresh_accelerate()
    task = build_task(load_recipe(DEFAULT_RECIPE, [*TINY_RUN, f"data.path={data}", *options]))
    splits, accelerator = task.load_splits(), build_accelerator(task)
    if scale is not None:  # as accelerate has it on GPUs alone
        accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        accelerator.unscale_gradients = lambda: [scaler.unscale_(each.optimizer) for each in learner.optimizers]
    torch.manual_seed(0)
    model = task.build_model()
    if spoil is not None:
        model.get_parameter(spoil).register_hook(lambda gradient: gradient * float("inf"))
    learner = Learner(accelerator, task, model)
    taken = learner.steps(training_loader(accelerator, task.recipe, splits.train), Progress())
    for _ in itertools.islice(taken, steps):
        pass
    return learner, model


@pytest.mark.parametrize("limit", ["0.05", "null"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_scale_of_a_loss_changes_nothing(data, optimizer, parts, limit):
    options = [f"optimization.optimizer={optimizer}", f"optimization.max_gradient_norm={limit}"]
    options.append(f"optimization.gradient_accumulation_steps={parts}")
    _, expected = learned(data, None, *options)
    learner, found = learned(data, 2.0**12, *options)
    assert len(learner.optimizers) == (2 if optimizer == "muon" else 1)
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spoil", ["perceiver.latents.weight", "perceiver.blocks.0.0.mlp.fc1.weight"])
def test_after_an_overflow_no_optimizer_takes_its_step(data, spoil):
    """The first of these weights is learned by AdamW, the second by Muon."""
    options = ["optimization.optimizer=muon"]
    _, before = learned(data, 8.0, *options, steps=0)
    learner, after = learned(data, 8.0, *options, steps=1, spoil=spoil)
    torch.testing.assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)
    assert learner.accelerator.scaler.get_scale() == 4.0
