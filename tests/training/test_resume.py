"""Runs that go on with another recipe: every key that may change does what a person expects, others are refused."""

import json
import shutil

import datasets
import pytest
import torch
from safetensors.torch import load_file

import train
from lab.errors import UserError
from lab.training import loop
from lab.training.checkpoint import checkpoints, read_progress
from lab.training.curves import read_metrics
from lab.training.learner import schedule
from lab.training.run_folder import RESULTS
from tests.processes import run_together, train_tiny
from tests.small_data import TINY_RUN, fresh_accelerate, make_parquet

pytestmark = pytest.mark.slow

SAMPLES, BATCH, EPOCHS = 48, 8, 4
STOP = 9  # in the middle of the second epoch
BEGUN = [
    f"optimization.epochs={EPOCHS}",
    "augmentation.horizontal_flip=true",
    "checkpoint.every_steps=1",
    "checkpoint.keep_last=100",
    "logging.every_steps=1",
    "logging.log_with=null",
    "optimization.warmup=0.0",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    make_parquet(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


@pytest.fixture(scope="module")
def run(folder):
    """Train in this process: `run(name, *overrides)` returns the output folder of that name."""

    def run(name, *overrides):
        fresh_accelerate()
        train.main([*TINY_RUN, *BEGUN, f"data.path={folder / 'data'}", f"output_dir={folder / name}", *overrides])
        return folder / name

    return run


@pytest.fixture(scope="module")
def whole(run):
    return run("whole")


@pytest.fixture
def stopped(whole, tmp_path):
    """A function that makes a run which was killed after a step."""

    def stop(step=STOP, of=whole):
        name = tmp_path / f"stopped-{step}"
        shutil.copytree(of, name)
        (name / RESULTS).unlink()
        for checkpoint in checkpoints(name):
            if read_progress(checkpoint).step > step:
                shutil.rmtree(checkpoint)
        return name

    return stop


@pytest.fixture
def resume(run, stopped):
    """Go on with a changed recipe from a step of a run, by default in the middle of its second epoch."""

    def resume(*changes, step=STOP, **of):
        name = stopped(step, **of)
        return run(name, "--resume", "--accept_changes", *changes)

    return resume


def results(folder):
    return json.loads((folder / RESULTS).read_text())


def weights(folder):
    """Those after the last step: the best epoch of so easy a task may be the first."""
    return load_file(checkpoints(folder)[0] / "model.safetensors")


def rates(folder):
    """Learning rates by step."""
    return {line["step"]: line["learning_rate"] for line in read_metrics(folder / "metrics.jsonl")[0]}


def assert_close_to(folder, whole, tolerance=1e-3):
    for name, tensor in weights(whole).items():
        if not name.endswith("k_proj.bias"):  # softmax cancels it: its gradient is rounding noise
            torch.testing.assert_close(weights(folder)[name], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("size", "step", "steps"),
    [
        # 72 samples are done, 24 of them in the second epoch; 120 are to come.
        (4, STOP, STOP + 6 + 2 * 12),
        (16, STOP, STOP + 1 + 2 * 3),
        (12, STOP, STOP + 2 + 2 * 4),
        # 40 of the 48 are done: what is left of the epoch makes no batch.
        (16, 11, 11 + 0 + 2 * 3),
        # At the end of an epoch, before its evaluation.
        (4, 12, 12 + 0 + 2 * 12),
    ],
)
def test_another_batch_size_keeps_epochs_and_schedule(resume, size, step, steps):
    """Progress is counted in samples: no epoch is skipped, and the learning rate ends as it would have."""
    folder = resume(f"optimization.batch_size={size}", step=step)
    found = results(folder)
    assert (found["epochs"], found["steps"]) == (EPOCHS, steps)
    lines, epochs = read_metrics(folder / "metrics.jsonl")
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert [line["epoch"] for line in lines] == sorted(line["epoch"] for line in lines)
    # The last step begins with all samples seen but those of its own batch.
    assert rates(folder)[steps] == pytest.approx(0.01 * schedule((EPOCHS - size / SAMPLES) / EPOCHS, 0))
    # And the first one where the run had stopped, as with the old size.
    following = rates(folder)[step + 1]
    epoch, samples = divmod(step * BATCH, SAMPLES)
    left = samples + (SAMPLES - samples) // size * size
    expected = schedule((epoch + samples / left) / EPOCHS, 0) if left > samples else schedule((epoch + 1) / EPOCHS, 0)
    assert following == pytest.approx(0.01 * expected)


def test_running_statistics_go_on_too(run, resume):
    convolutional = ["model.stem_type=conv", "model.stem_channels=4", "model.image_size=12"]
    whole = run("with a stem", *convolutional, "optimization.ema_decay=0.9")
    resumed = resume(*convolutional, "optimization.ema_decay=0.9", of=whole)
    assert "perceiver.inputs.stem.batchnorm.running_mean" in weights(whole)
    assert all(torch.equal(weights(resumed)[name], tensor) for name, tensor in weights(whole).items())


def test_all_samples_of_an_epoch_come_once_whatever_the_batch(resume, monkeypatch):
    seen = []
    batches = loop.EpochLoader.batches

    def watched(self, epoch, done):
        for batch in batches(self, epoch, done):
            seen.extend((epoch, pixels.tobytes()) for pixels in batch["pixels"].numpy())
            yield batch

    monkeypatch.setattr(loop.EpochLoader, "batches", watched)
    resume("optimization.batch_size=12")
    assert [len([1 for number, _ in seen if number == epoch]) for epoch in (1, 2, 3)] == [24, 48, 48]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "change",
    [
        "optimization.gradient_accumulation_steps=2",
        "optimization.gradient_accumulation_steps=4",
        "optimization.gradient_checkpointing=true",
        "optimization.find_parts=true",
        "optimization.deterministic=true",
        "optimization.matmul_precision=high",
        "data.workers=0",
        "optimization.ema_decay=0.0",  # the last weights
    ],
)
def test_what_changes_only_how_a_step_is_computed(resume, whole, change):
    """Such as all that an out-of-memory message recommends, apart from another batch size."""
    try:
        folder = resume(change)
    finally:
        torch.use_deterministic_algorithms(False)
    assert (results(folder)["epochs"], results(folder)["steps"]) == (EPOCHS, EPOCHS * SAMPLES // BATCH)
    assert rates(folder) == rates(whole)
    assert_close_to(folder, whole)


# Both come from inside torch.compile.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be instantiated")
def test_compiled_and_not(run, resume, whole):
    compiled = resume("optimization.compile=true", step=22)
    assert_close_to(compiled, whole)
    assert_close_to(resume("optimization.compile=false", step=23, of=compiled), whole)


@pytest.mark.parametrize("precisions", [("no", "bf16"), ("bf16", "no")])
def test_another_precision(run, resume, precisions):
    """As a loss that is not a number recommends. On a CPU accelerate takes fp16 for float32."""
    begun = run(f"begun-{precisions[0]}", f"optimization.mixed_precision={precisions[0]}", "optimization.epochs=1")
    folder = resume(f"optimization.mixed_precision={precisions[1]}", step=4, of=begun)
    assert results(folder)["steps"] == EPOCHS * SAMPLES // BATCH
    assert results(folder)["validation_accuracy"] > 0.5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("optimization.learning_rate=0.002", lambda share: 0.002 * schedule(share, 0)),
        ("optimization.warmup=0.5", lambda share: 0.01 * schedule(share, 0.5)),
        ("optimization.epochs=6", lambda share: 0.01 * schedule(share * EPOCHS / 6, 0)),
        ("optimization.epochs=3", lambda share: 0.01 * schedule(share * EPOCHS / 3, 0)),
    ],
)
def test_the_learning_rate_is_that_of_the_new_recipe(resume, whole, change, expected):
    folder = resume(change)
    found = rates(folder)
    assert found[STOP] == rates(whole)[STOP]
    for step in range(STOP + 1, max(found) + 1):
        assert found[step] == pytest.approx(expected((step - 1) * BATCH / SAMPLES / EPOCHS), abs=1e-12)
    assert found[max(found)] < 0.1 * found[STOP + 1] or "warmup" in change


