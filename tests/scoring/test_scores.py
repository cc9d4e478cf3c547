import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from lab.scoring.scores import TopKAccuracy, calibrate, class_table, confusions


def test_calibration_error_by_the_definition():
    rng = np.random.default_rng(0)
    confidence, right = rng.uniform(0.1, 1, 500), rng.random(500) < 0.6
    expected = 0.0
    for bin in range(15):
        inside = (confidence > bin / 15) & (confidence <= (bin + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    calibration = calibrate(confidence, right)
    assert calibration.error == pytest.approx(expected, abs=1e-12)
    assert calibration.counts.sum() == 500
    assert np.isnan(calibration.accuracies[0]) and calibration.counts[0] == 0


def test_bins_are_those_of_scikit_learn():
    """Which leaves out empty bins and tells no counts, so that the error cannot be computed from it."""
    rng = np.random.default_rng(0)
    confidence, right = rng.uniform(0.1, 1, 500), rng.random(500) < 0.6
    calibration = calibrate(confidence, right)
    accuracies, confidences = calibration_curve(right, confidence, n_bins=15)
    there = calibration.counts > 0
    assert calibration.accuracies[there] == pytest.approx(accuracies)
    assert calibration.confidences[there] == pytest.approx(confidences)


def test_bins_include_their_upper_edge():
    counts = calibrate(np.array([0.0, 0.25, 0.26, 0.5, 1.0]), np.zeros(5, bool), bins=4).counts
    assert counts.tolist() == [2, 2, 0, 1]


@pytest.mark.parametrize(("share", "error"), [(1.0, 0.1), (0.9, 0.0), (0.0, 0.9)])
def test_confidence_that_is_the_same_for_all(share, error):
    right = np.arange(100) < 100 * share
    assert calibrate(np.full(100, 0.9), right).error == pytest.approx(error)


def test_scores_of_each_class():
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    red, green, blue, none = class_table(labels, predicted, ["red", "green", "blue", "none"])
    assert (red["precision"], red["recall"], red["samples"]) == (2 / 3, 2 / 3, 3)
    assert (green["precision"], green["recall"], green["f1"]) == pytest.approx((2 / 3, 1, 0.8))
    assert (blue["precision"], blue["recall"], blue["samples"]) == (None, 0, 1)  # never predicted
    assert (none["precision"], none["recall"], none["f1"], none["samples"]) == (None, None, None, 0)
    assert confusions(labels, predicted, 4).tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_accuracy_over_batches_of_different_sizes():
    metric = TopKAccuracy(k=2)
    metric.add_batch(predictions=torch.tensor([[0, 1], [1, 2], [2, 0]]), references=torch.tensor([0, 2, 1]))
    metric.add_batch(predictions=torch.tensor([[1, 0]]), references=torch.tensor([1]))
    assert metric.compute() == {"accuracy": 2 / 4, "top_2_accuracy": 3 / 4}


def test_starts_anew_after_compute():
    metric = TopKAccuracy(k=1)
    for expected in (1.0, 0.0):
        metric.add_batch(predictions=torch.tensor([[1]]), references=torch.tensor([int(expected)]))
        assert metric.compute() == {"accuracy": expected}


def test_wrong_number_of_predictions():
    with pytest.raises(ValueError):
        TopKAccuracy(k=2).compute(predictions=[[1, 2]], references=[1, 2])
