"""Labels, scores and checkpoints of several tasks at once; what all tasks share is in test_every_task.py."""

import json

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, log_loss

import robustness
import train
from lab.data.labels import BadLabel, label_reader
from lab.errors import UserError
from lab.recipe import load_recipe
from lab.scoring.measures import is_score, measure_of
from lab.tasks import build_task
from lab.tasks.labelled import match_labels_of_tasks
from lab.tasks.targets import TARGETS
from lab.training.run_folder import RESULTS
from tests.small_data import fresh_accelerate
from tests.task_kinds import KINDS

NAMES = ["length: short", "length: long", "vowel: a", "vowel: e", "vowel: u"]
rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(40, 5)).astype(np.float32)
LENGTHS, VOWELS = rng.integers(2, size=40), rng.integers(3, size=40)
LABELS = np.concatenate([np.eye(2, dtype=np.float32)[LENGTHS], np.eye(3, dtype=np.float32)[VOWELS]], axis=1)
LABELS[::5, :2] = 0
LABELS[1::5, 2:] = 0
HAS_LENGTH, HAS_VOWEL = LABELS[:, :2].any(axis=1), LABELS[:, 2:].any(axis=1)


def target(*overrides):
    recipe = load_recipe(None, ["data.name=digits", *overrides])
    return TARGETS["several_tasks"](recipe, {"length": 2, "vowel": 3})


def test_scores_are_means_over_tasks():
    found = target().all_scores(LOGITS, LABELS)
    lengths, vowels = LOGITS[HAS_LENGTH, :2], LOGITS[HAS_VOWEL, 2:]
    accuracies = {
        "accuracy_of_length": accuracy_score(LENGTHS[HAS_LENGTH], lengths.argmax(axis=1)),
        "accuracy_of_vowel": accuracy_score(VOWELS[HAS_VOWEL], vowels.argmax(axis=1)),
    }
    assert {name: found[name] for name in accuracies} == pytest.approx(accuracies)
    assert found["accuracy"] == pytest.approx(np.mean(list(accuracies.values())))
    shares = [torch.from_numpy(part).softmax(dim=-1).numpy() for part in (lengths, vowels)]
    losses = [log_loss(LENGTHS[HAS_LENGTH], shares[0]), log_loss(VOWELS[HAS_VOWEL], shares[1])]
    assert found["loss"] == pytest.approx(np.average(losses, weights=[len(lengths), len(vowels)]), rel=1e-5)
    made = target()
    made.fit(LABELS, NAMES)
    assert made.loss(torch.from_numpy(LOGITS), torch.from_numpy(LABELS)).item() == pytest.approx(
        found["loss"], rel=1e-5
    )
    assert all(is_score(name) for name in found) and not is_score("weight_of_vowel")
    assert measure_of("accuracy_of_vowel").title == "accuracy, vowel"


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_of_a_batch_is_that_of_its_parts(smoothing):
    made = target(f"optimization.label_smoothing={smoothing}")
    logits, labels = torch.from_numpy(LOGITS), torch.from_numpy(LABELS)
    pairs = [(logits[HAS_LENGTH, :2], LENGTHS[HAS_LENGTH]), (logits[HAS_VOWEL, 2:], VOWELS[HAS_VOWEL])]
    expected = sum(
        F.cross_entropy(part, torch.from_numpy(truth), reduction="sum", label_smoothing=smoothing)
        for part, truth in pairs
    )
    torch.testing.assert_close(made.loss(logits, labels), expected / 40)
    halves = [made.loss(logits[rows], labels[rows]) for rows in (slice(0, 20), slice(20, 40))]
    torch.testing.assert_close(made.loss(logits, labels), torch.stack(halves).mean())


def test_answers_in_words_and_the_mean_of_looks():
    made = target()
    described = made.describe(LOGITS, LABELS, np.array([0, 1, 2]), NAMES)
    assert [text.count(": ") for text, _ in described] == [1, 1, 2]  # a line for each label
    assert described[0][0].startswith("vowel: ") and described[1][0].startswith("length: ")
    assert made.title(LABELS[2], NAMES) == f"{NAMES[LENGTHS[2]]}, {NAMES[2 + VOWELS[2]]}"
    assert "Of length: " in made.weakness(LOGITS, LABELS, NAMES)
    same = made.mean([torch.from_numpy(LOGITS)] * 2)
    torch.testing.assert_close(same[:, 2:].softmax(dim=-1), torch.from_numpy(LOGITS[:, 2:]).softmax(dim=-1))


def test_a_task_without_labels_is_left_out():
    labels = LABELS.copy()
    labels[:, :2] = 0
    found = target().scores(LOGITS, labels)
    assert found["accuracy"] == found["accuracy_of_vowel"] and "accuracy_of_length" not in found
    with pytest.raises(UserError, match="no sample of this split has a label of any task"):
        target().scores(LOGITS, np.zeros_like(labels))


