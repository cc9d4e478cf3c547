"""Several classes a sample and numbers, from training to a published folder."""

import json

import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score
from transformers import pipeline

import predict
import publish
import score
import train
from lab.errors import UserError
from modeling_perceiver_study import PerceiverStudyForImageClassification, PerceiverStudyImageProcessor
from tests.small_data import TINY_RUN, fresh_accelerate

pytestmark = pytest.mark.slow

KINDS = {"multi_label_classification": ["dark", "even", "small"], "regression": ["value", "brightness"]}


def make_digits(folder, count=900):
    """Digits with tags (lists of strings) and two numbers of very different size, as parquet files."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))[: count + 200]
    pixels = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)
    digits, brightness = bunch.target[order], pixels.mean(axis=(1, 2)) * 1000
    tags = [
        [name for name, there in {"even": digit % 2 == 0, "small": digit < 5, "dark": light < 75_000}.items() if there]
        for digit, light in zip(digits, brightness, strict=True)
    ]
    columns = {
        "image": [Image.fromarray(one) for one in pixels],
        "tags": tags,
        "value": digits.astype(np.uint8),
        "brightness": brightness.astype(np.float32),
    }
    folder.mkdir()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "tags": datasets.List(datasets.Value("string")),
            "value": datasets.Value("uint8"),
            "brightness": datasets.Value("float32"),
        }
    )
    rows = datasets.Dataset.from_dict(columns, features=features)
    rows.select(range(count)).to_parquet(folder / "train.parquet")
    rows.select(range(count, count + 200)).to_parquet(folder / "test.parquet")
    return rows.select(range(count, count + 200))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder / "data", make_digits(folder / "data")


@pytest.fixture(scope="module", params=KINDS)
def trained(request, digits, tmp_path_factory):
    """The folder of a run and the problem type."""
    kind, names = request.param, KINDS[request.param]
    labels = "tags" if kind == "multi_label_classification" else "[value,brightness]"
    folder = tmp_path_factory.mktemp("trained") / kind
    fresh_accelerate()
    train.main(
        [
            *TINY_RUN,
            "model.num_channels=1",
            "image_processor.image_mean=[0.3]",
            "image_processor.image_std=[0.38]",
            f"model.problem_type={kind}",
            f"model.num_labels={len(names)}",
            f"data.path={digits[0]}",
            f"data.columns.label={labels}",
            "data.validation_samples=200",
            "optimization.epochs=8",
            "optimization.batch_size=25",
            "optimization.label_smoothing=0",
            "logging.log_with=null",
            f"output_dir={folder}",
        ]
    )
    return folder, kind


@torch.no_grad()
def answers(folder, rows):
    model = PerceiverStudyForImageClassification.from_pretrained(folder).eval()
    processor = PerceiverStudyImageProcessor.from_pretrained(folder)
    return model(**processor(rows["image"][:], return_tensors="pt")).logits.numpy()


def truth(kind, rows):
    if kind == "regression":
        return np.stack([rows["value"][:], rows["brightness"][:]], axis=1).astype(np.float32)
    return np.array([[name in tags for name in KINDS[kind]] for tags in rows["tags"]], dtype=np.float32)


def test_it_learns_and_its_scores_are_those_of_the_saved_model(trained, digits):
    """Answers of the folder, read as a stranger would, are in the units of the labels."""
    folder, kind = trained
    metrics = json.loads((folder / "metrics.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == kind and list(config["id2label"].values()) == KINDS[kind]
    found, labels = answers(folder, digits[1]), truth(kind, digits[1])
    if kind == "regression":
        assert metrics["test_mean_absolute_error"] == pytest.approx(mean_absolute_error(labels, found), rel=1e-4)
        assert metrics["test_r2"] == pytest.approx(r2_score(labels, found), rel=1e-3)
        assert r2_score(labels, found, multioutput="raw_values").min() > 0.05, "better than the mean, both numbers"
    else:
        expected = average_precision_score(labels, found, average="macro")
        assert metrics["test_mean_average_precision"] == pytest.approx(expected, rel=1e-4)
        assert expected > labels.mean() + 0.1, "better than chance"


def test_score_says_the_same(trained, tmp_path):
    folder, kind = trained
    fresh_accelerate()
    score.main([str(folder), "--flip", "--output", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    text = (tmp_path / "out" / "evaluation.md").read_text()
    for name in {"regression": ["mean_squared_error", "r2"]}.get(kind, ["mean_average_precision", "f1"]):
        assert results[name] == pytest.approx(metrics[f"test_{name}"], rel=1e-3) and name in results["flip"]
    rows = results["numbers" if kind == "regression" else "classes"]
    assert [row["name"] for row in rows] == KINDS[kind] and all(f"| {name} |" in text for name in KINDS[kind])
    picture = "answers.png" if kind == "regression" else "precision_recall.png"
    assert (tmp_path / "out" / picture).stat().st_size > 0


def test_classes_that_a_split_lacks(trained, digits, tmp_path):
    """Lists of classes may not show all of them; other numbers than the model's are refused."""
    folder, kind = trained
    odd = digits[1].filter(lambda row: row["value"] % 2 == 1)
    (tmp_path / "odd").mkdir()
    odd.to_parquet(tmp_path / "odd" / "test.parquet")
    options = [str(folder), "--data", str(tmp_path / "odd"), "--output", str(tmp_path / "out")]
    fresh_accelerate()
    if kind == "regression":
        with pytest.raises(UserError, match=r"the data has 1 numbers, but the model gives 2"):
            score.main([*options, "data.columns={label: value}"])
        fresh_accelerate()
        # Whatever their order.
        score.main([*options, "data.columns={label: [brightness, value]}"])
        results = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        expected = mean_absolute_error(truth(kind, odd), answers(folder, odd))
        assert results["mean_absolute_error"] == pytest.approx(expected, rel=1e-4)
        return
    score.main(options)
    classes = json.loads((tmp_path / "out" / "evaluation.json").read_text())["classes"]
    assert [row["samples"] for row in classes] == truth(kind, odd).sum(axis=0).astype(int).tolist()
    assert classes[1]["samples"] == 0


