import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metrics
from metrics import TopKAccuracy


def test_the_package_is_found_where_the_command_of_its_name_comes_first():
    scripts = Path(metrics.__file__).parent
    assert (scripts / "evaluate.py").exists()
    program = (
        "import sys, metrics; assert metrics.evaluate is sys.modules['evaluate']; print(metrics.evaluate.__file__)"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=scripts, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).parent.name == "evaluate"


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
