import csv
import json
import os
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import fuse
import robustness
import score
import train
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe, recipe_to_yaml
from lab.tasks import build_task
from lab.tasks.labelled import match_labels
from modeling_perceiver_study import PerceiverStudyForImageClassification, PerceiverStudyImageProcessor
from tests.models import small_model
from tests.paths import SCRIPTS
from tests.processes import run_together
from tests.small_data import CLASSES, TINY_RUN, coloured_images, fresh_accelerate, make_image_folder, make_parquet

pytestmark = pytest.mark.slow

COMMAND = SCRIPTS / "score.py"
FILES = {"confusion_matrix.csv", "confusion_matrix.png", "evaluation.json", "evaluation.md", "mistakes.png"}
FILES |= {"reliability.png"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_parquet(tmp_path_factory.mktemp("evaluation") / "data")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, data):
    """As train.py leaves it, with random weights that are sure of themselves."""
    return save_checkpoint(tmp_path_factory.mktemp("evaluation") / "checkpoint", f"data.path={data}")


def save_checkpoint(folder, *overrides, dtype=torch.float32, label_names=CLASSES):
    recipe = load_recipe(DEFAULT_RECIPE, [*TINY_RUN, *overrides])
    config = build_task(recipe).config
    config.id2label = dict(enumerate(label_names))
    torch.manual_seed(0)
    model = PerceiverStudyForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    model.to(dtype).save_pretrained(folder)
    build_task(recipe).processor.save_pretrained(folder)
    (folder / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    return folder


def evaluate(checkpoint, *options, output):
    """The contents of evaluation.json."""
    fresh_accelerate()
    score.main([str(checkpoint), "--output", str(output), *options])
    return json.loads((output / "evaluation.json").read_text())


def logits_of(checkpoint, images, dtype=torch.float32):
    """As anybody would compute them."""
    model = PerceiverStudyForImageClassification.from_pretrained(checkpoint, dtype=dtype).eval()
    with torch.no_grad():
        return model(**PerceiverStudyImageProcessor.from_pretrained(checkpoint)(images)).logits.float()


def test_everything_agrees_with_plain_arithmetic(checkpoint, tmp_path, capsys):
    results = evaluate(checkpoint, "--flip", output=tmp_path / "out")
    images, labels = coloured_images(21, seed=1)
    labels = torch.tensor(labels)
    probabilities = logits_of(checkpoint, images).softmax(dim=-1)
    predicted = probabilities.argmax(dim=-1)
    assert 0.2 < results["accuracy"] < 0.9, "a checkpoint that hides mistakes"
    assert results["accuracy"] == pytest.approx((predicted == labels).double().mean().item())
    assert results["top_3_accuracy"] == 1
    of_label = probabilities[torch.arange(21), labels]
    assert results["loss"] == pytest.approx(-of_label.log().mean().item(), rel=1e-5)

    mirrored = logits_of(checkpoint, [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images])
    both = (probabilities + mirrored.softmax(dim=-1)) / 2
    assert results["flip"]["accuracy"] == pytest.approx((both.argmax(dim=-1) == labels).double().mean().item())
    assert results["flip"]["loss"] == pytest.approx(-both[torch.arange(21), labels].log().mean().item(), rel=1e-5)
    assert results["flip"]["loss"] != results["loss"]

    bins = results["calibration"]["bins"]
    assert sum(bin["samples"] for bin in bins) == results["samples"] == 21
    error = sum(bin["samples"] / 21 * abs(bin["accuracy"] - bin["confidence"]) for bin in bins if bin["samples"])
    assert results["expected_calibration_error"] == pytest.approx(error)

    assert [row["name"] for row in results["classes"]] == CLASSES
    assert [row["samples"] for row in results["classes"]] == [7, 7, 7]
    with (tmp_path / "out" / "confusion_matrix.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["", *CLASSES]
    matrix = np.array([row[1:] for row in rows], dtype=int)
    for label, predicted_label in zip(labels, predicted, strict=True):
        matrix[label, predicted_label] -= 1
    assert not matrix.any()

    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert f"| accuracy | {100 * results['accuracy']:.2f} % | {100 * results['flip']['accuracy']:.2f} % |" in text
    assert "| expected calibration error |" in text and "| green |" in text
    assert f"{100 * results['accuracy']:.2f} %" in capsys.readouterr().out


def test_validation_samples_that_the_run_had_not_are_refused(tmp_path):
    """One file more, and others are carved, of which most were trained on."""
    data, run = make_image_folder(tmp_path / "data", train=60), tmp_path / "run"
    fresh_accelerate()
    train.main([*TINY_RUN, "optimization.epochs=1", "logging.log_with=null", f"data.path={data}", f"output_dir={run}"])
    kept = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    moved = shutil.copytree(data, tmp_path / "moved")
    same = evaluate(run, "--split", "validation", "--data", str(moved), output=tmp_path / "same")
    assert same["loss"] == pytest.approx(kept["validation_loss"], abs=1e-5)
    coloured_images(1, seed=5)[0][0].save(moved / "train" / "red" / "new.png")
    message = "the validation samples of .*moved are not those of the run: .* Give the data that the run had"
    for score_it in (
        lambda: evaluate(run, "--split", "validation", "--data", str(moved), output=tmp_path / "other"),
        lambda: fuse.main([str(run), "--split", "validation", "--data", str(moved)]),
        lambda: robustness.main([str(run), f"data.path={moved}", "--output", str(tmp_path)]),
    ):
        fresh_accelerate()
        with pytest.raises(UserError, match=message):
            score_it()
    evaluate(run, "--data", str(moved), output=tmp_path / "test")
    del kept["validation_fingerprint"]  # as of an older run
    (run / "metrics.json").write_text(json.dumps(kept), encoding="utf-8")
    evaluate(run, "--split", "validation", "--data", str(moved), output=tmp_path / "older")


@pytest.mark.parametrize(("split", "count"), [("train", 48), ("validation", 12), ("test", 21)])
def test_splits_are_those_of_the_recipe(checkpoint, tmp_path, split, count):
    results = evaluate(checkpoint, "--split", split, output=tmp_path / "out")
    assert (results["split"], results["samples"]) == (split, count)
    assert "flip" not in results


def test_any_split_of_a_dataset_that_has_no_other(checkpoint, data, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "validation.parquet").write_bytes((data / "test.parquet").read_bytes())
    given = ["--data", str(tmp_path / "data")]
    # A name of the dataset's own that means something else to a recipe goes through the recipe's key.
    named = evaluate(checkpoint, *given, "data.test_split=validation", output=tmp_path / "named")
    usual = evaluate(checkpoint, output=tmp_path / "usual")
    assert named["classes"] == usual["classes"] and named["loss"] == usual["loss"]
    (tmp_path / "data" / "holdout.parquet").write_bytes((data / "test.parquet").read_bytes())
    (tmp_path / "data" / "validation.parquet").unlink()
    with pytest.raises(UserError, match=r"--split=nothing: no such split in .*; there are"):
        evaluate(checkpoint, *given, "--split", "nothing", output=tmp_path / "none")


def test_it_writes_beside_the_weights(data, tmp_path):
    folder = save_checkpoint(tmp_path / "checkpoint", f"data.path={data}")
    fresh_accelerate()
    score.main([str(folder), "--split", "validation"])
    assert {path.name for path in (folder / "evaluation" / "validation").iterdir()} == FILES


@pytest.mark.parametrize("arguments", [["--data", "{data}"], ["data.path={data}"], ["--config", "{recipe}"]])
def test_a_folder_without_a_recipe_needs_data(checkpoint, data, tmp_path, arguments):
    folder = save_checkpoint(tmp_path / "checkpoint")
    (folder / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"has no recipe.yaml that names its data: add --data"):
        evaluate(folder, output=tmp_path / "out")
    arguments = [text.format(data=data, recipe=checkpoint / "recipe.yaml") for text in arguments]
    assert evaluate(folder, *arguments, output=tmp_path / "out")["samples"] == 21


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(checkpoint, data, tmp_path, dtype):
    torch_dtype = getattr(torch, dtype)
    folder = save_checkpoint(tmp_path / "half", f"data.path={data}", dtype=torch_dtype)
    stored = evaluate(folder, output=tmp_path / "stored")
    assert stored["dtype"] == dtype
    images, labels = coloured_images(21, seed=1)
    logits = logits_of(folder, images, torch_dtype)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert stored["loss"] == pytest.approx(loss, rel=2e-2)
    asked = evaluate(checkpoint, "--dtype", dtype, output=tmp_path / "asked")
    assert (asked["dtype"], asked["loss"]) == (dtype, stored["loss"])


def test_logits_that_are_no_numbers(data, tmp_path):
    folder = save_checkpoint(tmp_path / "checkpoint", f"data.path={data}")
    model = PerceiverStudyForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight.fill_(3e38)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"answers to .* of 21 images are not finite numbers: try another --dtype"):
        evaluate(folder, output=tmp_path / "out")


def test_classes_are_matched_by_name(data, tmp_path):
    """Folders of images have their classes in alphabetical order, the model in another."""
    images = make_image_folder(tmp_path / "images")
    models = [
        save_checkpoint(tmp_path / str(index), label_names=names)
        for index, names in enumerate([CLASSES, ["blue", "green", "red"]])
    ]
    by_name, sorted_already = (
        evaluate(model, "--data", str(images), output=tmp_path / f"out-{model.name}") for model in models
    )
    rows = [{row["name"]: row["samples"] for row in results["classes"]} for results in (by_name, sorted_already)]
    assert rows[0] == rows[1] == {"red": 2, "green": 2, "blue": 2}
    assert by_name["classes"][0]["name"] == "red"


@pytest.mark.parametrize(
    ("of_data", "of_model", "by_number", "expected"),
    [
        (["b", "a"], ["a", "b", "c"], False, [1, 0]),
        (["a", "a b"], ["a", "a b"], False, [0, 1]),
        (["0", "1"], ["a", "b", "c"], False, [0, 1]),
        (["a", "b"], ["LABEL_0", "LABEL_1"], False, [0, 1]),
        (["b", "z"], ["a", "b"], True, [0, 1]),
        (["a", "a2"], ["a", "a2"], False, [0, 1]),
        (["b", "a"], ["a", "b", "c", "c"], False, [1, 0]),
    ],
)
def test_matching_labels(of_data, of_model, by_number, expected):
    assert match_labels(of_data, of_model, by_number).tolist() == expected


@pytest.mark.parametrize(
    ("of_data", "by_number", "message"),
    [
        (["a", "x", "y"], False, "'x' and 1 more classes of the data are not among"),
        (["a", "c"], False, "'c' and 0 more"),  # which of the two?
        (["p", "q", "r", "s", "t"], True, "the data has 5 classes, but the model knows 4"),
    ],
)
def test_classes_that_do_not_match(of_data, by_number, message):
    with pytest.raises(UserError, match=message):
        match_labels(of_data, ["a", "b", "c", "c"], by_number)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "./nowhere"], r"--data ./nowhere: no such folder"),
        (["model.num_latents=3"], "model.num_latents=3: only keys of section data"),
        (["data.pth=x"], "unknown key 'data.pth'"),
    ],
)
def test_mistakes_are_named(checkpoint, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        evaluate(checkpoint, *options, output=tmp_path / "out")


def test_checkpoints_that_are_none(checkpoint, data, tmp_path):
    with pytest.raises(UserError, match="no such folder, and no OWNER/NAME"):
        evaluate("nowhere", output=tmp_path / "out")
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="holds a vit model; expected perceiver_study"):
        evaluate(folder, "--data", str(data), output=tmp_path / "out")


