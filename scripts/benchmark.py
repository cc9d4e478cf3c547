"""Time and memory of this Perceiver beside others, on the same work, in one run.

    python scripts/benchmark.py                                   # all cases, into output/benchmark/
    python scripts/benchmark.py --cases cifar cross-224 --rounds 9 --dtype bf16

Contenders take turns in each round, so that a machine whose speed drifts affects all of them equally. Figures are
medians over the rounds, ratios are medians of the ratios within a round. Peak memory is measured in a separate process
for each. With `--output docs/benchmark` the JSON file and the picture of docs/performance.md are made;
scripts/configurations.py makes its tables from them.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from lab.arguments import at_least_one
from lab.augment.images import Augmentation, Normalization, TrainingInputs
from lab.data.decoded_images import ImageDataset
from lab.errors import UserError, run_command
from lab.machine import keep_memory
from lab.peers.contenders import GENERAL, OURS, Case, contenders, copy_weights
from lab.peers.memory import in_own_process, peak_of
from lab.peers.results import draw_growth, table
from lab.peers.timing import median_ratio, now
from lab.places import folder_to_write, place
from lab.provenance import describe_run
from lab.writing import new_files
from modeling_perceiver_study import PerceiverStudyImageProcessor

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


def main(words: list[str] | None = None):
    arguments = parse(words)
    folder_to_write(arguments.output)
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
    print(table(results))
    precision = "" if arguments.matmul_precision == "highest" else f"-{arguments.matmul_precision}"
    kept = "-kept" if arguments.keep_memory else ""
    name = f"{arguments.dtype}{precision}{'-compiled' if arguments.compile else ''}{kept}"
    with new_files(arguments.output) as unfinished:
        (unfinished / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if "points" in results:
            draw_growth(results["points"], unfinished / f"{name}-points.png")


def measure(case: Case, device: torch.device, arguments, at_most: int | None = None) -> dict:
    """Measure milliseconds a sample, forward and for a training step, with ratios to ours, and megabytes of a step.

    Args:
        at_most: pixels of an edge, above which only ours takes part, since others need tens of gigabytes.
    """
    builders = contenders(case)
    if at_most is not None and case.image_size > at_most:
        builders = {OURS: builders[OURS]}
    torch.manual_seed(0)
    models = {name: build().to(device) for name, build in builders.items()}
    pixels = torch.randn(case.batch, 3, case.image_size, case.image_size, device=device)
    result = {"agreement": agreement(models, pixels) if case.part == "model" else None}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it does not count fused kernels
        training_step(models[OURS], pixels, None)
    result["step_gflop"] = counter.get_total_flops() / case.batch / 1e9
    if arguments.compile:
        models = {name: torch.compile(model) for name, model in models.items()}
    autocast = AUTOCAST[arguments.dtype]
    for what, run in (("forward", forward), ("step", training_step)):
        times = {name: [] for name in models}
        for count in range(arguments.rounds + 1):
            for name, model in models.items():
                begin = now(device)
                run(model, pixels, autocast)
                seconds = now(device) - begin
                if count:  # the first round warms up
                    times[name].append(seconds / case.batch * 1e3)
        result[what] = {
            name: {"milliseconds": statistics.median(measured), "times_ours": median_ratio(measured, times[OURS])}
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
    """Run forward and backward; the optimiser is left out, since its time depends on the parameters only."""
    with _autocast(pixels.device, autocast):
        loss = model(pixels).float().square().mean()
    loss.backward()
    for parameter in model.parameters():
        parameter.grad = None


def agreement(models: dict, pixels: torch.Tensor) -> float | None:
    """Return the largest difference of logits between ours and transformers' with the same weights.

    Returns:
        None if transformers cannot take part in the case.

    Raises:
        UserError: they differ by more than 1e-4, so they do not do the same work.
    """
    if "transformers" not in models:
        return None
    for parameter in models["transformers"].parameters():
        if parameter.ndim > 1:  # with fresh weights attention is so uniform that wrong positions would go unnoticed
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    for name in (OURS, GENERAL):
        copy_weights(models[name], models["transformers"])
    with torch.no_grad():
        expected = models["transformers"](pixels)
        error = max((models[name](pixels) - expected).abs().max().item() for name in (OURS, GENERAL))
    if error > 1e-4:
        raise UserError(f"with equal weights, logits differ by {error:.1e} from transformers': expected at most 1e-4")
    return error


def product_rates(device: torch.device, dtype: str) -> dict[str, float]:
    """Return GFLOP/s of the fastest of some large products, as matrix products and as convolutions."""
    best = {"matrix_gflops": 0.0, "convolution_gflops": 0.0}
    for rows, inner, columns in ((2048, 2048, 2048), (4096, 256, 1024), (4096, 1024, 1024)):
        left = torch.randn(rows, inner, device=device, dtype=AUTOCAST[dtype] or torch.float32)
        right = torch.randn(inner, columns, device=device, dtype=left.dtype)
        images, kernels = left.view(16, -1, 1, inner).permute(0, 3, 1, 2), right.T[..., None, None].contiguous()
        ways = (torch.mm, left, right), (torch.nn.functional.conv2d, images, kernels)
        for name, (product, one, other) in zip(best, ways, strict=True):
            for _ in range(8):
                begin = now(device)
                product(one, other)
                best[name] = max(best[name], 2e-9 * rows * inner * columns / (now(device) - begin))
    return best


def input_rate(device: torch.device, batch_size: int = 128, batches: int = 40) -> float:
    """Return how many CIFAR-sized images a second go from uint8 in memory to normalised random crops on the device."""
    images = ImageDataset(np.zeros((50_000, 3, 32, 32), np.uint8), np.zeros(50_000, np.int64))
    normalize = Normalization(PerceiverStudyImageProcessor())
    augment = TrainingInputs(Augmentation(crop_padding=4, horizontal_flip=True), normalize, 0, batch_size, None)
    order, times = np.random.default_rng(0).permutation(len(images)), []
    for step in range(batches):
        begin = now(device)
        batch = images.__getitems__(order[step * batch_size : (step + 1) * batch_size])
        augment(batch["pixels"].to(device), batch["labels"].to(device), step, 0)
        times.append(now(device) - begin)
    return batch_size / statistics.median(times)


def peak_memory(case: Case, name: str, device: torch.device, arguments) -> float | None:
    """Measure in a separate process how many megabytes one training step needs beyond model and pixels.

    On a CPU this works on Linux. It is None for a model that is compiled for a CPU, because pages that the compiler
    leaves behind hide what the step takes.
    """
    if arguments.compile and device.type == "cpu":
        return None
    settings = (str(device), arguments.dtype, arguments.matmul_precision, arguments.compile)
    return in_own_process(_peak_memory, case, name, *settings)


def _peak_memory(case: Case, name: str, device: str, dtype: str, matmul_precision: str, compiled: bool) -> float:
    torch.set_float32_matmul_precision(matmul_precision)
    torch.manual_seed(0)
    model = contenders(case)[name]().to(device)
    if compiled:
        model = torch.compile(model)
    pixels = torch.randn(case.batch, 3, case.image_size, case.image_size, device=device)
    # First what is allocated only once. Compiling takes memory too, and is for one size.
    training_step(model, pixels if compiled else pixels[:1, :, :8, :8], AUTOCAST[dtype])
    return peak_of(lambda: training_step(model, pixels, AUTOCAST[dtype]), device)


def parse(words: list[str] | None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(case.name for case in CASES), "points", "depth"]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--rounds", type=at_least_one, default=5, help="repetitions (default: 5)")
    parser.add_argument("--dtype", choices=AUTOCAST, default="float32", help="default: float32")
    precisions = ("highest", "high", "medium")
    parser.add_argument("--matmul_precision", choices=precisions, default="highest", help="default: highest")
    parser.add_argument("--compile", action="store_true", help="by torch.compile, all contenders")
    parser.add_argument("--keep_memory", action="store_true", help="for all contenders, as training on a CPU does")
    parser.add_argument("--output", type=place, default=Path("output/benchmark"), metavar="FOLDER")
    return parser.parse_args(words)


def _autocast(device: torch.device, dtype: torch.dtype | None):
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


if __name__ == "__main__":
    run_command(main)