def test_it_is_published(trained, digits, tmp_path):
    """Staging loads it in a clean process and measures its score again."""
    folder, kind = trained
    publish.main([str(folder), "--repo_id", "org/digits", "--output", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    metric = {"regression": "mse"}.get(kind, "mean_average_precision")
    assert metric in [one["type"] for one in header["model-index"][0]["results"][0]["metrics"]]
    picture = "answers.png" if kind == "regression" else "precision_recall.png"
    assert f"figures/{picture}" in card and (tmp_path / "out" / "figures" / picture).exists()
    # The programs of the card run, and answer with what the labels are.
    rows = digits[1]
    rows[0]["image"].save(tmp_path / "image.png")
    classify = pipeline("image-classification", model=str(tmp_path / "out"), trust_remote_code=True)
    answer = {one["label"]: one["score"] for one in classify(str(tmp_path / "image.png"), top_k=5)}
    found = answers(folder, rows)[0]
    expected = found if kind == "regression" else 1 / (1 + np.exp(-found))
    assert answer == pytest.approx(dict(zip(KINDS[kind], expected.tolist(), strict=True)), rel=1e-3)
    printed = [line for line in card.splitlines() if line.startswith("print(")]
    model, logits = classify.model, torch.from_numpy(found)[None]
    assert any("logits" in line for line in printed)
    for line in printed:
        scope = {"classify": lambda path, top_k: classify(str(tmp_path / path), top_k=top_k)}
        scope["classify"].model = model
        exec(line, scope | {"model": model, "logits": logits})


def test_predict_writes_numbers_as_they_are(trained, digits, tmp_path, capsys):
    folder, kind = trained
    digits[1][0]["image"].save(tmp_path / "image.png")
    predict.main([str(folder), str(tmp_path / "image.png"), "--top_k", "1"])
    _, *lines = capsys.readouterr().out.splitlines()
    found = answers(folder, digits[1])[0]
    if kind == "regression":
        written = {line.split()[0]: float(line.split()[1]) for line in lines}
        assert written == pytest.approx(dict(zip(KINDS[kind], found.tolist(), strict=True)), rel=1e-2)
    else:
        assert len(lines) == 1 and lines[0].endswith("%")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.columns.label=tags"], r"tags .* holds lists; .*model.problem_type=multi_label_classification takes"),
        (["data.columns.label=brightness"], r"brightness .* holds .*; .*model.problem_type=regression takes"),
        (
            ["data.columns.label=tags", "model.problem_type=multi_label_classification"],
            r"model.num_labels=10, but the data has 3 labels \(dark, even, small\): set it to 3",
        ),
        (["data.columns.label=tags", "model.problem_type=regression"], r"tags .* holds strings; expected numbers"),
        (["model.problem_type=other"], r"model.problem_type=other: expected one of single_label"),
        (["model.problem_type=several_tasks"], r"problem_type=several_tasks: expected one of .*, regression, or null"),
    ],
)
def test_mistakes_are_named_before_training(digits, tmp_path, overrides, message):
    fresh_accelerate()
    with pytest.raises(UserError, match=message):
        train.main([f"data.path={digits[0]}", f"output_dir={tmp_path / 'out'}", *overrides])


def test_a_resumed_regression_ends_with_the_same_weights(digits, tmp_path):
    """What is kept of training is in units of the deviation, what is saved in those of the labels."""
    overrides = [
        *TINY_RUN,
        "model.num_channels=1",
        "image_processor.image_mean=[0.3]",
        "image_processor.image_std=[0.38]",
        "model.problem_type=regression",
        "model.num_labels=1",
        f"data.path={digits[0]}",
        "data.columns.label=brightness",
        "data.train_samples=64",
        "optimization.label_smoothing=0",
        "checkpoint.every_steps=8",
        "logging.log_with=null",
    ]
    found = []
    for name in ("whole", "resumed"):
        folder = tmp_path / name
        fresh_accelerate()
        train.main([*overrides, f"output_dir={folder}"])
        if name == "resumed":
            (folder / "metrics.json").unlink()  # as if it had been stopped at the end
            fresh_accelerate()
            train.main([*overrides, f"output_dir={folder}", "--resume"])
        found.append(load_file(folder / "model.safetensors"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