def test_a_model_of_no_task_without_a_recipe(data, tmp_path):
    folder = save_checkpoint(tmp_path / "checkpoint", f"data.path={data}")
    PerceiverStudyForImageClassification.from_pretrained(folder).perceiver.save_pretrained(folder)
    (folder / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"holds PerceiverStudyModel; expected one of Perceiver.*--config"):
        evaluate(folder, "--data", str(data), output=tmp_path / "out")


def test_a_model_without_a_classifier(checkpoint, data, tmp_path):
    folder = save_checkpoint(tmp_path / "checkpoint", f"data.path={data}")
    PerceiverStudyForImageClassification.from_pretrained(folder).perceiver.save_pretrained(folder)
    with pytest.raises(UserError, match=r"not hold a whole model for .*: 2 weights are missing \(classifier.bias"):
        evaluate(folder, output=tmp_path / "out")


def test_no_pickle_is_loaded(data, tmp_path):
    folder = save_checkpoint(tmp_path / "checkpoint", f"data.path={data}")
    (folder / "model.safetensors").unlink()
    torch.save(small_model().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"checkpoint cannot be loaded: .*safetensors"):
        evaluate(folder, output=tmp_path / "out")


def test_damaged_weights(data, tmp_path):
    folder = save_checkpoint(tmp_path / "checkpoint", f"data.path={data}")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"checkpoint cannot be loaded: "):
        evaluate(folder, output=tmp_path / "out")


