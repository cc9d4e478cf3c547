import pytest
import torch
from accelerate import Accelerator

from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from lab.training import utilization
from lab.training.cost import measure
from lab.training.utilization import Utilization, peak_flops, sample_flops
from tests.small_data import TINY_RUN, fresh_accelerate

CPU = torch.device("cpu")


def tiny(*overrides):
    return build_task(load_recipe(DEFAULT_RECIPE, [*TINY_RUN, *overrides]))


@pytest.fixture
def accelerator():
    fresh_accelerate()
    return Accelerator(cpu=True)


def on_gpu(monkeypatch, accelerator, name, precision="no", processes=1):
    """An accelerator that says it has so many GPUs of this name."""
    monkeypatch.setattr(utilization.torch.cuda, "get_device_name", lambda device: name)
    state = {"device": torch.device("cuda"), "num_processes": processes, "mixed_precision": precision}
    for key, value in state.items():
        monkeypatch.setattr(Accelerator, key, value)
    return accelerator


def test_flops_are_those_of_arithmetic():
    """What another layer adds, of which all products are known."""
    latents, width, widening = 4, 16, 2
    tasks = [tiny(f"model.num_self_attends_per_block={depth}") for depth in (1, 2)]
    found = [sample_flops(task, task.build_model(), 8, CPU) for task in tasks]
    products = 4 * latents * width**2 + 2 * latents**2 * width + 2 * widening * latents * width**2
    assert found[1] - found[0] == 3 * 2 * products  # a backward pass is two forward passes


@pytest.mark.parametrize("model", [{}, {"position_encoding_type": "learned"}, {"cross_attend_path": "general"}])
def test_the_count_of_one_sample_is_that_of_measure_and_more_samples_share_what_is_done_once(model):
    task = tiny(*(f"model.{key}={value}" for key, value in model.items()))
    built, path = task.build_model(), task.config.cross_attend_path
    one = sample_flops(task, built, 1, CPU)
    assert one >= sample_flops(task, built, 64, CPU) > 0.5 * one
    assert task.config.cross_attend_path == path
    assert all(parameter.grad is None for parameter in built.parameters())
    if not model:
        assert one == measure(task).step_flops


def test_what_is_drawn_counts_with_its_mean_number_and_takes_the_memory_of_most():
    shape = [f"model.{each}" for each in ("num_latents=8", "num_blocks=3", "num_cross_attends=3")]

    def costs(latents, blocks):
        drawn = (f"model.training_latents={latents}", f"model.training_blocks={blocks}")
        task = tiny(*shape, *drawn)
        return sample_flops(task, task.build_model(), 8, CPU), measure(task)

    mean, most, found = costs(5, 2), costs(8, 3), costs("[2,8]", "[1,3]")
    assert found[0] == mean[0] < most[0]
    assert (found[1].forward_flops, found[1].step_flops) == (mean[1].forward_flops, mean[1].step_flops)
    assert found[1].activation_bytes == most[1].activation_bytes > mean[1].activation_bytes


def test_weights_that_stay_as_they_are_cost_less():
    task = tiny()
    model = task.build_model()
    whole = sample_flops(task, model, 8, CPU)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.classifier.requires_grad_(True)
    assert sample_flops(task, model, 8, CPU) < 0.5 * whole


def test_of_a_cpu_no_peak_is_known(accelerator):
    assert peak_flops(accelerator, "highest") is None
    found = Utilization(accelerator, tiny(), tiny().build_model()).of(100.0)
    assert list(found) == ["gflops_per_second"]


@pytest.mark.parametrize(
    ("name", "precision", "matmul", "processes", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", "highest", 1, 312e12),
        ("NVIDIA A100-SXM4-80GB", "no", "highest", 1, 19.5e12),
        ("NVIDIA A100-SXM4-80GB", "no", "high", 8, 8 * 156e12),
        ("NVIDIA H100 80GB HBM3", "fp16", "high", 2, 2 * 989.5e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", "highest", 1, None),
        ("NVIDIA of next year", "bf16", "highest", 1, None),
    ],
)
def test_peaks_of_gpus(monkeypatch, accelerator, name, precision, matmul, processes, expected):
    assert peak_flops(on_gpu(monkeypatch, accelerator, name, precision, processes), matmul) == expected


def test_utilization_is_a_share_of_the_peak(monkeypatch, accelerator):
    task = tiny()
    gpu = on_gpu(monkeypatch, accelerator, "NVIDIA A100-SXM4-80GB")
    found = Utilization(gpu, task, task.build_model())
    found.flops = 2e9
    assert found.of(1950.0) == {"gflops_per_second": 3900.0, "utilization": pytest.approx(0.2)}


def test_what_cannot_be_counted_is_said_and_left_out(monkeypatch, accelerator, capsys):
    def fail(*arguments):
        raise NotImplementedError("no meta kernel\nof this")

    monkeypatch.setattr(utilization, "sample_flops", fail)
    assert Utilization(accelerator, tiny(), tiny().build_model()).of(10.0) == {}
    assert "FLOP of a step cannot be counted, so they are not logged: no meta kernel of this" in capsys.readouterr().out
