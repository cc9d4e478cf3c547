"""Losses are those that a model returns for `labels=`, scores those of scikit-learn, whatever the problem type."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, mean_squared_error, r2_score
from sklearn.utils.class_weight import compute_sample_weight

from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from lab.tasks.targets import TARGETS
from modeling_perceiver_study import PerceiverStudyForImageClassification
from tests.small_data import TINY_RUN

NAMES = ["a", "b", "c"]
SEVERAL = ("multi_label_classification", "regression")
UNBALANCED = ("regression", "balanced")  # it has no classes
rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(50, 3)).astype(np.float32)
LABELS = {
    "single_label_classification": rng.choice(3, 50, p=[0.6, 0.3, 0.1]),
    "multi_label_classification": (rng.random((50, 3)) < [0.7, 0.3, 0.1]).astype(np.float32),
    "regression": (rng.normal(size=(50, 3)) * [1, 20, 300] + [0, 5, -1000]).astype(np.float32),
}


def target(problem_type, *overrides, fitted=True):
    made = TARGETS[problem_type](load_recipe(None, ["data.name=digits", *overrides]))
    if fitted:
        made.fit(LABELS[problem_type], NAMES)
    return made


def loss(made, problem_type):
    return made.loss(torch.from_numpy(LOGITS), torch.from_numpy(LABELS[problem_type])).item()


@pytest.mark.parametrize(
    ("problem_type", "num_labels"), [*((problem_type, 3) for problem_type in LABELS), *((kind, 1) for kind in SEVERAL)]
)
def test_losses_are_those_of_the_model(problem_type, num_labels):
    """With labels in the units in which the model answers, as a finished one does."""
    recipe = load_recipe(
        DEFAULT_RECIPE, [*TINY_RUN, f"model.problem_type={problem_type}", f"model.num_labels={num_labels}"]
    )
    task = build_task(recipe)
    torch.manual_seed(0)
    model = PerceiverStudyForImageClassification(task.config).eval()
    labels = torch.from_numpy(LABELS[problem_type][:8])
    labels = labels if labels.ndim == 1 else labels[:, :num_labels]
    with torch.no_grad():
        outputs = model(pixel_values=torch.randn(8, 3, 8, 8), labels=labels)
    assert TARGETS[problem_type](load_recipe(None, ["data.name=digits"])).loss(outputs.logits, labels) == outputs.loss


def test_scores_of_several_classes():
    labels, scores = LABELS["multi_label_classification"], target("multi_label_classification").scores
    found = scores(LOGITS, labels)
    each = [average_precision_score(labels[:, index], LOGITS[:, index]) for index in range(3)]
    assert found["mean_average_precision"] == pytest.approx(np.mean(each))
    assert found["f1"] == pytest.approx(f1_score(labels, LOGITS > 0, average="macro"))
    expected = F.binary_cross_entropy_with_logits(torch.from_numpy(LOGITS), torch.from_numpy(labels)).item()
    assert found["loss"] == pytest.approx(expected)
    # A class that no sample has tells nothing about a model.
    labels = np.concatenate([labels, np.zeros((50, 1), np.float32)], axis=1)
    more = scores(np.concatenate([LOGITS, LOGITS[:, :1]], axis=1), labels)
    assert (more["mean_average_precision"], more["f1"]) == (found["mean_average_precision"], found["f1"])
    with pytest.raises(UserError, match="no sample of this split has any class"):
        scores(LOGITS, np.zeros((50, 3), np.float32))


def test_scores_of_the_only_class_that_some_sample_has(tmp_path):
    """scikit-learn takes a single column for two classes, of which one is the absence of the other."""
    labels, logits = LABELS["multi_label_classification"][:, :1], LOGITS[:, :1]
    made = target("multi_label_classification")
    found = made.scores(logits, labels)
    assert found["f1"] == f1_score(labels[:, 0], logits[:, 0] > 0)
    assert found["f1"] != f1_score(labels, logits > 0, average="macro")
    (row,) = made.details(tmp_path, logits, labels, NAMES[:1], "images").content["classes"]
    assert row["f1"] == found["f1"] and row["samples"] == labels.sum()
    assert row["average precision"] == found["mean_average_precision"]


def test_scores_of_numbers():
    labels = LABELS["regression"]
    found = target("regression").scores(LOGITS, labels)
    assert found == {
        "mean_squared_error": pytest.approx(mean_squared_error(labels, LOGITS)),
        "mean_absolute_error": pytest.approx(mean_absolute_error(labels, LOGITS)),
        "r2": pytest.approx(r2_score(labels, LOGITS)),
        "loss": pytest.approx(mean_squared_error(labels, LOGITS)),
    }


@pytest.mark.parametrize("problem_type", LABELS)
def test_distances_are_losses_of_each_sample(problem_type):
    made, labels = target(problem_type), LABELS[problem_type]
    found = made.distances(LOGITS, labels)
    assert found.shape == (50,)
    loss = made.scores(LOGITS, labels)["loss"]
    if problem_type == "regression":  # each number in its own units
        loss = (((LOGITS - labels) / labels.std(axis=0)) ** 2).mean()
    assert found.mean() == pytest.approx(loss, rel=1e-5)


def test_numbers_that_are_all_equal():
    """Have no deviation to measure answers by."""
    made, labels = target("regression"), np.full((4, 3), 3.0, np.float32)
    assert [right for _, right in made.describe(labels + 0.01, labels, np.arange(4), NAMES)] == [True] * 4
    assert made.distances(labels + 0.5, labels).tolist() == [0.25] * 4


def test_balanced_weights():
    labels = LABELS["single_label_classification"]
    each = F.cross_entropy(torch.from_numpy(LOGITS), torch.from_numpy(labels), reduction="none").numpy()
    weights = compute_sample_weight("balanced", labels)
    found = loss(
        target("single_label_classification", "optimization.class_weights=balanced"), "single_label_classification"
    )
    assert found == pytest.approx((each * weights).mean())
    # Of several classes a sample: positive samples of a class together weigh what negative ones do.
    made = target("multi_label_classification", "optimization.class_weights=balanced")
    positive = LABELS["multi_label_classification"].sum(axis=0)
    assert (made.class_weights.numpy() * positive).tolist() == pytest.approx((50 - positive).tolist())


@pytest.mark.parametrize("problem_type", LABELS)
def test_given_weights(problem_type):
    made = target(problem_type, "optimization.class_weights=[1,2,0]")
    logits, labels = torch.from_numpy(LOGITS), torch.from_numpy(LABELS[problem_type])
    weights = torch.tensor([1.0, 2.0, 0.0])
    if problem_type == "single_label_classification":
        expected = (F.cross_entropy(logits, labels, reduction="none") * weights[labels]).mean()
    elif problem_type == "multi_label_classification":
        expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    else:
        scaled = (labels - labels.mean(dim=0)) / labels.std(dim=0, correction=0)
        expected = ((logits - scaled).square() * weights).mean()
    assert loss(made, problem_type) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_weights_do_not_move_the_best_answer(problem_type, mixed):
    """What a label is smoothed to, or mixed of, is what the lowest loss answers, however rare a class is."""
    made = target(problem_type, "optimization.class_weights=[0.1,1,50]", "optimization.label_smoothing=0.2")
    label = torch.tensor([[0.75, 0.0, 0.25] if mixed else [1.0, 0.0, 0.0]])
    one = problem_type == "single_label_classification"
    best = label * 0.8 + 0.2 / (3 if one else 2)
    logits = (best.log() if one else best.logit()).requires_grad_()
    made.loss(logits, label if mixed or not one else label.argmax(dim=-1)).backward()
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("problem_type", "weights"),
    [
        (kind, weights)
        for kind in LABELS
        for weights in ("null", "balanced", "[1,2,3]")
        if (kind, weights) != UNBALANCED
    ],
)
def test_a_batch_in_parts_has_the_same_loss(problem_type, weights):
    made = target(problem_type, f"optimization.class_weights={weights}")
    logits, labels = torch.from_numpy(LOGITS), torch.from_numpy(LABELS[problem_type])
    parts = [made.loss(logits[part], labels[part]).item() for part in (slice(25), slice(25, 50))]
    assert np.mean(parts) == pytest.approx(loss(made, problem_type), rel=1e-5)


@pytest.mark.parametrize(
    ("problem_type", "override", "message"),
    [
        (
            "single_label_classification",
            "class_weights=[1,2]",
            r"class_weights has 2 numbers: expected 3, one for .*a, b, c",
        ),
        ("regression", "class_weights=[1,2,3,4]", r"class_weights has 4 numbers: expected 3, one for each of a, b, c"),
        (
            "multi_label_classification",
            "class_weights=ballanced",
            r"class_weights=ballanced: expected balanced, a list",
        ),
        ("single_label_classification", "class_weights=[1,-2,3]", r"class_weights=\[1, -2, 3\]: expected balanced"),
        ("single_label_classification", "class_weights=3", r"class_weights=3: expected balanced, a list of numbers"),
        ("regression", "class_weights=balanced", r"class_weights=balanced: a regression has no classes"),
        ("regression", "label_smoothing=0.1", r"label_smoothing=0.1: a regression has no classes to smooth"),
    ],
)
def test_settings_that_do_not_fit_are_named(problem_type, override, message):
    with pytest.raises(UserError, match=message):
        target(problem_type, f"optimization.{override}")


@pytest.mark.parametrize("constant", [False, True])
def test_a_regression_is_saved_in_the_units_of_its_labels(constant):
    """Moving mean and deviation into the last layer changes no answer; taking them out again gives what was trained."""
    labels = LABELS["regression"].copy()
    if constant:
        labels[:, 1] = 7
    made = target("regression", fitted=False)
    made.fit(labels, NAMES)
    layer = torch.nn.Linear(5, 3)
    inputs = torch.randn(50, 5)
    weights = {f"classifier.{name}": tensor.detach().clone() for name, tensor in layer.state_dict().items()}
    finished = made.finish(weights, "classifier")
    answers = F.linear(inputs, finished["classifier.weight"], finished["classifier.bias"])
    torch.testing.assert_close(answers, made.in_units(layer(inputs)), rtol=1e-5, atol=1e-4)
    for name, tensor in made.begin(finished, "classifier").items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-4, atol=1e-5)
    # The mean of squared errors in units of the deviation is the loss; a constant label has a deviation of 1.
    errors = (answers - torch.from_numpy(labels)).square().mean(dim=0)
    deviation = torch.from_numpy(np.where(labels.std(axis=0) > 0, labels.std(axis=0), 1))
    expected = (errors / deviation.square()).mean()
    torch.testing.assert_close(made.loss(layer(inputs), torch.from_numpy(labels)), expected, rtol=1e-4, atol=1e-5)


def test_the_trained_answers_do_not_depend_on_units():
    """The same labels in grams or in tonnes give the same loss."""
    made = [target("regression", fitted=False) for _ in range(2)]
    labels = [LABELS["regression"], LABELS["regression"] * 1e-6]
    for one, of_one in zip(made, labels, strict=True):
        one.fit(of_one, NAMES)
    losses = [one.loss(torch.from_numpy(LOGITS), torch.from_numpy(x)) for one, x in zip(made, labels, strict=True)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)


def test_answers_in_words():
    chosen = np.array([0, 1])
    logits, labels = np.array([[0.0, 9.0], [9.0, 0.0], [1.0, 0.0]], np.float32), np.array([1, 1, 0])
    described = target("single_label_classification", fitted=False).describe(logits, labels, chosen, NAMES)
    assert described == [("b, 100 %", True), ("a, 100 %\nis b", False)]
    several = np.array([[0, 1], [0, 0], [0, 0]], np.float32)
    described = target("multi_label_classification", fitted=False).describe(logits - 1, several, chosen, NAMES[:2])
    assert described == [("b", True), ("a\nis none", False)]
    numbers = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    described = target("regression", fitted=False).describe(
        numbers + np.array([[1], [2], [0]]), numbers, chosen, NAMES[:2]
    )
    assert described == [("2, 3\nis 1, 2", True), ("5, 6\nis 3, 4", False)]


def test_where_a_model_is_worst():
    def weakness(kind, logits, labels, names):
        return target(kind, fitted=False).weakness(np.array(logits, np.float32), np.array(labels), list(names))

    found = weakness("single_label_classification", np.eye(4)[[0, 1, 1, 1, 1, 2]], [0, 0, 0, 1, 1, 2], "abcd")
    assert found.endswith("missed is a (33.3 % found), and the most frequent mistake is a taken for b.")
    found = weakness("single_label_classification", np.eye(3)[[0, 1, 1, 0, 2]], [0, 0, 1, 1, 2], "abc")
    assert found == (
        "The classes that are most often missed are a, b (50.0 % found of each), and the most frequent mistakes are "
        "a taken for b, b taken for a."
    )
    found = weakness("single_label_classification", np.eye(3)[[0, 1, 2]], [0, 1, 2], "abc")
    assert found == "No test sample was taken for one of another class."
    found = weakness(
        "multi_label_classification", [[0, 2, 3], [0, 1, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 1], [0, 0, 1]], "abc"
    )
    assert found.endswith("worst is c, with an average precision of 58.3 %.")
    found = weakness("multi_label_classification", [[3, 0, 0], [0, 1, 2]], [[1, 0, 1], [0, 1, 0]], "abc")
    assert found == "The class that is told worst is c, with an average precision of 50.0 %."
    found = weakness("multi_label_classification", [[0, 1], [1, 0]], [[1, 0], [0, 1]], "ab")
    assert found == "The classes that are told worst are a, b, with an average precision of 50.0 %."
    found = weakness("multi_label_classification", [[1, 0], [0, 1]], [[1, 0], [0, 1]], "ab")
    assert found == "Each class has an average precision of 100 % on the test samples."
    found = weakness("regression", [[0.9, 50], [1.1, 150]], [[0.0, 0], [2, 200]], "ab")
    assert "worst is a: answers are 0.90 of" in found
    found = weakness("regression", [[1, 1], [1, 1]], [[0.0, 0], [2, 2]], "ab")
    assert "The numbers that are told worst are a, b: answers are 1.00 of" in found
    assert weakness("regression", [[1], [1]], [[0.0], [2]], "a").startswith("Answers are 1.00 of")


@pytest.mark.parametrize(
    ("kind", "one", "two"),
    [
        ("single_label_classification", "classifies x into 1 class", "classifies x into 2 classes"),
        ("multi_label_classification", "tells which of 1 class x have", "tells which of 2 classes x have"),
        ("regression", "answers x with a number", "answers x with 2 numbers"),
    ],
)
def test_one_and_several_labels_are_counted(kind, one, two):
    assert [target(kind, fitted=False).purpose("x", number) for number in (1, 2)] == [one, two]