def assert_each_is_counted_once(count: int, two: dict, one: dict):
    assert one["samples"] == two["samples"] == count
    assert two["classes"] == one["classes"]
    for name in ("accuracy", "top_3_accuracy", "loss", "expected_calibration_error"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)
        assert two["flip"][name] == pytest.approx(one["flip"][name], rel=1e-5)


def test_a_single_image_is_counted_once_by_two_processes(tmp_path):
    """Of two images at a time, which one does not divide by either."""
    checkpoint = save_checkpoint(tmp_path / "checkpoint", f"data.path={make_parquet(tmp_path / 'data', test=1)}")
    options = [str(checkpoint), "--batch_size", "2", "--flip", f"data.cache_dir={tmp_path / 'cache'}"]
    assert run_together(2, score.main, [*options, "--output", str(tmp_path / "two")]) == [0, 0]
    two = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert_each_is_counted_once(1, two, evaluate(*options, output=tmp_path / "one"))


def test_two_processes_count_each_image_once(data, tmp_path):
    """21 do not divide by two processes of two images at a time. Launched as a command, which finds `evaluate`."""
    checkpoint = save_checkpoint(tmp_path / "checkpoint", f"data.path={data}")
    options = [str(checkpoint), "--batch_size", "2", "--flip"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launched = subprocess.run(
        [*launcher, str(COMMAND), *options, "--output", str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("more in") == 1
    two = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert_each_is_counted_once(21, two, evaluate(*options, output=tmp_path / "one"))


def test_a_checkpoint_does_not_say_where_to_write(tmp_path):
    (tmp_path / "recipe.yaml").write_text("data:\n  name: digits\n  cache_dir: /somewhere/else\n")
    assert score.find_recipe(score.parse([str(tmp_path)])).data.cache_dir is None
    own = score.parse([str(tmp_path), "data.cache_dir=here"])
    assert score.find_recipe(own).data.cache_dir == "here"


def test_images_that_are_left_out_take_their_labels_along(tmp_path):
    folder = make_image_folder(tmp_path / "data")
    files = sorted((folder / "test").rglob("*.png"))
    files[0].write_bytes(b"no image")
    checkpoint = save_checkpoint(
        tmp_path / "checkpoint", f"data.path={folder}", "data.validation_samples=3", label_names=sorted(CLASSES)
    )
    results = evaluate(checkpoint, "data.on_error=skip", output=tmp_path / "out")
    logits = logits_of(checkpoint, [Image.open(file) for file in files[1:]])
    labels = torch.tensor([sorted(CLASSES).index(file.parent.name) for file in files[1:]])
    assert results["samples"] == len(files) - 1
    assert results["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)


def test_a_recipe_of_another_kind(checkpoint, tmp_path):
    (tmp_path / "recipe.yaml").write_text("task: text-classification\ndata: {name: made-up}\n")
    with pytest.raises(UserError, match=r"holds PerceiverStudyForImage.*: task=text-classification needs Perc.*Seq"):
        evaluate(checkpoint, "--config", str(tmp_path / "recipe.yaml"), output=tmp_path / "out")


def test_a_file_is_no_folder_to_write_to(checkpoint, monkeypatch):
    monkeypatch.setattr(score, "predict", lambda *_: pytest.fail("judged"))
    with pytest.raises(UserError, match=r"--output .*config.json cannot be made a folder .*: name another"):
        evaluate(checkpoint, output=checkpoint / "config.json")


def test_other_data_have_another_title(data, tmp_path):
    folder = save_checkpoint(tmp_path, f"data.path={data}", "data.title='My images'")
    named = [score.find_recipe(score.parse([str(folder), *more])).data.called for more in ([], ["--data", str(data)])]
    assert named == ["My images", str(data)]
    own = score.parse([str(folder), "--data", str(data), "data.title=Others"])
    assert score.find_recipe(own).data.called == "Others"
