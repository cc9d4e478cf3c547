"""How much arithmetic a training run does in a second, and what share of its GPUs' it uses: model FLOPs utilisation."""

import statistics

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lab.errors import one_line
from lab.tasks.task import Task
from lab.training.cost import counted_config, fixed_budget

_HALF, _TF32, _FLOAT32 = "bf16 or fp16", "TF32", "float32"
# Dense matrix products in 1e12 FLOP a second, from NVIDIA's data sheets, by the name that CUDA gives a device. The
# sheets of Hopper and Ada count zeros of sparse products as well: here is half of what they say.
_DATA_SHEETS = {
    "NVIDIA A10": {_HALF: 125.0, _TF32: 62.5, _FLOAT32: 31.2},
    "NVIDIA A100-SXM4-40GB": (A100 := {_HALF: 312.0, _TF32: 156.0, _FLOAT32: 19.5}),
    "NVIDIA A100-SXM4-80GB": A100,
    "NVIDIA A100-PCIE-40GB": A100,
    "NVIDIA A100 80GB PCIe": A100,
    "NVIDIA L4": {_HALF: 121.0, _TF32: 60.0, _FLOAT32: 30.3},
    "NVIDIA L40S": {_HALF: 362.0, _TF32: 183.0, _FLOAT32: 91.6},
    "NVIDIA H100 PCIe": {_HALF: 756.5, _TF32: 378.0, _FLOAT32: 51.2},
    "NVIDIA H100 80GB HBM3": (HOPPER := {_HALF: 989.5, _TF32: 494.5, _FLOAT32: 67.0}),
    "NVIDIA H200": HOPPER,
}


def peak_flops(accelerator: Accelerator, matmul_precision: str) -> float | None:
    """FLOP a second of all devices together, in the precision that training computes in; None where nobody says.

    Of a CPU no data sheet says it, and a measured rate would depend on what else the machine does.
    """
    if accelerator.device.type != "cuda":
        return None
    sheet = _DATA_SHEETS.get(torch.cuda.get_device_name(accelerator.device))
    if sheet is None:
        return None
    precision = _FLOAT32 if matmul_precision == "highest" else _TF32
    if accelerator.mixed_precision in ("bf16", "fp16"):
        precision = _HALF
    return 1e12 * sheet[precision] * accelerator.num_processes


def sample_flops(task: Task, model: nn.Module, samples: int, device: torch.device) -> float:
    """FLOP of matrix products in a training step for each sample, a multiply-add counted as 2.

    Counted are forward and backward passes of one and of two empty samples, by a copy of the model with weights of its
    own; so what is done once for all samples is told from what each costs. Where latents or blocks are drawn for each
    step, it is the mean number of them. What `gradient_checkpointing` computes again is not counted, since it is of no
    use.

    Args:
        model: whose parameters say which of them are trained.
        samples: of a part of the batch, which share out what is done once.
    """
    counted = task.model_class(counted_config(task.config)).to(device)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in counted.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    with fixed_budget(counted.config, statistics.mean):
        one, two = (_step_flops(task, counted, size, device) for size in (1, 2))
    each = two - one
    return each + (one - each) / samples


def _step_flops(task: Task, model: nn.Module, samples: int, device: torch.device) -> int:
    arguments, targets = task.example(samples, device)
    # The counter sees no fused attention; the kernel of plain products does the same ones.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.loss(model(**arguments), targets).backward()
    return counter.get_total_flops()


class Utilization:
    """Turns samples a second into what is logged of a run's arithmetic."""

    def __init__(self, accelerator: Accelerator, task: Task, model: nn.Module):
        settings = task.recipe.optimization
        self.peak = peak_flops(accelerator, settings.matmul_precision)
        self.flops = None
        if accelerator.is_main_process:  # the one that logs
            part = settings.batch_size // accelerator.num_processes // accelerator.gradient_accumulation_steps
            try:
                self.flops = sample_flops(task, model, part, accelerator.device)
            except Exception as error:  # a model of somebody's own may need values that are not there
                reason = one_line(error) or type(error).__name__
                accelerator.print(f"FLOP of a step cannot be counted, so they are not logged: {reason}")

    def of(self, samples_per_second: float) -> dict[str, float]:
        """`gflops_per_second` over all processes, and `utilization` from 0 to 1 where the devices' peak is known."""
        if self.flops is None:
            return {}
        flops_per_second = self.flops * samples_per_second
        found = {"gflops_per_second": flops_per_second / 1e9}
        return found | ({"utilization": flops_per_second / self.peak} if self.peak else {})