def test_classes_are_matched_within_each_task():
    numbered = ["length: 0", "vowel: 0", "vowel: 1"]
    assert match_labels_of_tasks(numbered, NAMES, by_number=True, used=numbered).tolist() == [0, 2, 3]
    assert match_labels_of_tasks(numbered, NAMES, by_number=False, used=numbered).tolist() == [0, 2, 3]
    others = ["vowel: u", "vowel: o", "length: long"]
    assert match_labels_of_tasks(others, NAMES, False, ["vowel: u", "length: long"]).tolist() == [4, -1, 1]
    with pytest.raises(UserError, match="'o' and 0 more classes"):
        match_labels_of_tasks(others, NAMES, False, others)


def test_what_columns_hold():
    columns = {"length": datasets.ClassLabel(names=["short", "long"]), "vowel": datasets.Value("string")}
    reader = label_reader(columns, "several_tasks", "lines")
    reader.fit([[0, "u"], [None, "a"], [1, None]])
    assert reader.names == ["length: short", "length: long", "vowel: a", "vowel: u"]
    assert reader.read([-1, "a"]).tolist() == [0, 0, 1, 0]
    label_reader(columns, "several_tasks", "lines").fit([])
    assert reader.read([1, "a"]).tolist() == [0, 1, 1, 0] and reader.read([None, "u"]).tolist() == [0, 0, 0, 1]
    with pytest.raises(BadLabel, match="no label for any of length, vowel"):
        reader.read([None, None])
    with pytest.raises(BadLabel, match="'e'"):
        reader.read([0, "e"])
    with pytest.raises(UserError, match="label column tags of lines holds lists"):
        label_reader({"tags": datasets.List(datasets.Value("string"))}, "several_tasks", "lines")
    with pytest.raises(UserError, match="expected ClassLabel"):
        reader.number_names(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    KINDS["several tasks"].write_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


def overrides_of(folder, *more):
    return [*KINDS["several tasks"].recipe, f"data.path={folder / 'data'}", *more]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model.tasks={vowel: 4, length: 2}"], r"model.tasks=.*: 4}, but the data has classes .*: 3}"),
        (["model.tasks={weather: 2}"], "model.tasks=weather: .* has columns"),
        (["data.label_column=vowel"], "data.label_column: expected null with model.tasks"),
        (["optimization.class_weights=balanced"], "class_weights=balanced: expected null with model.tasks"),
        (["model.decoder_type=mean"], "decoder_type='mean'"),
        (["model.tasks={vowel: 1}"], "at least 2"),
    ],
)
def test_recipes_that_do_not_fit(folder, more, message):
    with pytest.raises(UserError, match=message):
        build_task(load_recipe(None, overrides_of(folder, *more))).load_splits()


@pytest.mark.slow
def test_a_checkpoint_of_several_tasks_begins_one_of_one(folder):
    (folder / "plain.yaml").write_text("seed: 0\n")
    settings = [f"--config={folder / 'plain.yaml'}", *overrides_of(folder), "logging.log_with=null"]
    fresh_accelerate()
    train.main([*settings, f"output_dir={folder / 'both'}"])
    fresh_accelerate()
    again = [one for one in settings if not one.startswith(("model.tasks", "model.decoder_type"))]
    fresh_accelerate()
    train.main([*again, f"pretrained={folder / 'both'}", f"output_dir={folder / 'again'}"])
    assert "test_accuracy_of_vowel" in json.loads((folder / "again" / RESULTS).read_text())
    with pytest.raises(UserError, match="with one class each"):
        robustness.main([str(folder / "both"), f"data.path={folder / 'data'}"])
    fresh_accelerate()
    one = ["model.tasks=null", "data.label_column=vowel", "data.on_error=skip", f"pretrained={folder / 'both'}"]
    train.main([*settings, *one, f"output_dir={folder / 'one'}"])
    found = json.loads((folder / "one" / RESULTS).read_text())
    assert "test_accuracy" in found and "test_accuracy_of_vowel" not in found


def test_answers_in_words_are_those_of_the_samples():
    chosen = np.array([3, 7, 30, 31])
    for row, (text, right) in zip(chosen, target().describe(9 * LABELS, LABELS, chosen, NAMES), strict=True):
        lines = [f"length: {['short', 'long'][LENGTHS[row]]}, 100 %"] if HAS_LENGTH[row] else []
        lines += [f"vowel: {'aeu'[VOWELS[row]]}, 100 %"] if HAS_VOWEL[row] else []
        assert right and text == "\n".join(lines)
