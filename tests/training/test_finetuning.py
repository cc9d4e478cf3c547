"""Runs that start from a checkpoint, and weights that stay or learn slowly."""

import json
import shutil

import datasets
import pytest
import torch
from safetensors.torch import load_file

import train
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, Optimization, load_recipe
from lab.tasks import build_task
from lab.training import loop
from lab.training.checkpoint import Progress
from lab.training.learner import Learner, schedule
from lab.training.loop import build_accelerator, training_loader
from lab.training.optimization import build_optimizers, depths, freeze, frozen_norms
from modeling_perceiver_study import PerceiverStudyForImageClassification
from tests.checkpoints import save_checkpoint
from tests.models import small_model
from tests.small_data import TINY_RUN, fresh_accelerate, make_parquet

pytestmark = pytest.mark.slow

# What a run needs beside the model, which comes from the checkpoint.
SHORT = [option for option in TINY_RUN if not option.startswith(("model.", "image_processor."))]
LATENTS = "perceiver.latents.weight"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return make_parquet(tmp_path / "data")


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", "model.attention_probs_dropout_prob=0.1")
    return tmp_path / "checkpoint"


@pytest.fixture
def run(tmp_path, data, checkpoint):
    """Fine-tune in this process: `run(name, *overrides)` returns the output folder of that name."""
    empty = tmp_path / "recipe.yaml"
    empty.write_text("data: {name: null}\n")

    def run(name, *overrides):
        fresh_accelerate()
        options = ["--config", str(empty), *SHORT, f"data.path={data}", f"pretrained={checkpoint}"]
        train.main([*options, f"output_dir={tmp_path / name}", *overrides])
        return tmp_path / name

    return run


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_run_starts_from_the_checkpoint_and_says_so(run, checkpoint, capsys):
    """With a learning rate of 0 it ends with the checkpoint's weights."""
    folder = run("still", "optimization.learning_rate=0", "optimization.epochs=1")
    before, after = weights(checkpoint), weights(folder)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert f"starting from {checkpoint}" in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["pretrained"] == {"name": str(checkpoint), "revision": None, "made_anew": [], "resampled": []}
    written = load_recipe(folder / "recipe.yaml")
    assert written.pretrained == str(checkpoint) and written.model["d_latents"] == 16


def test_fewer_latents_in_each_step_are_inherited_and_said(checkpoint, tmp_path, run, capsys):
    model = PerceiverStudyForImageClassification.from_pretrained(checkpoint)
    model.config.training_latents = [2, 3]
    elastic = shutil.copytree(checkpoint, tmp_path / "elastic")
    model.save_pretrained(elastic)
    run("fewer", "optimization.epochs=1", f"pretrained={elastic}")
    assert "in training steps model.training_latents=[2, 3]; null computes all" in capsys.readouterr().out
    run("all", "optimization.epochs=1", f"pretrained={elastic}", "model.training_latents=null")
    said = capsys.readouterr().out
    assert "model.training_latents=None (the checkpoint has [2, 3])" in said and "in training steps" not in said


def test_a_resumed_run_needs_no_checkpoint(run, checkpoint, monkeypatch):
    """And ends with the same weights; settings are those that it began with, whatever is in that folder now."""
    options = ["checkpoint.every_steps=1", "checkpoint.keep_last=1", f"optimization.freeze=[{LATENTS}]"]
    options += ["optimization.ema_decay=0.5", "optimization.layer_decay=0.7", "optimization.optimizer=muon"]
    options += ["model.image_size=6", "model.local_start_width=null"]
    whole = run("whole", *options)
    save = loop.save_checkpoint

    def save_and_die(accelerator, output_dir, progress, *arguments):
        save(accelerator, output_dir, progress, *arguments)
        if progress.step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run("stopped", *options)
    shutil.rmtree(checkpoint)
    resumed = run("stopped", *options, "--resume")
    ours, theirs = weights(whole), weights(resumed)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    results = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, resumed)]
    assert results[0]["pretrained"] == results[1]["pretrained"]
    for name in ("test_accuracy", "test_loss", "steps"):
        assert results[0][name] == results[1][name]


def test_a_new_run_in_the_folder_reads_the_checkpoint_again(run, checkpoint):
    """Without --resume: what the last run began with does not count."""
    options = ["optimization.epochs=1", "optimization.learning_rate=0"]
    first = weights(run("again", *options))
    model = PerceiverStudyForImageClassification.from_pretrained(checkpoint)
    torch.nn.init.normal_(model.perceiver.latents.weight)
    model.save_pretrained(checkpoint)
    second = weights(run("again", *options))
    assert not torch.equal(first[LATENTS], second[LATENTS])
    assert torch.equal(second[LATENTS], model.perceiver.latents.weight)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("average", ["null", "0.5"])
