"""What a recipe needs at scale: memory of a GPU, and days against the speed that a GPU sustains.

    python scripts/scale.py --config configuration/not-run/imagenet-8gpus.yaml --processes 8

Runs one training step of one sample on the CPU, in the recipe's precision, and counts: parameters, FLOPs of matrix
products (those of the backward pass and of what it computes again included), and bytes that are kept for it.
Everything else is arithmetic. No speed is assumed unless the table says so; --samples_per_second takes a measured one.
"""

import argparse

from lab.arguments import at_least_one, positive
from lab.errors import UserError, run_command
from lab.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from lab.tasks import build_task
from lab.training.cost import Cost, measure

ASSUMED_TFLOPS = (25, 50, 100, 200, 400)
# In bytes for each parameter: weights, gradients, both moments of AdamW, and DDP's buckets of gradients.
_TRAINING_STATE = {"weights": 4, "gradients": 4, "AdamW": 8, "DDP buckets": 4}


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Memory and days of a recipe.")
    parser.add_argument("--config", default=DEFAULT_RECIPE, metavar="PATH", help="recipe (default: digits)")
    parser.add_argument("--processes", type=at_least_one, default=8, help="GPUs (default: 8)")
    parser.add_argument("--train_samples", type=at_least_one, help="an epoch has (default: that of the recipe)")
    parser.add_argument("--samples_per_second", type=positive, help="measured, over all GPUs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as optimization.epochs=5")
    options = parser.parse_intermixed_args(arguments)
    recipe = load_recipe(options.config, options.overrides)
    samples = options.train_samples or recipe.data.train_samples
    if samples is None:
        raise UserError("how long is an epoch? give --train_samples NUMBER, or data.train_samples=NUMBER")
    cut = options.processes * recipe.optimization.gradient_accumulation_steps
    if recipe.optimization.batch_size % cut:
        raise UserError(
            f"--processes {options.processes} does not cut optimization.batch_size="
            f"{recipe.optimization.batch_size} into equal parts"
        )
    cost = measure(build_task(recipe))
    print(memory_table(cost, recipe, options.processes))
    print(time_table(cost, recipe, samples, options.processes, options.samples_per_second))


def memory_table(cost: Cost, recipe: Recipe, processes: int) -> str:
    """Gigabytes (1e9 bytes) on each GPU, as Markdown."""
    settings = recipe.optimization
    samples = settings.batch_size // processes // settings.gradient_accumulation_steps
    rows = [
        (name, f"{cost.parameters:,} x {size} bytes", cost.parameters * size) for name, size in _TRAINING_STATE.items()
    ]
    rows.append(("kept, for any number of samples", "", cost.fixed_bytes))
    activations = cost.activation_bytes * samples
    rows.append(("activations", f"{samples} samples x {cost.activation_bytes / 1e6:,.0f} MB", activations))
    rows.append(("**sum**", "", sum(size for *_, size in rows)))
    lines = ["| what | | GB on each GPU |", "|---|---:|---:|"]
    lines += [f"| {name} | {terms} | {size / 1e9:.2f} |" for name, terms, size in rows]
    return "\n".join(lines) + "\n"


def _gflop(flops: float) -> str:
    return f"{flops / 1e9:,.0f}" if flops >= 1e10 else f"{flops / 1e9:.2g}"


def time_table(cost: Cost, recipe: Recipe, samples: int, processes: int, measured: float | None = None) -> str:
    """Days of training against sustained speed, as Markdown: assumed ones, or that of a measured throughput."""
    total = recipe.optimization.epochs * samples
    lines = [
        f"{_gflop(cost.forward_flops)} GFLOP a sample forward, {_gflop(cost.step_flops)} for a training step; "
        f"{recipe.optimization.epochs} epochs of {samples:,} samples are {total * cost.step_flops:.2e} FLOP.",
        "",
        f"| TFLOP/s sustained by each of {processes} GPUs | samples/s over all | days |",
        "|---:|---:|---:|",
    ]
    if measured:
        tflops = measured * cost.step_flops / processes / 1e12
        lines.append(
            f"| {tflops:.1f}, from the measured throughput | {measured:,.0f} | {total / measured / 86400:.1f} |"
        )
    else:
        for tflops in ASSUMED_TFLOPS:
            speed = processes * tflops * 1e12 / cost.step_flops
            lines.append(f"| {tflops}, an assumption | {speed:,.0f} | {total / speed / 86400:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main)
