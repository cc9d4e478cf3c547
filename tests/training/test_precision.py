"""What `mixed_precision: auto` becomes: by measurement, once for a run, and the same in all its processes."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from lab.recipe import DEFAULT_RECIPE, load_recipe, recipe_to_yaml
from lab.training import precision
from lab.training.optimization import build_optimizers
from tests.models import small_model
from tests.paths import ROOT, SCRIPTS
from tests.processes import run_together
from tests.small_data import fresh_accelerate

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget():
    fresh_accelerate()
    precision.bfloat16_is_fast.cache_clear()
    yield
    precision.bfloat16_is_fast.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    """Make this machine fast at bfloat16 or slow at it."""
    return lambda fast: monkeypatch.setattr(precision, "bfloat16_is_fast", lambda device: fast)


def recipe(value):
    return load_recipe(DEFAULT_RECIPE, [f"optimization.mixed_precision={value}"])


def settled(value, *arguments):
    return precision.settle_precision(recipe(value), *arguments).optimization.mixed_precision


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "no")])
def test_auto_is_bfloat16_where_that_is_fast(machine, fast, expected):
    machine(fast)
    lines = []
    assert settled("auto", None, lines.append) == expected
    word = "fast" if fast else "slow"
    assert lines == [f"optimization.mixed_precision=auto is {expected} (bfloat16 is {word} on this machine)"]


@pytest.mark.parametrize("value", ["no", "bf16", "fp16"])
def test_what_a_recipe_says_is_done_without_a_measurement(monkeypatch, value):
    monkeypatch.setattr(precision, "bfloat16_is_fast", None)
    assert settled(value) == value


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("begun", ["no", "bf16"])
@pytest.mark.parametrize("file", ["checkpoints/step-00000001/progress.json", "metrics.json"])
def test_a_run_keeps_the_precision_with_which_it_began(machine, tmp_path, begun, fast, file):
    """Also one that is finished and has no checkpoints any more."""
    machine(fast)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe(begun)))
    lines = []
    assert settled("auto", tmp_path, lines.append) == begun
    assert f"is {begun} (as the run in {tmp_path} began; bfloat16 is {'fast' if fast else 'slow'}" in lines[0]


def test_a_run_without_checkpoints_has_not_begun(machine, tmp_path):
    machine(False)
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe("bf16")))
    assert settled("auto", tmp_path) == "no"


@pytest.mark.parametrize(
    ("seconds", "fast"),
    [({torch.float32: 4.0, torch.bfloat16: 1.0}, True), ({torch.float32: 1.0, torch.bfloat16: 0.9}, False)],
)
def test_a_cpu_is_measured_on_one_thread(monkeypatch, seconds, fast):
    """Once: and a single slow moment does not decide."""
    threads = torch.get_num_threads()
    disturbed = iter([100.0, 100.0])
    asked = []

    def measure(dtype):
        asked.append(torch.get_num_threads())
        return next(disturbed, seconds[dtype])

    monkeypatch.setattr(precision, "_seconds_of_product", measure)
    assert [precision.bfloat16_is_fast(CPU) for _ in range(2)] == [fast, fast]
    assert asked == [1] * 50
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("has", [True, False])
def test_cuda_is_asked_for_units_not_for_emulation(monkeypatch, has):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has)
    assert precision.bfloat16_is_fast(torch.device("cuda")) is has


def test_other_devices_stay_in_float32():
    assert not precision.bfloat16_is_fast(torch.device("mps"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN can leave out the units of x86 processors alone")
def test_a_processor_without_units_is_slow():
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": f"{ROOT}{os.pathsep}{SCRIPTS}"}
    code = "import torch, lab.training.precision as p; print(p.bfloat16_is_fast(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def _choose_as_rank(folder):
    rank = int(os.environ["RANK"])
    precision.bfloat16_is_fast = lambda device: rank == 0
    (folder / str(rank)).write_text(settled("auto"))


def test_all_processes_do_as_the_main_one(tmp_path):
    assert run_together(2, _choose_as_rank, tmp_path) == [0, 0]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["bf16", "bf16"]


@pytest.mark.parametrize(("value", "dtype"), [("no", torch.float32), ("fp16", torch.float32), ("bf16", torch.bfloat16)])
def test_muon_computes_in_the_precision_of_the_run(value, dtype):
    settings = load_recipe(
        DEFAULT_RECIPE, ["optimization.optimizer=muon", f"optimization.mixed_precision={value}"]
    ).optimization
    muon, _ = build_optimizers(small_model(), settings, "classifier")
    assert muon.dtype == dtype
