"""Complexity: growth of time, multiply-adds and memory with inputs, latents and depth, also for a transformer."""

import time
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

from lab.looking.style import COLOURS, MARKERS, tidy
from lab.study.comparison import CONFIDENCE, Difference, Finding
from lab.study.setting import Setting
from lab.training.cost import kept_bytes
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyModel
from modeling_perceiver_study.position import byte_array
from modeling_perceiver_study.separable import join_parts

TITLE = "Complexity"
CLAIM = (
    "A cross-attend of N latents to M inputs and L self-attends among the latents cost O(MN + LN²) in time and memory, "
    "so the cost of depth does not depend on the size of the input; a transformer on the M inputs costs O(LM²)."
)
SOURCE = "Perceiver (arXiv 2103.03206), section 3.1"

WIDTH = 64  # channels of latents and of the transformer
SIDES = (48, 64, 96, 128, 192, 256)  # of square images; M is the square of a side
TRANSFORMER_SIDES = (32, 40, 48, 56, 64)  # up to about a second on one core
LATENTS = (256, 384, 512, 768, 1024, 1536, 2048)
DEPTHS = (2, 3, 4, 6, 8, 12, 16)
_SIDE, _LATENTS, _DEPTH = 64, 64, 4  # where they do not vary
_SECONDS, _ROUNDS = 0.1, 5  # of measuring at each point
_MEASURES = {"seconds": "seconds", "gflop": "GFLOP", "megabytes": "MB kept"}
# By how much an exponent may exceed that of the claim: caches and overheads bend a line a little.
_TOLERANCE = 0.15


@dataclass(frozen=True)
class Series:
    """A part of a model, and the quantity that varies.

    Attributes:
        build: returns the model for a side, a number of latents and a depth, and a function that runs it on an image
            `(1, 3, side, side)`.
        variable: `"M"`, `"N"` or `"L"`.
        values: of the variable; for `"M"` the sides of images.
        exponent: of the variable in the claim.
    """

    name: str
    build: Callable[[int, int, int], tuple[nn.Module, Callable[[nn.Module, torch.Tensor], torch.Tensor]]]
    variable: str
    values: tuple[int, ...]
    exponent: int

    def points(self) -> list[dict]:
        """Measure all values in turn, several times, and keep the fastest of each: other work only adds time."""
        parts = [self.part(value) for value in self.values]
        rounds = [[seconds(forward) for _, forward in parts] for _ in range(_ROUNDS)]
        return [
            {
                "value": value * value if self.variable == "M" else value,
                "seconds": float(f"{min(times):.4g}"),
                **count(*part),
            }
            for value, part, times in zip(self.values, parts, zip(*rounds, strict=True), strict=True)
        ]

    def part(self, value: int) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
        """Return the model for one value, and a function that runs it on an image."""
        side, latents, depth = (
            value if self.variable == name else usual for name, usual in (("M", _SIDE), ("N", _LATENTS), ("L", _DEPTH))
        )
        torch.manual_seed(0)
        model, forward = self.build(side, latents, depth)
        pixels = torch.randn(1, 3, side, side)
        return model, lambda: forward(model, pixels)


def settings(setting: Setting) -> dict:
    """Return the sizes that are measured: no recipe plays a part, since nothing is trained."""
    return {
        "width": WIDTH,
        "threads of the CPU": torch.get_num_threads(),
        "sides of images": SIDES,
        "sides of images for the transformer": TRANSFORMER_SIDES,
        "latents": LATENTS,
        "self-attends": DEPTHS,
        "side, latents and self-attends where they do not vary": (_SIDE, _LATENTS, _DEPTH),
    }


def run(setting: Setting) -> dict:
    """Measure on a CPU, whatever the setting."""
    return {
        "series": [
            {"name": one.name, "variable": one.variable, "exponent": one.exponent, "points": one.points()}
            for one in all_series()
        ],
    }


def all_series() -> list[Series]:
    return [
        Series("cross-attend", cross_attend, "M", SIDES, 1),
        Series("cross-attend, general path", general_cross_attend, "M", SIDES, 1),
        Series("self-attends", tower, "M", SIDES, 0),
        Series("whole Perceiver", whole, "M", SIDES, 1),
        Series("transformer on pixels", transformer, "M", TRANSFORMER_SIDES, 2),
        Series("cross-attend", cross_attend, "N", LATENTS, 1),
        Series("self-attends", tower, "N", LATENTS, 2),
        Series("self-attends", tower, "L", DEPTHS, 1),
        Series("whole Perceiver", whole, "L", DEPTHS, 1),
    ]


@torch.no_grad()
def seconds(forward: Callable[[], torch.Tensor]) -> float:
    """Return the CPU time of a forward pass, summed over threads; time that other processes take does not count."""
    threads = torch.get_num_threads()
    timer = Timer("forward()", globals={"forward": forward}, num_threads=threads, timer=time.process_time)
    return timer.blocked_autorange(min_run_time=_SECONDS).median


def count(model: nn.Module, forward: Callable[[], torch.Tensor]) -> dict[str, float]:
    """Count matrix products of a forward pass, and the memory it keeps for a backward pass."""
    # The counter does not count fused attention; the kernel of plain products does the same products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward()
    return {"gflop": counter.get_total_flops() / 1e9, "megabytes": kept_bytes(model, forward) / 1e6}


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
        return model.cross_attends[0](model.latents(), *on_grid, join=join_parts, path="separable")

    return perceiver(side, latents, depth), forward