def test_longer_and_shorter(resume):
    longer = results(resume("optimization.epochs=6"))
    assert (longer["epochs"], longer["steps"]) == (6, 36)
    shorter = results(resume("optimization.epochs=2", step=8))
    assert (shorter["epochs"], shorter["steps"]) == (2, 12)


def test_as_many_epochs_as_are_done_end_the_run(resume, whole):
    """In the middle of the third epoch; two are done."""
    folder = resume("optimization.epochs=2", step=15)
    assert results(folder)["epochs"] == 2
    assert results(folder)["best_epoch"] <= 2
    _, epochs = read_metrics(whole / "metrics.jsonl")
    assert results(folder)["validation_accuracy"] == max(line["validation_accuracy"] for line in epochs[:2])


def test_fewer_epochs_than_are_done_are_refused_and_change_nothing(run, whole):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"optimization.epochs=2, but .*step-00000024 comes after 3 epochs: 3 ends"):
        run("whole", "optimization.epochs=2", "--resume", "--accept_changes")
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_finished_run_goes_on_for_more_epochs(run, folder, whole):
    longer = shutil.copytree(whole, folder / "longer")
    run("longer", "optimization.epochs=5", "--resume", "--accept_changes")
    assert (results(longer)["epochs"], results(longer)["steps"]) == (5, 30)


