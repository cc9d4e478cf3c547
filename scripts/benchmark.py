"""Time and memory of this Perceiver beside others, on the same work, in one run.

    python scripts/benchmark.py                                   # all cases, into output/benchmark/
    python scripts/benchmark.py --cases cifar cross-224 --rounds 9 --dtype bf16

Contenders take turns, round by round, so that a machine whose speed drifts treats all alike; figures are medians over
the rounds, ratios medians of the ratios within a round. Peak memory is measured in a process of its own for each.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from lab.augment.images import Normalization, TrainingInputs
from lab.data.decoded_images import ImageDataset
from lab.errors import UserError, run_command
from lab.machine import keep_memory
from lab.peers.contenders import Case, contenders, copy_weights
from lab.provenance import describe_run
from lab.recipe import Augmentation
from modeling_perceiver_study import PerceiverStudyImageProcessor

OURS = "this repository"
CIFAR = {"num_latents": 128, "d_latents": 256, "widening_factor": 4}
IMAGENET = {"num_latents": 512, "d_latents": 1024, "image_size": 224, "num_labels": 1000}
CASES = [
    Case("cifar", "model", image_size=32, batch=32, **CIFAR),
    Case("cross-224", "cross-attend", batch=1, **IMAGENET),
    Case("imagenet-1", "model", batch=1, num_blocks=8, num_self_attends_per_block=6, **IMAGENET),
    Case("imagenet-8", "model", batch=1, num_blocks=8, num_self_attends_per_block=6, num_cross_attends=8, **IMAGENET),
]
# The cost against the number of points, and against depth.
POINTS = [32, 64, 128, 256, 512, 1024]
DEPTHS = [1, 2, 4, 8]
AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def main():
    arguments = parse()
    torch.set_float32_matmul_precision(arguments.matmul_precision)
    if arguments.keep_memory:
        keep_memory()
    accelerator = Accelerator()
    results = {
        **describe_run(accelerator, launcher=("python",)),
        "dtype": arguments.dtype,
        "matmul_precision": arguments.matmul_precision,
        "compiled": arguments.compile,
        "memory_kept": arguments.keep_memory,
        "rounds": arguments.rounds,
    }
    results |= product_rates(accelerator.device, arguments.dtype)
    results["input_images_per_second"] = input_rate(accelerator.device)
    results["cases"] = {}
    for case in tqdm([case for case in CASES if case.name in arguments.cases], desc="cases"):
        results["cases"][case.name] = measure(case, accelerator.device, arguments)
    if "points" in arguments.cases:
        results["points"] = {
            size * size: measure(
                dataclasses.replace(CASES[1], image_size=size), accelerator.device, arguments, at_most=256
            )
            for size in tqdm(POINTS, desc="points")
        }
    if "depth" in arguments.cases:
        results["depth"] = {
            depth: measure(
                dataclasses.replace(CASES[0], num_blocks=depth, num_cross_attends=depth), accelerator.device, arguments
            )
            for depth in tqdm(DEPTHS, desc="depth")
        }
    arguments.output.mkdir(parents=True, exist_ok=True)
    precision = "" if arguments.matmul_precision == "highest" else f"-{arguments.matmul_precision}"
    kept = "-kept" if arguments.keep_memory else ""
    name = f"{arguments.dtype}{precision}{'-compiled' if arguments.compile else ''}{kept}"
    (arguments.output / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.output / f"{name}.md").write_text(table(results))
    if "points" in results:
        draw_growth(results["points"], arguments.output / f"{name}-points.png")
    print(table(results))


def measure(case: Case, device: torch.device, arguments, at_most: int | None = None) -> dict:
    """Milliseconds a sample forward and for a training step, megabytes beyond the start, and ratios to ours.

    Args:
        at_most: above this many pixels an edge only ours takes part, as others need tens of gigabytes.
    """
    builders = contenders(case)
    if at_most is not None and case.image_size > at_most:
        builders = {OURS: builders[OURS]}
    torch.manual_seed(0)
    models = {name: build().to(device) for name, build in builders.items()}
    pixels = torch.randn(case.batch, 3, case.image_size, case.image_size, device=device)
    result = {"agreement": agreement(models, pixels) if case.part == "model" else None}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it does not see fused kernels
        training_step(models[OURS], pixels, None)
    result["step_gflop"] = counter.get_total_flops() / case.batch / 1e9
    if arguments.compile:
        models = {name: torch.compile(model) for name, model in models.items()}
    autocast = AUTOCAST[arguments.dtype]
    for what, run in (("forward", forward), ("step", training_step)):
        times = {name: [] for name in models}
        for count in range(arguments.rounds + 1):
            for name, model in models.items():
                begin = time.perf_counter()
                run(model, pixels, autocast)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if count:  # the first round warms up
                    times[name].append((time.perf_counter() - begin) / case.batch * 1e3)
        result[what] = {
            name: {
                "milliseconds": statistics.median(measured),
                "times_ours": statistics.median(
                    other / ours for other, ours in zip(measured, times[OURS], strict=True)
                ),
            }
            for name, measured in times.items()
        }
    del models
    for name in builders:
        result["step"][name]["megabytes"] = peak_memory(case, name, device, arguments)
    return result


def forward(model: torch.nn.Module, pixels: torch.Tensor, autocast: torch.dtype | None):
    with torch.no_grad(), _autocast(pixels.device, autocast):
        model(pixels)


def training_step(model: torch.nn.Module, pixels: torch.Tensor, autocast: torch.dtype | None):
    """Forward and backward; the optimiser's part depends on the parameters alone."""
    with _autocast(pixels.device, autocast):
        loss = model(pixels).float().square().mean()
    loss.backward()
    for parameter in model.parameters():
        parameter.grad = None