def general_cross_attend(side: int, latents: int, depth: int):
    """Build a cross-attend with keys and values of every pixel beside its position, as other implementations have."""

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
    """Build self-attends among the pixels themselves, with the Perceiver's width, heads, MLPs and depth."""
    features = perceiver(side, 1, 1)
    layer = nn.TransformerEncoderLayer(
        WIDTH, 4, WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    embedding = nn.Linear(features.config.num_input_channels, WIDTH)
    encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        # The model is in training mode, which changes one thing here: attention uses torch's fused kernel.
        return model(_tokens(features, pixels))

    return nn.Sequential(embedding, encoder), forward


def _tokens(model: PerceiverStudyModel, pixels: torch.Tensor) -> torch.Tensor:
    return byte_array(pixels, model.inputs.fourier_features(list(pixels.shape[2:]), pixels.dtype, pixels.device))


def fit(points: list[dict], name: str) -> tuple[float, float]:
    """Fit the exponent of a power law by least squares through the logarithms; return it with its standard error."""
    line = stats.linregress(*(np.log([point[key] for point in points]) for key in ("value", name)))
    return float(line.slope), float(np.nan_to_num(line.stderr))  # NaN if all points are equal


def margin(points: list[dict], name: str) -> float:
    """Return half the width of the confidence interval of the exponent, by the t-distribution."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(points) - 2)) * fit(points, name)[1]


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
                label = f"{series['name']}: {fit(series['points'], measured)[0]:z.2f}"
                panel.loglog(*values, f"{MARKERS[style]}-", color=COLOURS[style], markersize=5, label=label)
            low, high = panel.get_ylim()
            panel.set_ylim(low, high * (high / low) ** 0.6)  # room for the legend
            panel.legend(frameon=False, fontsize=8, title="fitted exponent", title_fontsize=8, loc="upper left")
            if variable != "M":
                panel.set_xticks(values[0][::2], [f"{value:,}" for value in values[0][::2]])
                panel.set_xticks([], minor=True)
    for panel, label in zip(panels[1], labels.values(), strict=True):
        panel.set_xlabel(label)
    panels[0, 0].set_ylabel("CPU seconds of a forward pass")
    panels[1, 0].set_ylabel("MB kept for the backward pass")
    return figure


def tabulate(result: dict) -> str:
    labels = [f"exponent of {label}" for label in _MEASURES.values()]
    lines = [
        f"| what | against | claim | {' | '.join(labels)} | largest size |",
        f"|---|---|---:|{'---:|' * len(_MEASURES)}---|",
    ]
    for series in result["series"]:
        exponents = ["{:z.2f} ± {:.2f}".format(*fit(series["points"], name)) for name in _MEASURES]
        last = series["points"][-1]
        lines.append(
            f"| {series['name']} | {series['variable']} | {series['exponent']} | {' | '.join(exponents)} | "
            f"{series['variable']} = {last['value']:,}: {1000 * last['seconds']:.1f} ms, {last['gflop']:.2f} GFLOP, "
            f"{last['megabytes']:.1f} MB |"
        )
    return (
        "\n".join(lines)
        + "\n\nAll of one image. Seconds are CPU time. GFLOP are those of matrix products; the cross-attend on a grid "
        "does most of its work outside of them. MB are what a forward pass keeps for the backward pass. Errors are "
        f"standard errors of the fit. A statement is decided if the {100 * CONFIDENCE:.0f} % interval of the exponent "
        f"lies on one side of the bound, which is the exponent of the claim plus {_TOLERANCE} for caches and "
        "overheads.\n"
    )


def judge(result: dict) -> list[Finding]:
    findings = [
        _bounded(series, name)
        for series in result["series"]
        if series["name"] in ("cross-attend", "self-attends")
        for name in ("seconds", "megabytes")
    ]
    theirs, ours = (
        series["points"]
        for name in ("transformer on pixels", "whole Perceiver")
        for series in _of(result, "M")
        if series["name"] == name
    )
    slopes = [fit(points, "seconds")[0] for points in (theirs, ours)]
    apart = Difference(slopes[0] - slopes[1], margin(theirs, "seconds") + margin(ours, "seconds")).verdict
    text = "time of a transformer on the pixels grows with M to the {:.2f}, of a whole Perceiver to the {:.2f} ({})"
    return [*findings, Finding(text.format(*slopes, apart), apart)]


def _bounded(series: dict, measured: str) -> Finding:
    """Judge that the exponent is at most that of the claim, apart from the tolerance."""
    slope, bound = fit(series["points"], measured)[0], series["exponent"] + _TOLERANCE
    error = margin(series["points"], measured)
    verdict = Difference(bound - slope, error).verdict
    what = {"seconds": "time", "megabytes": "memory"}[measured]
    text = (
        f"{what} of {series['name']} grows with {series['variable']} to the {slope:z.2f} ± {error:.2f}, at most "
        f"{series['exponent']} ({verdict})"
    )
    return Finding(text, verdict)


def _of(result: dict, variable: str) -> list[dict]:
    return [series for series in result["series"] if series["variable"] == variable]
