import pytest
import torch

import benchmark
from benchmark import agreement, measure
from lab.errors import UserError
from lab.peers.contenders import GENERAL, OURS, Case, contenders
from lab.peers.results import table

pytestmark = pytest.mark.slow

TINY = {"image_size": 12, "batch": 2, "num_latents": 4, "d_latents": 16, "num_frequency_bands": 3}


@pytest.fixture
def arguments():
    return type("Arguments", (), {"rounds": 1, "dtype": "float32", "compile": False})


@pytest.fixture
def without_perceiver_pytorch(monkeypatch):
    """Leave out perceiver-pytorch, which the tests do not need."""
    monkeypatch.setattr(
        benchmark, "contenders", lambda case: {n: b for n, b in contenders(case).items() if n != "perceiver-pytorch"}
    )


@pytest.mark.parametrize("part", ["model", "cross-attend"])
def test_measures_every_contender(monkeypatch, arguments, without_perceiver_pytorch, part):
    monkeypatch.setattr(benchmark, "peak_memory", lambda *_: 1.0)
    result = measure(Case("tiny", part, **TINY), torch.device("cpu"), arguments)
    assert set(result["step"]) == {OURS, GENERAL, "transformers"}
    assert all(entry["milliseconds"] > 0 for entry in result["forward"].values())
    assert result["step"][OURS]["times_ours"] == 1
    assert result["step_gflop"] > 0
    assert part == "cross-attend" or result["agreement"] < 1e-5
    results = {
        "hardware": "a machine",
        "dtype": "float32",
        "matmul_precision": "medium",
        "compiled": False,
        "memory_kept": True,
        "matrix_gflops": 1.0,
        "convolution_gflops": 2.0,
        "rounds": 1,
        "cases": {"tiny": result},
    }
    assert table(results).count("| tiny |") == 3
    assert "float32 with products of medium precision, eager, freed memory kept" in table(results)
    result["step"][OURS]["megabytes"] = None
    assert table(results).count("|  |") == 3  # no rate for two others, and no memory for ours


def test_contenders_that_do_other_work_are_refused():
    case = Case("tiny", "model", **TINY)
    models = {name: contenders(case)[name]() for name in (OURS, GENERAL, "transformers")}
    models["transformers"].perceiver.input_preprocessor.position_embeddings.max_resolution = (6, 6)
    with pytest.raises(UserError, match="logits differ"):
        agreement(models, torch.randn(2, 3, 12, 12))


def test_memory_of_the_general_path_is_seen():
    """It stores pixels beside positions, keys, values and the map; the separable path none of these."""
    case = Case("small", "cross-attend", **{**TINY, "image_size": 160, "num_latents": 64, "num_frequency_bands": 32})
    settings = ("cpu", "float32", "highest", False)
    general = benchmark._peak_memory(case, GENERAL, *settings)
    assert general > 4 * benchmark._peak_memory(case, OURS, *settings)
    assert general > 2 * 160 * 160 * 133 * 4 / 2**20  # the array itself