def agreement(models: dict, pixels: torch.Tensor) -> float | None:
    """Largest difference of logits between ours and transformers' with its weights; None where it cannot take part.

    Raises:
        UserError: they differ by more than 1e-4, so they do not do the same work.
    """
    if "transformers" not in models:
        return None
    for parameter in models["transformers"].parameters():
        if parameter.ndim > 1:  # fresh weights attend so evenly that wrong positions would go unnoticed
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    for name in (OURS, "its general road"):
        copy_weights(models[name], models["transformers"])
    with torch.no_grad():
        expected = models["transformers"](pixels)
        error = max((models[name](pixels) - expected).abs().max().item() for name in (OURS, "its general road"))
    if error > 1e-4:
        raise UserError(f"with equal weights, logits differ by {error:.1e} from transformers': expected at most 1e-4")
    return error


def product_rates(device: torch.device, dtype: str) -> dict[str, float]:
    """GFLOP a second of the fastest of some large products, and of the same as convolutions: what bounds the step."""
    best = {"matrix_gflops": 0.0, "convolution_gflops": 0.0}
    for rows, inner, columns in ((2048, 2048, 2048), (4096, 256, 1024), (4096, 1024, 1024)):
        left = torch.randn(rows, inner, device=device, dtype=AUTOCAST[dtype] or torch.float32)
        right = torch.randn(inner, columns, device=device, dtype=left.dtype)
        images, kernels = left.view(16, -1, 1, inner).permute(0, 3, 1, 2), right.T[..., None, None].contiguous()
        ways = (torch.mm, left, right), (torch.nn.functional.conv2d, images, kernels)
        for name, (product, one, other) in zip(best, ways, strict=True):
            for _ in range(8):
                begin = time.perf_counter()
                product(one, other)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                best[name] = max(best[name], 2e-9 * rows * inner * columns / (time.perf_counter() - begin))
    return best


def input_rate(device: torch.device, batch_size: int = 128, batches: int = 40) -> float:
    """CIFAR-sized images a second from uint8 in memory to normalised crops on the device, mirrored or not."""
    images = ImageDataset(np.zeros((50_000, 3, 32, 32), np.uint8), np.zeros(50_000, np.int64))
    normalize = Normalization(PerceiverStudyImageProcessor())
    augment = TrainingInputs(Augmentation(crop_padding=4, horizontal_flip=True), normalize, 0, batch_size, None)
    order, times = np.random.default_rng(0).permutation(len(images)), []
    for step in range(batches):
        begin = time.perf_counter()
        batch = images.__getitems__(order[step * batch_size : (step + 1) * batch_size])
        augment(batch["pixels"].to(device), batch["labels"].to(device), step, 0)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return batch_size / statistics.median(times)