def test_frozen_weights_stay_to_the_bit(run, checkpoint, optimizer, average):
    patterns = "[perceiver.latents.*,'*.q_proj.*',perceiver.blocks.*]"
    options = [f"optimization.freeze={patterns}", f"optimization.ema_decay={average}", "optimization.weight_decay=0.1"]
    folder = run("frozen", *options, f"optimization.optimizer={optimizer}", "optimization.gradient_checkpointing=true")
    before, after = weights(checkpoint), weights(folder)
    for name in before:
        if name.endswith("k_proj.bias"):
            continue  # never trained: softmax cancels it
        frozen = name.startswith(("perceiver.latents.", "perceiver.blocks.")) or ".q_proj." in name
        assert torch.equal(before[name], after[name]) == frozen, name


def test_a_frozen_batch_norm_keeps_its_statistics(data):
    options = [*TINY_RUN, f"data.path={data}", "model.stem_type=conv", "model.stem_channels=4", "model.image_size=12"]
    options += ["optimization.freeze=[perceiver.inputs.*]"]
    fresh_accelerate()
    task = build_task(load_recipe(DEFAULT_RECIPE, options))
    splits, accelerator = task.load_splits(), build_accelerator(task)
    model = task.build_model()
    before = {name: tensor.clone() for name, tensor in model.perceiver.inputs.state_dict().items()}
    learner = Learner(accelerator, task, model)
    assert len(list(learner.steps(training_loader(accelerator, task.recipe, splits.train), Progress()))) == 6
    after = model.perceiver.inputs.state_dict()
    assert "stem.batchnorm.running_mean" in after
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert frozen_norms(small_model(stem_type="conv", image_size=12)) == []


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["perceiver.latent"],
            r"optimization.freeze: no weight is called 'perceiver.latent'; names are such as per",
        ),
        (["classifier.*", "nothing*"], r"no weight is called 'nothing\*'"),
        (["*"], r"optimization.freeze=\['\*'\] leaves nothing to train"),
    ],
)
def test_patterns_that_cannot_be_meant(patterns, message):
    with pytest.raises(UserError, match=message):
        freeze(small_model(), patterns)


def test_frozen_weights_are_in_no_optimiser():
    model = small_model()
    freeze(model, ["perceiver.*"])
    (adamw,) = build_optimizers(model, Optimization(optimizer="muon"), "classifier")  # Muon has nothing to do
    held = {id(parameter) for group in adamw.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.classifier.parameters()}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # The loop of the model: cross, self, self; cross, self, self; cross, self, self; the last two crosses are one.
        (
            {},
            {"blocks.0.1": 1, "blocks.0.0": 2, "cross_attends.1": 3, "cross_attends.0": 4, "latents": 5},
        ),
        (
            {"share_block_weights": False, "share_cross_attend_weights": False, "decoder_type": "query"},
            {
                **{"blocks.2.1": 1, "blocks.2.0": 2, "cross_attends.2": 3, "blocks.1.1": 4, "blocks.1.0": 5},
                **{"cross_attends.1": 6, "blocks.0.1": 7, "blocks.0.0": 8, "cross_attends.0": 9, "latents": 10},
            },
        ),
        (
            {"num_blocks": 1, "num_cross_attends": 1, "position_encoding_type": "learned"},
            {"blocks.0.1": 1, "blocks.0.0": 2, "cross_attends.0": 3, "latents": 4, "inputs": 4},
        ),
    ],
)
def test_depths_count_layers_from_the_head(fields, expected):
    found = depths(small_model(**fields))
    for name, depth in found.items():
        inner = name.removeprefix("perceiver.")
        if inner == name:
            assert depth == 0, name  # the classifier, and a decoder before it
        else:
            assert depth == next(value for start, value in expected.items() if inner.startswith(f"{start}.")), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_layer_learns_at_its_own_rate(optimizer):
    model = small_model()
    settings = Optimization(optimizer=optimizer, learning_rate=0.1, layer_decay=0.5, weight_decay=0.3)
    rates, decays = {}, {}
    for one in build_optimizers(model, settings, "classifier"):
        for group in one.param_groups:
            rates |= {id(parameter): group["lr"] for parameter in group["params"]}
            decays |= {id(parameter): group["weight_decay"] for parameter in group["params"]}
    found = depths(model)
    linear = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert rates.pop(id(parameter)) == pytest.approx(0.1 * 0.5 ** found[name]), name
        assert decays[id(parameter)] == (0.3 if id(parameter) in linear else 0.0), name
    assert not rates


def test_rates_of_layers_follow_the_schedule(data):
    fresh_accelerate()
    options = [*TINY_RUN, f"data.path={data}", "optimization.layer_decay=0.5", "optimization.optimizer=muon"]
    task = build_task(load_recipe(DEFAULT_RECIPE, options))
    splits, accelerator = task.load_splits(), build_accelerator(task)
    learner = Learner(accelerator, task, task.build_model())
    wanted = [[group["lr"] for group in groups] for groups in learner.groups]
    for _ in learner.steps(training_loader(accelerator, task.recipe, splits.train), progress := Progress()):
        factor = schedule((progress.samples - 8) / 48 / 2, 0.1)
        for optimizer, rates in zip(learner.optimizers, wanted, strict=True):
            found = [group["lr"] for group in optimizer.param_groups]
            assert found == pytest.approx([rate * factor for rate in rates])
    assert (
        len({rate for rates in wanted for rate in rates}) == 4
    )  # the head, the self-attend, the cross-attend, the latents
