import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import train
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.release.staging import read_metrics as read_published_metrics
from lab.training import loop, precision, run_folder
from lab.training.curves import draw_curves, read_metrics
from modeling_perceiver_study import PerceiverStudyForImageClassification, PerceiverStudyImageProcessor
from tests.paths import SCRIPTS
from tests.small_data import CLASSES, TINY_RUN, coloured_images, fresh_accelerate, make_parquet

pytestmark = pytest.mark.slow

# Whatever a resumed run could get wrong.
RESUMABLE = [
    "optimization.optimizer=muon",
    "optimization.epochs=3",
    "checkpoint.every_steps=1",
    "checkpoint.keep_last=1",
    "augmentation.random_resized_crop=[0.3,1.0]",
    "augmentation.crop_padding=2",
    "augmentation.horizontal_flip=true",
    "model.attention_probs_dropout_prob=0.2",
    "model.classifier_dropout=0.2",
    "optimization.gradient_accumulation_steps=2",
]
DECAY_0 = "optimization.ema_decay=0"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train in this process: `run(name, *overrides)` returns the output folder of that name."""
    folder = tmp_path_factory.mktemp("train")
    parquet = make_parquet(folder / "data")

    def run(name, *overrides):
        fresh_accelerate()
        train.main([*TINY_RUN, f"data.path={parquet}", f"output_dir={folder / name}", *overrides])
        return folder / name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        run.folder = folder
        yield run


@pytest.fixture(scope="module")
def whole(run):
    """A run without interruption."""
    return run("whole", *RESUMABLE)


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(folder, other):
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_ends_with_a_complete_checkpoint(run, capsys):
    folder = run("complete", "augmentation.crop_padding=1", "optimization.epochs=6", "data.title=Squares")
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_perceiver_study.py"} <= files
    assert {"recipe.yaml", "metrics.json", "metrics.jsonl", "curves.png"} <= files
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {str(label): name for label, name in enumerate(CLASSES)}
    assert "AutoModelForImageClassification" in config["auto_map"]
    assert load_recipe(folder / "recipe.yaml").augmentation["crop_padding"] == 1

    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test_accuracy"] > 0.8
    assert (metrics["test_samples"], metrics["train_samples"], metrics["validation_samples"]) == (21, 48, 12)
    assert metrics["steps"] == 6 * (48 // 8)
    steps, epochs = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in steps] == list(range(2, 37, 2))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert max(line["validation_accuracy"] for line in epochs) == metrics["validation_accuracy"]
    assert epochs[metrics["best_epoch"] - 1]["validation_accuracy"] == metrics["validation_accuracy"]
    said = capsys.readouterr().out
    assert "is called 'Squares': if it is not, set data.title" in said
    assert f"{100 * metrics['test_accuracy']:.2f} % on 21 test images of Squares" in said

    # The reported accuracy is that of the folder, used as anybody would.
    model = PerceiverStudyForImageClassification.from_pretrained(folder).eval()
    images, labels = coloured_images(21, seed=1)
    with torch.no_grad():
        predictions = model(**PerceiverStudyImageProcessor.from_pretrained(folder)(images)).logits.argmax(dim=-1)
    assert (predictions == torch.tensor(labels)).double().mean().item() == pytest.approx(metrics["test_accuracy"])


@pytest.mark.parametrize("stop_at", [7, 12, 13])
def test_a_resumed_run_ends_with_the_same_weights(run, whole, monkeypatch, stop_at):
    """Stopped in the middle of an epoch, at its last step, and after its evaluation; 6 steps are an epoch."""
    name = f"stopped-{stop_at}"
    save = loop.save_checkpoint

    def save_and_die(accelerator, output_dir, progress, *arguments):
        save(accelerator, output_dir, progress, *arguments)
        if progress.step == stop_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(name, *RESUMABLE)
    with pytest.raises(UserError, match="add --resume"):
        run(name, *RESUMABLE)
    resumed = run(name, *RESUMABLE, "--resume")

    assert_same_weights(whole, resumed)
    logs = [read_metrics(folder / "metrics.jsonl") for folder in (whole, resumed)]
    assert logs[0][1] == logs[1][1]
    assert [line["step"] for line in logs[0][0]] == [line["step"] for line in logs[1][0]]
    results = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, resumed)]
    for name in ("best_epoch", "validation_accuracy", "test_accuracy", "test_loss", "steps"):
        assert results[0][name] == results[1][name]


def test_resuming_a_finished_run_does_nothing(run, whole, capsys):
    before = (whole / "model.safetensors").stat().st_mtime_ns
    run("whole", *RESUMABLE, "--resume")
    assert "nothing to do" in capsys.readouterr().out
    assert (whole / "model.safetensors").stat().st_mtime_ns == before


def test_data_may_move(run, tmp_path, capsys):
    """A copy of the data at another place is no other data, for a finished run and for one that goes on."""
    run("moved", "checkpoint.every_steps=5")
    parquet = Path(load_recipe(run.folder / "moved" / "recipe.yaml").data.path)
    elsewhere = f"data.path={shutil.copytree(parquet, tmp_path / 'copy')}"
    other = f"data.path={make_parquet(tmp_path / 'other', train=61)}"
    run("moved", "checkpoint.every_steps=5", "--resume", elsewhere)
    assert "holds the finished run of this recipe; nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="was made with other data"):
        run("moved", "--resume", other)
    (run.folder / "moved" / "metrics.json").unlink()
    with pytest.raises(UserError, match="was made with other data"):
        run("moved", "--resume", other)
    folder = run("moved", "--resume", elsewhere)
    assert (folder / "metrics.json").exists()
    assert load_recipe(folder / "recipe.yaml").data.path == elsewhere.removeprefix("data.path=")


def test_seed_decides(run):
    first, again = run("first", "optimization.epochs=1"), run("again", "optimization.epochs=1")
    assert_same_weights(first, again)
    other = run("other", "optimization.epochs=1", "seed=1")
    assert not torch.equal(weights(first)["classifier.weight"], weights(other)["classifier.weight"])


def test_accumulated_parts_equal_the_whole_batch(run):
    options = ["optimization.epochs=1", "augmentation.crop_padding=2", "augmentation.horizontal_flip=true"]
    options += ["augmentation.trivial_augment=true", "augmentation.random_erasing=0.5", "augmentation.cutmix_alpha=1.0"]
    whole = weights(run("one-part", *options))
    parts = weights(run("four-parts", *options, "optimization.gradient_accumulation_steps=4"))
    for name, tensor in whole.items():
        if name.endswith("k_proj.bias"):
            continue  # softmax cancels it: its gradient is rounding noise, which AdamW scales up
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=2e-5)


def test_the_best_epoch_wins_and_test_images_are_read_once(run, monkeypatch):
    """Whatever the scores: here the second of three epochs is the best, and the third as accurate but less certain."""
    scores = iter([(0.5, 1.0), (0.75, 0.5), (0.75, 0.6)])
    seen, kept = [], {}

    def scripted(accelerator, task, model, loader):
        seen.append(len(loader.dataset))
        if len(seen) == 2:
            kept.update({name: tensor.clone() for name, tensor in accelerator.get_state_dict(model).items()})
        if len(seen) == 4:
            return {"accuracy": 0.1, "loss": 9.0}
        accuracy, loss = next(scores)
        return {"accuracy": accuracy, "loss": loss}

    for module in (loop, train):
        monkeypatch.setattr(module, "evaluate", scripted)
    folder = run("scripted", "optimization.epochs=3")
    assert seen == [12, 12, 12, 21]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["best_epoch"], metrics["validation_accuracy"], metrics["test_accuracy"]) == (2, 0.75, 0.1)
    saved = weights(folder)
    assert all(torch.equal(saved[name], tensor) for name, tensor in kept.items())


def test_recipes_are_compared_without_the_test_images(run, monkeypatch, capsys):
    judge, seen = train.evaluate, []

    def watched(accelerator, task, model, loader):
        seen.append(len(loader.dataset))
        return judge(accelerator, task, model, loader)

    for module in (loop, train):
        monkeypatch.setattr(module, "evaluate", watched)
    folder = run("compared", "optimization.epochs=2", "data.test_split=null")
    assert seen == [12, 12]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert not [name for name in metrics if name.startswith("test")]
    assert f"{100 * metrics['validation_accuracy']:.2f} % on 12 validation images" in capsys.readouterr().out
    with pytest.raises(UserError, match="test_split=null"):
        read_published_metrics(folder)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(run, precision):
    """fp16 with its scaler, here on a CPU too; weights stay float32."""
    folder = run(precision, f"optimization.mixed_precision={precision}", "optimization.epochs=2")
    steps, epochs = read_metrics(folder / "metrics.jsonl")
    assert steps[-1]["loss"] < steps[0]["loss"] and epochs[-1]["validation_accuracy"] > 0.5
    assert all(tensor.dtype == torch.float32 for tensor in weights(folder).values())


def test_auto_is_stated_and_kept_on_another_machine(run, monkeypatch, capsys):
    """A run that began in bfloat16 stays in it where that is slow, unless the recipe is changed with consent."""
    options = ["optimization.mixed_precision=auto", "optimization.optimizer=muon", "checkpoint.every_steps=1"]
    expected = run("begun-bf16", "optimization.mixed_precision=bf16", *options[1:])

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda device: True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.TrainingLog, "epoch", stop)
        run("auto", *options)
    assert "optimization.mixed_precision=auto is bf16 (bfloat16 is fast" in capsys.readouterr().out
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda device: False)
    with pytest.raises(UserError, match="mixed_precision: bf16 -> no"):
        run("auto", "optimization.mixed_precision=no", *options[1:], "--resume")
    folder = run("auto", *options, "--resume")
    assert "auto is bf16 (as the run in" in capsys.readouterr().out
    assert_same_weights(folder, expected)
    assert load_recipe(folder / "recipe.yaml").optimization.mixed_precision == "bf16"
    assert json.loads((folder / "metrics.json").read_text())["mixed_precision"] == "bf16"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    starts = [(line["step"], line["mixed_precision"]) for line in lines if line["kind"] == "start"]
    assert starts == [(0, "bf16"), (6, "bf16")]


def test_precision_of_products(run):
    """Products then stay float32 or become bfloat16, as the CPU has it; either way losses lie 1 % apart at most."""
    expected, _ = read_metrics(run("highest", "optimization.epochs=1") / "metrics.jsonl")
    assert torch.get_float32_matmul_precision() == "highest"
    found, _ = read_metrics(
        run("medium", "optimization.epochs=1", "optimization.matmul_precision=medium") / "metrics.jsonl"
    )
    assert torch.get_float32_matmul_precision() == "medium"
    assert [step["loss"] for step in found] == pytest.approx([step["loss"] for step in expected], rel=0.01)


# Both come from inside torch.compile.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be instantiated")
@pytest.mark.parametrize(
    "more",
    [["gradient_checkpointing"], ["deterministic"], ["compile"], ["compile", "gradient_checkpointing"]],
    ids="-".join,
)
def test_other_ways_to_the_same_weights(run, more):
    expected = weights(run("plain", "optimization.epochs=1"))
    try:
        folder = run("-".join(more), "optimization.epochs=1", *(f"optimization.{key}=true" for key in more))
    finally:
        torch.use_deterministic_algorithms(False)
    assert load_file(folder / "model.safetensors").keys() == expected.keys()
    for name, tensor in weights(folder).items():
        if not name.endswith("k_proj.bias"):  # its gradient is rounding noise, see below
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def test_a_moving_average_is_judged_and_kept(run):
    """With a decay of 0 it is the last weights; with a decay of 1 the first step's, whatever follows."""
    plain, zero, one = (
        weights(run(name, "optimization.epochs=1", *more))
        for name, more in {
            "no-average": [],
            "average-0": [DECAY_0],
            "average-1": ["optimization.ema_decay=1"],
        }.items()
    )
    assert all(torch.equal(zero[name], plain[name]) for name in plain)
    assert not torch.equal(one["perceiver.latents.weight"], plain["perceiver.latents.weight"])


