"""Complexity: how time, multiply-adds and memory grow with inputs, latents and depth, and those of a transformer."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from lab.looking.curves import COLOURS, MARKERS, tidy
from lab.study.comparison import FAILS, HOLDS, Finding, conclude
from lab.study.setting import Setting
from lab.training.cost import kept_bytes
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyModel
from modeling_perceiver_study.position import byte_array

TITLE = "Complexity"
CLAIM = (
    "A cross-attend of N latents to M inputs and L self-attends among the latents cost O(MN + LN²) in time and memory, "
    "so depth does not depend on the size of the input; a transformer on the M inputs costs O(LM²)."
)
SOURCE = "Perceiver (arXiv 2103.03206), section 3.1"

WIDTH = 64  # channels of latents, and of the transformer
SIDES = (48, 64, 96, 128, 192, 256)  # of square images; M is the square of a side
TRANSFORMER_SIDES = (32, 40, 48, 56, 64)  # up to about a second on one core
LATENTS = (256, 512, 1024, 2048)
DEPTHS = (2, 4, 8, 16)
_SIDE, _LATENTS, _DEPTH = 64, 64, 4  # of what does not vary
_SECONDS = 0.3  # to measure each point for
_MEASURES = {"seconds": "seconds", "gflop": "GFLOP", "megabytes": "MB kept"}
# By how much an exponent of time may exceed that of the claim: caches and overheads bend a line a little.
_TOLERANCE = 0.15


@dataclass(frozen=True)
class Series:
    """A part of a model, and what of it varies.

    Attributes:
        build: makes the model from side, latents and depth, and what runs it on an image `(1, 3, side, side)`.
        variable: `"M"`, `"N"` or `"L"`.
        values: sides for `"M"`.
        exponent: of the variable in the claim.
    """

    name: str
    build: Callable[[int, int, int], tuple[nn.Module, Callable[[nn.Module, torch.Tensor], torch.Tensor]]]
    variable: str
    values: tuple[int, ...]
    exponent: int

    def points(self) -> list[dict]:
        return [measure(self, value) for value in self.values]


def run(setting: Setting) -> dict:
    """Measures on a CPU, whatever the recipe."""
    return {
        "width": WIDTH,
        "threads": torch.get_num_threads(),
        "series": [
            {"name": one.name, "variable": one.variable, "exponent": one.exponent, "points": one.points()}
            for one in all_series()
        ],
    }


def all_series() -> list[Series]:
    return [
        Series("cross-attend", cross_attend, "M", SIDES, 1),
        Series("cross-attend, general road", general_cross_attend, "M", SIDES, 1),
        Series("whole Perceiver", whole, "M", SIDES, 1),
        Series("transformer on pixels", transformer, "M", TRANSFORMER_SIDES, 2),
        Series("cross-attend", cross_attend, "N", LATENTS, 1),
        Series("self-attends", tower, "N", LATENTS, 2),
        Series("self-attends", tower, "L", DEPTHS, 1),
        Series("whole Perceiver", whole, "L", DEPTHS, 1),
    ]


def measure(series: Series, value: int) -> dict:
    """One point: seconds and matrix products of a forward pass, and what it keeps for a backward pass."""
    side, latents, depth = (
        value if series.variable == name else usual for name, usual in (("M", _SIDE), ("N", _LATENTS), ("L", _DEPTH))
    )
    torch.manual_seed(0)
    model, forward = series.build(side, latents, depth)
    pixels = torch.randn(1, 3, side, side)
    with torch.no_grad():
        timer = Timer("forward(model, pixels)", globals=locals(), num_threads=torch.get_num_threads())
        seconds = timer.blocked_autorange(min_run_time=_SECONDS).median
    # The counter does not see fused attention; the kernel of plain products does the same ones.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward(model, pixels)
    return {
        "value": side * side if series.variable == "M" else value,
        "seconds": float(f"{seconds:.4g}"),
        "gflop": counter.get_total_flops() / 1e9,
        "megabytes": kept_bytes(model, lambda: forward(model, pixels)) / 1e6,
    }


def perceiver(side: int, latents: int, depth: int) -> PerceiverStudyModel:
    config = PerceiverStudyConfig(
        image_size=side,
        num_latents=latents,
        d_latents=WIDTH,
        num_self_attends_per_block=depth,
        num_self_attention_heads=4,
        self_attention_widening_factor=1,
        cross_attention_widening_factor=1,
    )
    return PerceiverStudyModel(config).eval()


def whole(side: int, latents: int, depth: int):
    return perceiver(
        side, latents, depth
    ), lambda model, pixels: model(pixels, cross_attend_path="separable").last_hidden_state


def cross_attend(side: int, latents: int, depth: int):
    def forward(model: PerceiverStudyModel, pixels: torch.Tensor) -> torch.Tensor:
        on_grid = model.inputs(pixels, None, None, torch.float32)
        return model.cross_attends[0](model.latents(), *on_grid, path="separable")

    return perceiver(side, latents, depth), forward


def general_cross_attend(side: int, latents: int, depth: int):
    """Keys and values of every pixel beside its position, as other implementations have them."""

    def forward(model: PerceiverStudyModel, pixels: torch.Tensor) -> torch.Tensor:
        return model.cross_attends[0](model.latents(), _tokens(model, pixels))

    return perceiver(side, latents, depth), forward


def tower(side: int, latents: int, depth: int):
    def forward(model: PerceiverStudyModel, pixels: torch.Tensor) -> torch.Tensor:
        states = model.latents()
        for layer in model.blocks[0]:
            states = layer(states)
        return states

    return perceiver(side, latents, depth), forward


def transformer(side: int, latents: int, depth: int):
    """Self-attends among the pixels themselves, of the Perceiver's width, heads, MLPs and depth."""
    features = perceiver(side, 1, 1)
    layer = nn.TransformerEncoderLayer(
        WIDTH, 4, WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    embedding = nn.Linear(features.config.num_input_channels, WIDTH)
    encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        # In training mode, which differs in nothing here but that attention goes through torch's fused kernel.
        return model(_tokens(features, pixels))

    return nn.Sequential(embedding, encoder), forward


def _tokens(model: PerceiverStudyModel, pixels: torch.Tensor) -> torch.Tensor:
    return byte_array(pixels, model.inputs.fourier_features(list(pixels.shape[2:]), pixels.dtype, pixels.device))


def fit(points: list[dict], name: str) -> tuple[float, float]:
    """Exponent by least squares through the logarithms of all points, and its standard error."""
    line = stats.linregress(*(np.log([point[key] for point in points]) for key in ("value", name)))
    return float(line.slope), float(line.stderr)


def draw(result: dict) -> Figure:
    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(2, 3, sharex="col")
    labels = {"M": "inputs M", "N": "latents N", "L": "self-attends L"}
    names = list(dict.fromkeys(series["name"] for series in result["series"]))
    for line, measured in zip(panels, ("seconds", "megabytes"), strict=True):
        tidy(*line)
        for panel, variable in zip(line, labels, strict=True):
            for series in _of(result, variable):
                style = names.index(series["name"])
                values = [[point[key] for point in series["points"]] for key in ("value", measured)]
                label = f"{series['name']}: {fit(series['points'], measured)[0]:.2f}"
                panel.loglog(*values, f"{MARKERS[style]}-", color=COLOURS[style], markersize=5, label=label)
            low, high = panel.get_ylim()
            panel.set_ylim(low, high * (high / low) ** 0.6)  # room for the legend
            panel.legend(frameon=False, fontsize=8, title="fitted exponent", title_fontsize=8, loc="upper left")
            if variable != "M":
                panel.set_xticks(values[0], [f"{value:,}" for value in values[0]])
                panel.set_xticks([], minor=True)
    for panel, label in zip(panels[1], labels.values(), strict=True):
        panel.set_xlabel(label)
    panels[0, 0].set_ylabel("seconds of a forward pass")
    panels[1, 0].set_ylabel("MB kept for the backward pass")
    return figure


def tabulate(result: dict) -> str:
    labels = [f"exponent of {label}" for label in _MEASURES.values()]
    lines = [
        f"| what | against | claim | {' | '.join(labels)} | at the most |",
        f"|---|---|---:|{'---:|' * len(_MEASURES)}---|",
    ]
    for series in result["series"]:
        exponents = ["{:.2f} ± {:.2f}".format(*fit(series["points"], name)) for name in _MEASURES]
        last = series["points"][-1]
        lines.append(
            f"| {series['name']} | {series['variable']} | {series['exponent']} | {' | '.join(exponents)} | "
            f"{series['variable']} = {last['value']:,}: {1000 * last['seconds']:.1f} ms, {last['gflop']:.2f} GFLOP, "
            f"{last['megabytes']:.1f} MB |"
        )
    return (
        "\n".join(lines)
        + f"\n\nOne image, width {result['width']}, {_DEPTH} self-attends, {_LATENTS} latents and {_SIDE} × {_SIDE} "
        f"pixels where they do not vary; {result['threads']} thread(s) of the CPU. GFLOP are those of matrix products; "
        "the cross-attend on a grid does most of its work outside of them. MB are what a forward pass keeps for the "
        "backward pass. Errors are those of the fit.\n"
    )


def judge(result: dict) -> tuple[str, str]:
    findings = []
    for series in result["series"]:
        if series["name"] in ("cross-attend", "self-attends"):
            findings += [_bounded(series, name) for name in ("seconds", "megabytes")]
    theirs, ours = (
        fit(series["points"], "seconds")
        for name in ("transformer on pixels", "whole Perceiver")
        for series in _of(result, "M")
        if series["name"] == name
    )
    apart = HOLDS if theirs[0] - ours[0] > 2 * math.hypot(theirs[1], ours[1]) else FAILS
    text = "time of a transformer on the pixels grows with M to the {:.2f}, of a whole Perceiver to the {:.2f} ({})"
    return conclude([*findings, Finding(text.format(theirs[0], ours[0], apart), apart)])


def _bounded(series: dict, measured: str) -> Finding:
    """That the exponent is at most that of the claim, but for its error and a tolerance."""
    slope, error = fit(series["points"], measured)
    verdict = HOLDS if slope <= series["exponent"] + _TOLERANCE + 2 * error else FAILS
    what = {"seconds": "time", "megabytes": "memory"}[measured]
    text = (
        f"{what} of {series['name']} grows with {series['variable']} to the {slope:.2f} ± {error:.2f}, at most "
        f"{series['exponent']} ({verdict})"
    )
    return Finding(text, verdict)


def _of(result: dict, variable: str) -> list[dict]:
    return [series for series in result["series"] if series["variable"] == variable]
