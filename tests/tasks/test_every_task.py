"""What holds for every task, whatever its samples are: one set of tests, and a line in tests/task_kinds.py for each."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file

import attention_maps
import export
import predict
import publish
import score
import train
from lab.errors import UserError
from lab.judging.checkpoints import load_classifier
from lab.looking.views import VIEWS
from lab.recipe import load_recipe
from lab.scoring.measures import measure_of
from lab.tasks import build_task
from lab.training.checkpoint import checkpoints, read_progress
from lab.training.run_folder import RESULTS
from tests.commands.test_export import HAS_ONNX
from tests.processes import run_together
from tests.small_data import fresh_accelerate
from tests.task_kinds import KINDS

pytestmark = pytest.mark.slow

STOP = 5  # a step in the middle of the first epoch


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp("task")
    kind.write_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


@pytest.fixture(scope="module")
def arguments(kind, folder):
    """Of a run with all random changes and a checkpoint after each step."""
    (folder / "plain.yaml").write_text("seed: 0\n")  # not the default recipe, which is one for images
    return [
        f"--config={folder / 'plain.yaml'}",
        *kind.recipe,
        *kind.changes,
        f"data.path={folder / 'data'}",
        "checkpoint.every_steps=1",
        "checkpoint.keep_last=100",
        "logging.log_with=null",
        "logging.every_steps=1",
    ]


@pytest.fixture(scope="module")
def run(arguments, folder):
    fresh_accelerate()
    train.main([*arguments, f"output_dir={folder / 'run'}"])
    return folder / "run"


def forget_after(folder: Path, step: int):
    """Leave a run as if it had been stopped after that step."""
    (folder / RESULTS).unlink()
    for checkpoint in checkpoints(folder):
        if read_progress(checkpoint).step > step:
            shutil.rmtree(checkpoint)


def test_without_validation_all_is_trained_on_and_the_last_epoch_kept(kind, arguments, folder, capsys):
    fresh_accelerate()
    given = [*arguments, "data.validation_samples=0", f"output_dir={folder / 'all'}"]
    train.main(given)
    results = json.loads((folder / "all" / RESULTS).read_text())
    with_validation = build_task(load_recipe(None, arguments[1:])).load_splits()
    assert results["train_samples"] == len(with_validation.train) + len(with_validation.validation)
    assert results["validation_samples"] == 0 and not any(name.startswith("validation_a") for name in results)
    assert results["best_epoch"] == results["epochs"]
    assert "last epoch" in capsys.readouterr().out
    whole = load_file(folder / "all" / "model.safetensors")
    forget_after(folder / "all", STOP)
    fresh_accelerate()
    train.main([*given, "--resume"])
    resumed = load_file(folder / "all" / "model.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    for other in ("data.test_split=null", "data.streaming=true"):
        with pytest.raises(UserError, match=r"data.validation_samples=0 needs a data.test_split to judge by"):
            load_recipe(None, [*arguments[1:], "data.validation_samples=0", other])
    with pytest.raises(UserError, match="left no samples to validate on"):
        score.main([str(folder / "all"), "--split", "validation"])


@pytest.fixture(scope="module")
def task(arguments):
    task = build_task(load_recipe(None, arguments[1:]))
    return task, task.load_splits()


def test_a_resumed_run_ends_with_the_same_weights(run, arguments, tmp_path):
    shutil.copytree(run, tmp_path / "stopped")
    forget_after(tmp_path / "stopped", STOP)
    fresh_accelerate()
    train.main([*arguments, f"output_dir={tmp_path / 'stopped'}", "--resume"])
    whole, resumed = (load_file(path / "model.safetensors") for path in (run, tmp_path / "stopped"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def run_recipe(*arguments: str):
    train.main(list(arguments))


def test_two_processes_train_as_one(run, arguments, tmp_path):
    assert run_together(2, run_recipe, *arguments, f"output_dir={tmp_path / 'both'}") == [0, 0]
    alone, both = (load_file(path / "model.safetensors") for path in (run, tmp_path / "both"))
    for name in alone:
        torch.testing.assert_close(both[name], alone[name], rtol=0, atol=1e-4)
    results = [json.loads((path / RESULTS).read_text()) for path in (run, tmp_path / "both")]
    assert results[0]["best_epoch"] == results[1]["best_epoch"]


def test_samples_are_streamed_from_shards_and_decoded_by_processes(kind, arguments, folder, tmp_path):
    for split, shards in {"train": 6, "test": 1}.items():
        rows = datasets.load_dataset("parquet", data_files=str(folder / "data" / f"{split}.parquet"), split="train")
        for number in range(shards):
            (tmp_path / "shards").mkdir(exist_ok=True)
            rows.shard(shards, number).to_parquet(tmp_path / "shards" / f"{split}-{number:05d}.parquet")
    fresh_accelerate()
    streamed = ["data.streaming=true", "data.train_samples=40", "data.workers=1", "optimization.epochs=1"]
    train.main([*arguments, *streamed, f"data.path={tmp_path / 'shards'}", f"output_dir={tmp_path / 'run'}"])
    results = json.loads((tmp_path / "run" / RESULTS).read_text())
    assert results["test_samples"] == 21


def test_a_test_split_of_which_nothing_is_usable_is_refused(kind, arguments, tmp_path):
    kind.write_data(tmp_path / "data")
    path = tmp_path / "data" / "test.parquet"
    table, labels = parquet.read_table(path), {"label", "vowel", "length"}
    for number, field in enumerate(table.schema):
        if field.name not in labels:
            table = table.set_column(number, field, pa.nulls(len(table), field.type))
    parquet.write_table(table, path)
    given = [*arguments[1:], f"data.path={tmp_path / 'data'}", "data.on_error=skip"]
    with pytest.raises(UserError, match=r"split test of .* has no usable"):
        build_task(load_recipe(None, given)).load_splits()


def test_cut_batches_get_the_same_changes(task, kind):
    """A batch in two parts, padded apart, is the same batch."""
    task, splits = task
    task.config.attention_probs_dropout_prob = 0.0
    model = task.build_model().double().eval()
    batch = splits.train.__getitems__(list(range(8)))

    def answers(first: int, last: int) -> torch.Tensor:
        rows = splits.train.__getitems__(list(range(first, last)))
        arguments, targets = task.training_inputs(rows, 3, first)
        return task.judge([model(**_doubled(arguments))], targets)[kind.judged]

    assert len(batch["labels"]) == 8
    torch.testing.assert_close(torch.cat([answers(0, 4), answers(4, 8)]), answers(0, 8), rtol=0, atol=1e-4)


def _doubled(arguments):
    return {name: value.double() if value.is_floating_point() else value for name, value in arguments.items()}


def test_padding_changes_nothing(task, kind):
    """Each sample alone gets the answer that it gets in a batch."""
    task, splits = task
    model = task.build_model().double().eval()

    def answers(rows: list[int]) -> torch.Tensor:
        batch = splits.validation.__getitems__(rows)
        arguments, targets = task.inputs(batch)
        return task.judge([model(**_doubled(arguments))], targets)[kind.judged]

    torch.testing.assert_close(torch.cat([answers([row]) for row in range(6)]), answers(list(range(6))))


def test_mistakes_are_drawn(task, kind, tmp_path, monkeypatch):
    """The worst first; none where all is right."""
    task, splits = task
    samples = splits.validation
    if not kind.classifies:
        task.draw_mistakes(tmp_path, samples, {})
        assert not list(tmp_path.iterdir())  # bytes of masked texts are no samples
        return
    seen = []
    monkeypatch.setattr(task, "look_at", lambda *given: seen.append(given[1]) or type(task).look_at(task, *given))
    labels = samples.labels
    right = np.eye(task.config.num_labels)[labels] if labels.ndim == 1 else labels
    right = (20 * right).astype(np.float32)
    wrong = right.copy()
    wrong[[4, 2]] = -right[[4, 2]] * [[1], [2]]
    task.draw_mistakes(tmp_path, samples, {"logits": wrong, "labels": labels})
    assert seen == [2, 4]
    with Image.open(tmp_path / "mistakes.png") as picture:
        assert picture.width == 400  # two samples side by side
    (tmp_path / "mistakes.png").unlink()
    task.draw_mistakes(tmp_path, samples, {"answers of another kind": right})  # those of a stranger's task
    task.draw_mistakes(tmp_path, samples, {"logits": right, "labels": labels})
    assert not (tmp_path / "mistakes.png").exists()


def test_the_pipeline_answers_as_evaluation_does(run, folder, tmp_path, kind):
    fresh_accelerate()
    score.main([str(run), "--output", str(tmp_path / "out")])
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    if not kind.classifies:
        assert evaluation["masked_bytes"] > 0 and (tmp_path / "out" / "evaluation.md").is_file()
        return
    rows = datasets.load_dataset("parquet", data_files=str(folder / "data" / "test.parquet"), split="train")
    samples, labels = kind.read(rows)
    pipelines = load_classifier(str(run)).pipelines
    for settings in ({}, {"batch_size": 4}):
        accuracies = []
        for task, asked in pipelines.items():
            own = labels if task is None else list(rows[task])
            names, answers = asked.model.config.id2label, asked(samples, top_k=1, **settings)
            pairs = [(label, answer[0]["label"]) for label, answer in zip(own, answers, strict=True)]
            accuracies.append(np.mean([names[label] == answer for label, answer in pairs if label is not None]))
        assert np.mean(accuracies) == pytest.approx(evaluation["accuracy"])


def test_a_checkpoint_without_a_recipe_is_scored_alike(run, folder, tmp_path, kind):
    alone = shutil.copytree(run, tmp_path / "alone", ignore=shutil.ignore_patterns("recipe.yaml", "checkpoints"))
    named = [text for text in kind.recipe if text.startswith("data.columns")]
    found = []
    for checkpoint, given in ((run, []), (alone, ["--data", str(folder / "data"), *named])):
        fresh_accelerate()
        score.main([str(checkpoint), "--output", str(tmp_path / "out"), *given])
        found.append(json.loads((tmp_path / "out" / "evaluation.json").read_text()))
    assert found[0]["samples"] == found[1]["samples"] == 21
    if kind.classifies:  # which bytes are masked is the recipe's to say
        assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)


def test_commands_that_look_at_a_file(run, kind, tmp_path, capsys):
    file = kind.write_file(tmp_path)
    predict.main([str(run), str(file), str(file), "--top_k", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(file) and len(lines) % 2 == 0 and lines[1].endswith(" %")
    assert len(lines) == 2 * (1 + 2 * kind.answers)
    attention_maps.main([str(run), str(file), "-o", str(tmp_path / "maps.png")])
    assert (tmp_path / "maps.png").stat().st_size > 1000


@pytest.mark.parametrize("length", [None, 9])
def test_programs_take_the_length_that_is_asked_for(run, kind, length, tmp_path, capsys):
    """Of texts and clouds the model says how many bytes at most, or nothing; of others it is refused."""
    asked = ["--length", str(length)] if length else []
    formats = ["torch", "onnx"] if length is None and HAS_ONNX else ["torch"]
    command = [str(run), "--output", str(tmp_path), "--formats", *formats, *asked]
    model = load_classifier(str(run)).model
    inputs = [model.config.modality_config(name) for name in model.config.modalities or ()] or [model.config]
    if length and all(own.input_type in ("grid", "array") for own in inputs):
        with pytest.raises(UserError, match="leave it out for inputs of one size"):
            export.main(command)
        return
    export.main(command)
    assert capsys.readouterr().out.count("logits differ by at most") == len(formats)
    expected = VIEWS[type(model).__name__].example(model.config, 3, length)
    if model.config.input_type == "bytes":
        assert expected["input_ids"].shape[1] == (length or model.config.max_position_embeddings)
    if model.config.input_type == "points":
        assert expected["points"].shape[1] == (length or 1024)
    with torch.no_grad():
        logits = torch.export.load(tmp_path / "model.pt2").module()(*expected.values())
    torch.testing.assert_close(logits, model(**expected).logits.detach(), rtol=0, atol=1e-4)


def test_a_card_and_what_is_published(run, folder, kind, task, tmp_path):
    """Everything loads in a process without the package, which publish.py sees to."""
    output = tmp_path / "published"
    publish.main([str(run), "--repo_id", "org/name", "--output", str(output), f"data.path={folder / 'data'}"])
    card = (output / "README.md").read_text()
    results = json.loads((run / RESULTS).read_text())
    best = task[0].best
    assert measure_of(best).write(results[f"test_{best}"]) in card
    assert f"\npip install torch transformers pillow{kind.packages}\n" in card
    for name in ("figures/attention.png", "figures/curves.png", "model.safetensors", *task[0].processor_files):
        assert (output / name).is_file()
    view = load_classifier(str(output)).view
    assert len(list((output / "examples").glob(view.examples))) == 3
