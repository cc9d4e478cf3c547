"""Training that is really killed, at random moments, ends with the weights of a run that was not."""

import json
import random
import time

import pytest
import torch
from safetensors.torch import load_file

from lab.training.curves import read_metrics
from tests.processes import start, train_tiny
from tests.small_data import make_parquet

pytestmark = pytest.mark.slow

KILLS = 12
# All that a checkpoint has to hold: optimisers, schedules, average, order of the data, augmentation, dropout.
RECIPE = [
    "optimization.epochs=6",
    "optimization.optimizer=muon",
    "optimization.ema_decay=0.9",
    "optimization.gradient_accumulation_steps=2",
    "augmentation.crop_padding=2",
    "augmentation.horizontal_flip=true",
    "augmentation.trivial_augment=true",
    "augmentation.random_erasing=0.5",
    "augmentation.mixup_alpha=0.2",
    "augmentation.cutmix_alpha=1.0",
    "model.attention_probs_dropout_prob=0.2",
    "model.training_latents=[1,3]",
    "checkpoint.every_steps=1",
    "checkpoint.keep_last=1",
]


def test_killed_at_random_moments(tmp_path):
    parquet = make_parquet(tmp_path / "data")

    def run(name, *more):
        cache = f"data.cache_dir={tmp_path / 'cache'}"
        return start(train_tiny, *RECIPE, f"data.path={parquet}", f"output_dir={tmp_path / name}", cache, *more)

    def names(name="killed"):
        return sorted(path.name for path in (tmp_path / name / "checkpoints").glob("step-*"))

    whole = run("whole")
    while whole.is_alive() and not names("whole"):
        time.sleep(0.002)
    begun = time.monotonic()
    whole.join(timeout=240)
    assert whole.exitcode == 0
    step_time = (time.monotonic() - begun) / json.loads((tmp_path / "whole" / "metrics.json").read_text())["steps"]

    seed = time.time_ns()
    moments = random.Random(seed)
    steps = []
    for _ in range(KILLS):
        before, process = names(), run("killed", "--resume")
        while process.is_alive() and names() == before:
            time.sleep(0.002)
        # In a step, an evaluation or the writing of a checkpoint, however fast the machine is.
        time.sleep(moments.uniform(0, 3 * step_time))
        process.kill()
        process.join()
        steps.append(max([0, *(int(name[5:]) for name in names() if name.startswith("step-"))]))
        if (tmp_path / "killed" / "metrics.json").exists():
            break
    assert steps == sorted(steps), f"progress was lost, seed {seed}"
    assert len(set(steps)) > 3, f"too few kills in the middle of the run: {steps}"
    last = run("killed", "--resume")
    last.join(timeout=240)
    assert last.exitcode == 0, f"seed {seed}"

    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(weights[name], expected[name]) for name in expected), f"seed {seed}, killed at {steps}"
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("killed", "whole")]
    assert logs[0][1] == logs[1][1]
    assert [line["step"] for line in logs[0][0]] == [line["step"] for line in logs[1][0]]
    results = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("killed", "whole")]
    for key in ("best_epoch", "validation_accuracy", "test_accuracy", "test_loss", "steps"):
        assert results[0][key] == results[1][key]