@pytest.mark.parametrize(("before", "after"), [(None, 0.5), (0.5, None), (0.5, 0.9)])
@pytest.mark.parametrize("step", [STOP, 12])
def test_another_moving_average(run, resume, before, after, step):
    """Also at the end of an epoch, where a fresh average is judged before any step."""
    write = {None: "null"}
    begun = run(f"begun-ema-{before}", f"optimization.ema_decay={write.get(before, before)}")
    folder = resume(f"optimization.ema_decay={write.get(after, after)}", step=step, of=begun)
    assert results(folder)["steps"] == EPOCHS * SAMPLES // BATCH
    _, epochs = read_metrics(folder / "metrics.jsonl")
    _, expected = read_metrics(begun / "metrics.jsonl")
    assert epochs[0] == expected[0]
    if step == 12 and before is None:  # no step in between: the average is what the weights are
        assert epochs[1] == expected[1]


@pytest.mark.parametrize(
    "changes",
    [
        ["optimization.weight_decay=0.5"],
        ["optimization.max_gradient_norm=0.01"],
        ["optimization.label_smoothing=0.2"],
        ["optimization.class_weights=[1,2,3]"],
        ["augmentation.crop_padding=2", "augmentation.horizontal_flip=false"],
        ["augmentation.mixup_alpha=0.5", "augmentation.random_erasing=0.5"],
        ["model.attention_probs_dropout_prob=0.3"],
        ["model.classifier_dropout=0.3"],
    ],
)
def test_other_training_from_here_on(resume, whole, changes):
    """The same number of steps, and other weights at their end."""
    folder = resume(*changes)
    assert rates(folder) == rates(whole)
    assert not torch.equal(weights(folder)["classifier.weight"], weights(whole)["classifier.weight"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("seed=1", "in which order samples come"),
        ("model.num_latents=8", "those of another model"),
        ("image_processor.image_mean=[0.4,0.5,0.5]", "what it made of the samples"),
        ("optimization.optimizer=muon", "of no use to the other"),
        ("data.split_seed=1", "learned and judged"),
        ("data.validation_samples=9", "learned and judged"),
        ("model.initializer_range=0.1", "fresh weights"),
    ],
)
def test_what_cannot_change_is_refused_by_name(run, whole, change, reason):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    key = change.partition("=")[0]
    with pytest.raises(UserError, match=rf"another recipe .*cannot go on with another value of {key} .*{reason}"):
        run("whole", change, "--resume", "--accept_changes")
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_copy_of_the_data_will_do_and_other_data_will_not(run, folder, stopped, whole, tmp_path):
    name = stopped()
    arguments = [name, "--resume", "--accept_changes"]
    shutil.copytree(folder / "data", tmp_path / "copy")
    make_parquet(tmp_path / "other", train=61)
    before = {path: path.read_bytes() for path in name.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"step-00000009 was made with other data: .* choose another output_dir"):
        run(*arguments, f"data.path={tmp_path / 'other'}")
    assert {path: path.read_bytes() for path in name.rglob("*") if path.is_file()} == before
    run(*arguments, f"data.path={tmp_path / 'copy'}")
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(name).items())


def test_data_that_changed_in_place_are_noticed_without_any_change_of_the_recipe(run, stopped, tmp_path):
    make_parquet(tmp_path / "data")
    begun = run(tmp_path / "begun", f"data.path={tmp_path / 'data'}", "optimization.epochs=2")
    name = stopped(of=begun)
    shutil.rmtree(tmp_path / "data")
    make_parquet(tmp_path / "data", train=64)
    with pytest.raises(UserError, match="was made with other data"):
        run(name, f"data.path={tmp_path / 'data'}", "optimization.epochs=2", "--resume")


@pytest.mark.parametrize("processes", [(1, 2), (2, 1)])
def test_another_number_of_processes(folder, whole, stopped, processes, tmp_path):
    """Samples and random changes do not depend on it, so the weights are those of one process, to rounding."""
    arguments = [*BEGUN, f"data.path={folder / 'data'}", f"data.cache_dir={folder / 'cache'}"]
    begun = whole
    if processes[0] == 2:
        begun = tmp_path / "begun"
        assert run_together(2, train_tiny, *arguments, f"output_dir={begun}") == [0, 0]
    name = stopped(of=begun)
    codes = run_together(processes[1], train_tiny, *arguments, f"output_dir={name}", "--resume")
    assert codes == [0] * processes[1]
    assert results(name)["steps"] == EPOCHS * SAMPLES // BATCH
    assert rates(name) == rates(whole)
    assert_close_to(name, whole)