def peak_memory(case: Case, name: str, device: torch.device, arguments) -> float | None:
    """Megabytes that one training step needs beyond model and pixels, in a process of its own; on a CPU, of Linux.

    None if compiled for a CPU: compiling leaves pages behind, which hide what the step takes.
    """
    if arguments.compile and device.type == "cpu":
        return None
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        settings = (str(device), arguments.dtype, arguments.matmul_precision, arguments.compile)
        return pool.apply(_peak_memory, (case, name, *settings))


def _peak_memory(case: Case, name: str, device: str, dtype: str, matmul_precision: str, compiled: bool) -> float:
    torch.set_float32_matmul_precision(matmul_precision)
    torch.manual_seed(0)
    model = contenders(case)[name]().to(device)
    if compiled:
        model = torch.compile(model)
    pixels = torch.randn(case.batch, 3, case.image_size, case.image_size, device=device)
    # What is allocated once for all; compiling needs memory of its own, and is for one size.
    training_step(model, pixels if compiled else pixels[:1, :, :8, :8], AUTOCAST[dtype])
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training_step(model, pixels, AUTOCAST[dtype])
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # Linux keeps the peak of a process, even across exec; 5 makes it forget (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_resident()
    training_step(model, pixels, AUTOCAST[dtype])
    return _peak_resident() - before


def _peak_resident() -> float:
    """Megabytes, since the peak was last forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def table(results: dict) -> str:
    """A Markdown table, a row for each case and contender."""
    rate = max(results["matrix_gflops"], results["convolution_gflops"])
    precision = (
        "" if results["matmul_precision"] == "highest" else f" with products of {results['matmul_precision']} precision"
    )
    how = ("compiled" if results["compiled"] else "eager") + (", freed memory kept" if results["memory_kept"] else "")
    lines = [
        f"{results['hardware']}, {results['dtype']}{precision}, {how}, "
        f"largest matrix products at {results['matrix_gflops']:.0f} GFLOP/s, as convolutions at "
        f"{results['convolution_gflops']:.0f}; medians of {results['rounds']} rounds, a sample. "
        f"Memory{', on CUDA alone,' if results['compiled'] else ''} is what a step needs beyond "
        f"one {'like it' if results['compiled'] else 'on 8 × 8 pixels'}.",
        "",
        "| case | | forward ms | × ours | step ms | × ours | step memory MB | of the higher rate |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for case, result in results["cases"].items():
        for name, step in result["step"].items():
            ahead = result["forward"][name]
            share = f"{result['step_gflop'] / step['milliseconds'] * 1e5 / rate:.0f} %" if name == OURS else ""
            memory = "" if step["megabytes"] is None else f"{step['megabytes']:.0f}"
            lines.append(
                f"| {case} | {name} | {ahead['milliseconds']:.1f} | {ahead['times_ours']:.2f} | "
                f"{step['milliseconds']:.1f} | {step['times_ours']:.2f} | {memory} | {share} |"
            )
    return "\n".join(lines) + "\n"


def draw_growth(points: dict, path: Path):
    """Time and memory of a cross-attend's training step against the number of points, with fitted exponents."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    names = list(next(iter(points.values()))["step"])
    for panel, key, label in zip(panels, ("milliseconds", "megabytes"), ("ms", "MB"), strict=True):
        for name, marker in zip(names, "osv^", strict=False):
            known = [(int(m), result["step"][name][key]) for m, result in points.items() if name in result["step"]]
            known = [(m, value) for m, value in known if value]
            large = [pair for pair in known if pair[0] >= 2**14]
            slope = np.polyfit(*np.log(np.array(large)).T, 1)[0] if len(large) > 1 else float("nan")
            panel.loglog(*zip(*known, strict=True), marker=marker, label=f"{name}, slope {slope:.2f}")
        panel.set_xlabel("points")
        panel.set_ylabel(f"{label} for a training step of one sample")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=150)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(case.name for case in CASES), "points", "depth"]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=AUTOCAST, default="float32")
    parser.add_argument("--matmul_precision", choices=("highest", "high", "medium"), default="highest")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--keep_memory", action="store_true", help="for all contenders, as training on a CPU does")
    parser.add_argument("--output", type=Path, default=Path("output/benchmark"))
    return parser.parse_args()


def _autocast(device: torch.device, dtype: torch.dtype | None):
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


if __name__ == "__main__":
    run_command(main)