def test_a_moving_average_is_judged_in_the_precision_of_training(run):
    """With a decay of 0 it is the model itself, which accelerate has prepared: its scores are the same to the bit."""
    options = ["optimization.mixed_precision=bf16", "optimization.epochs=1"]
    plain, average = (run(name, *options, *more) for name, more in [("bf16-plain", []), ("bf16-average", [DECAY_0])])
    assert_same_weights(plain, average)
    assert read_metrics(plain / "metrics.jsonl")[1] == read_metrics(average / "metrics.jsonl")[1]
    results = [json.loads((folder / "metrics.json").read_text()) for folder in (plain, average)]
    assert results[0]["test_loss"] == results[1]["test_loss"]


def test_what_can_be_watched(run, monkeypatch):
    monkeypatch.setattr(run_folder, "draw_curves", draw_curves)
    folder = run("watched", "logging.log_with=tensorboard")
    assert list(folder.rglob("events.out.tfevents.*"))
    lines = (folder / "train.log").read_text().splitlines()
    assert ["epoch 1: validation accuracy" in lines[0], "epoch 2: validation accuracy" in lines[1]] == [True, True]
    with Image.open(folder / "curves.png") as picture:
        assert picture.size == (1500, 600)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_labels=4"], "model.num_labels=4, but the data has 3 labels .red, green, blue.: set it to 3"),
        (
            ["optimization.batch_size=6", "optimization.gradient_accumulation_steps=2", "augmentation.mixup_alpha=1.0"],
            "batch_size=6 cannot be cut into equal parts of whole pairs.* choose a multiple of 4",
        ),
        (["optimization.batch_size=64"], "optimization.batch_size=64 is more than the 48 samples"),
        (["logging.log_with=nothing"], "logging.log_with=nothing"),
        (["optimization.learning_rate=1e30", "optimization.max_gradient_norm=null"], "the loss is "),
    ],
)
def test_mistakes_are_named(run, overrides, message):
    with pytest.raises(UserError, match=message):
        run("mistake", *overrides)


def test_launched_as_a_user_would(tmp_path):
    """`accelerate launch` in a process of its own, on the digits, and one of the images it has not seen."""
    fast = ["optimization.epochs=1", "optimization.cpu_threads=1", "model.num_latents=4", "checkpoint.every_steps=0"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
    script = [str(SCRIPTS / "train.py"), f"output_dir={tmp_path / 'digits'}", *fast]
    launched = subprocess.run([*launcher, *script], capture_output=True, text=True, timeout=300)
    assert launched.returncode == 0, launched.stderr
    assert " on 360 test images of digits " in launched.stdout
    metrics = json.loads((tmp_path / "digits" / "metrics.json").read_text())
    assert metrics["command"].startswith("accelerate launch ")
    assert metrics["test_top_5_accuracy"] >= metrics["test_accuracy"]


def test_the_default_recipe_is_the_digits():
    assert load_recipe(DEFAULT_RECIPE).data.name == "digits"
