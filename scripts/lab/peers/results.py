"""Tables and pictures of a benchmark, made from its JSON file only."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lab.peers.contenders import OURS


def table(results: dict) -> str:
    """Return a Markdown table with a row for each case and contender."""
    rate = max(results["matrix_gflops"], results["convolution_gflops"])
    precision = (
        "" if results["matmul_precision"] == "highest" else f" with products of {results['matmul_precision']} precision"
    )
    how = ("compiled" if results["compiled"] else "eager") + (", freed memory kept" if results["memory_kept"] else "")
    lines = [
        f"{results['hardware']}, {results['dtype']}{precision}, {how}, "
        f"largest matrix products at {results['matrix_gflops']:.0f} GFLOP/s, as convolutions at "
        f"{results['convolution_gflops']:.0f}; medians of {results['rounds']} rounds, a sample. "
        f"Memory{' (only on CUDA)' if results['compiled'] else ''} is what a step needs beyond "
        f"one {'like it' if results['compiled'] else 'on 8 × 8 pixels'}. The last column is the rate of a step's "
        "matrix products, as a share of the higher of these two rates.",
        "",
        "| case | | forward ms | × ours | step ms | × ours | step memory MB | of peak |",
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
    """Draw time and memory of a cross-attend's training step against the number of points, with fitted exponents."""
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


def where(results: dict) -> str:
    """Hardware, and a warning where other work ran beside."""
    crowded = results["load_average"] > results["cores"] + 0.5
    beside = (
        f"{results['cores']} cores at a load of {results['load_average']:.1f}, so compare times only within a case"
        if crowded
        else f"{results['cores']} cores"
    )
    return f"{results['hardware']} on {beside}"


def inputs_table(results: dict) -> str:
    """Return a Markdown table of scripts/benchmark_inputs.py, with a row for each case and contender."""
    lines = [
        f"{where(results)}; float32, medians of {results['rounds']} rounds. Memory is what is needed beyond model and "
        f"clip; more than {results['limit_gigabytes']:g} GB does not fit.",
        "",
        "| video beside sound | elements | array MB | | forward ms | × ours | MB | step ms | × ours | MB |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for case, result in results["cases"].items():
        start = f"| {case} | {result['elements']:,} | {result['array_megabytes']:.0f} |"
        for name in dict.fromkeys((*result["step"], *result["does_not_fit"])):
            if name in result["does_not_fit"]:
                needed = f"does not fit: {result['does_not_fit'][name]:.1f} GB for a step"
                lines.append(f"{start} {name} | | | | {needed} | | |")
                continue
            cells = []
            for what in ("forward", "step"):
                found = result[what][name]
                timed = "milliseconds" in found
                cells += [f"{found['milliseconds']:,.0f}", f"{found['times_ours']:.2f}"] if timed else ["", ""]
                cells.append(f"{found['megabytes']:,.0f}")
            lines.append(f"{start} {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def decoding_table(results: dict) -> str:
    """Return a Markdown table of scripts/benchmark_inputs.py, with a row for each number of output queries."""
    lines = [
        f"{where(results)}; float32, one run. Memory is what is needed beyond the model; more than "
        f"{results['limit_gigabytes']:g} GB does not fit.",
        "",
        "| output queries | | forward MB | forward s | step MB | step s |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for queries, ways in results["queries"].items():
        for way, found in ways.items():
            if "does_not_fit" in found:
                lines.append(f"| {int(queries):,} | {way} | | | does not fit: {found['does_not_fit']:.1f} GB | |")
                continue
            cells = [
                f"{found[f'{what}_{unit}']:,.1f}" for what in ("forward", "step") for unit in ("megabytes", "seconds")
            ]
            lines.append(f"| {int(queries):,} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
