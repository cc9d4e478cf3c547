"""Attention maps: the logits of the first, second and last cross-attend."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from lab.judging.evaluation import open_checkpoint
from lab.looking.image_view import ImageView
from lab.looking.maps import cross_attention_maps, draw_map_lines, evenly_chosen, map_logits, mean_and_single
from lab.looking.style import BLUE, ORANGE, tidy
from lab.recipe import Recipe
from lab.study.comparison import Finding, is_larger, percent
from lab.study.pictures import draw_accuracies
from lab.study.setting import Setting
from lab.study.training import Job, load_samples, run_all, train_small
from lab.tasks.task import Task

TITLE = "Attention maps"
CLAIM = (
    "Before the softmax, the maps of the first cross-attend show clear traces of the image, while those of later ones "
    "are plaid lattices of high frequency; the plaid is not there with learned positions, so it comes at least in part "
    "from the Fourier features."
)
SOURCE = "Perceiver (arXiv 2103.03206), section 4.1, figure 3"

NUM_CROSS_ATTENDS = 4
SHAPE = (f"model.num_blocks={NUM_CROSS_ATTENDS}", f"model.num_cross_attends={NUM_CROSS_ATTENDS}")
FOURIER, LEARNED = "fourier", "learned"
MEASURES = {
    "image": "explained by the pixels",
    "plaid": "explained by rows plus columns",
    "high": "above half the Nyquist frequency",
    "changing": "differing between images",
}
_IMAGES = 128  # measured on
_SHOWN_HEADS, _SHOWN_POINTS = 2, 32  # in the picture; larger maps are averaged down to this many points a side
_STYLES = {FOURIER: (BLUE, "o"), LEARNED: (ORANGE, "s")}


def settings(setting: Setting) -> dict:
    return setting.for_checkpoint() if setting.checkpoint else setting.for_training(*SHAPE)


def run(setting: Setting) -> dict:
    if setting.checkpoint:
        task, model = open_checkpoint(setting.checkpoint, setting.recipe())
        found = measure(model, task.read_split("validation")[0], task)  # labels do not matter
        return {"runs": [{"positions": model.config.position_encoding_type, **found}]}
    jobs = [
        Job(
            {"positions": positions, "seed": seed},
            setting.recipe(*SHAPE, f"model.position_encoding_type={positions}", seed=seed),
            train_and_measure,
        )
        for positions in (FOURIER, LEARNED)
        for seed in setting.seeds
    ]
    runs = run_all(jobs, setting, TITLE)
    for other in runs[1:]:
        del other["example"]  # only one is drawn
    return {"runs": runs}


def train_and_measure(recipe: Recipe) -> dict:
    trained = train_small(recipe)
    images = load_samples(recipe)
    found = measure(trained.model, images.validation, images.task)
    return {**trained.scores(), **found}


def measure(model: PreTrainedModel, images: Dataset, task: Task) -> dict:
    """Return the shares of `MEASURES` for each cross-attend, and the maps of one image for the picture."""
    pixels = images.__getitems__(range(min(_IMAGES, len(images))))["pixels"]
    maps = cross_attention_maps(model, task.normalize(pixels.to(model.device)))
    logits = [map_logits(of_all) for of_all in maps]
    intensity = F.adaptive_avg_pool2d(pixels.float().mean(dim=1, keepdim=True), logits[0].shape[-2:]).squeeze(1)
    return {
        "cross_attends": [describe(of_all, intensity) for of_all in logits],
        "example": _example(pixels[0], [of_all[0] for of_all in logits]),
    }


def describe(logits: torch.Tensor, intensity: torch.Tensor) -> dict[str, float]:
    """Return the shares of `MEASURES` in the variance of logits over pixels, for all maps together.

    If logits were noise, pixels would explain `1 / (HW - 1)` and rows plus columns `(H + W - 2) / (HW - 1)`.

    Args:
        logits: `(B, h, N, H, W)`, with a mean of 0 over pixels.
        intensity: `(B, H, W)`, of the images.
    """
    total = logits.square().sum()
    rows, columns = logits.mean(dim=-1, keepdim=True), logits.mean(dim=-2, keepdim=True)
    seen = (intensity - intensity.mean(dim=(-2, -1), keepdim=True))[:, None, None]
    explained = (logits * seen).sum(dim=(-2, -1)).square() / seen.square().sum(dim=(-2, -1)).clamp_min(1e-12)
    power = torch.fft.fft2(logits).abs().square()
    vertical, horizontal = (torch.fft.fftfreq(size).abs() for size in logits.shape[-2:])
    high = (vertical[:, None].square() + horizontal.square()).sqrt() > 0.25  # cycles a pixel, half of Nyquist's 0.5
    static = logits.mean(dim=0).square().sum() * len(logits)
    shares = {
        "image": explained.sum() / total,
        "plaid": 1 - (logits - rows - columns).square().sum() / total,
        "high": power[..., high].sum() / power.sum(),
        "changing": 1 - static / total,
    }
    return {name: round(share.item(), 4) for name, share in shares.items()}


def _example(pixels: torch.Tensor, logits: Sequence[torch.Tensor]) -> dict:
    """Return what `draw` needs of one image; each map is scaled to go from 0, the lowest logit, to 255.

    Args:
        pixels: `(C, H, W)`.
        logits: `(h, N, H', W')` for each cross-attend.
    """
    latents = evenly_chosen(logits[0].shape[1])
    lines = []
    for number in dict.fromkeys([1, min(2, len(logits)), len(logits)]):
        for head, maps in enumerate(logits[number - 1][:_SHOWN_HEADS], start=1):
            shown = torch.from_numpy(mean_and_single(_shrink(maps).numpy(), latents))
            low, high = shown.amin(dim=(-2, -1), keepdim=True), shown.amax(dim=(-2, -1), keepdim=True)
            scaled = 255 * (shown - low) / (high - low).clamp_min(1e-12)
            lines.append({"cross_attend": number, "head": head, "maps": _to_text(scaled)})
    return {"image": _to_text(_shrink(pixels.float())), "latents": latents, "lines": lines}


def _to_text(maps: torch.Tensor) -> dict:
    """Write whole numbers from 0 to 255 as two hexadecimal digits each, which keeps the files short."""
    return {"shape": list(maps.shape), "hex": maps.round().byte().numpy().tobytes().hex()}


def _from_text(text: dict) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text["hex"]), np.uint8).reshape(text["shape"])


def _shrink(maps: torch.Tensor) -> torch.Tensor:
    return F.adaptive_avg_pool2d(maps, [min(size, _SHOWN_POINTS) for size in maps.shape[-2:]])


def draw(result: dict) -> Figure:
    example = result["runs"][0]["example"]
    image = _from_text(example["image"])
    lines = [
        (f"cross-attend {line['cross_attend']}\nhead {line['head']}", ImageView(image, list(maps.shape[1:])), maps)
        for line in example["lines"]
        for maps in [_from_text(line["maps"])]
    ]
    figure = Figure(figsize=(10, 1.3 * len(lines) + 3.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.3 * len(lines), 3.4])
    draw_map_lines(lines, example["latents"], logits=True, into=upper)
    panels = lower.subplots(1, 3)
    tidy(*panels)
    for panel, name in zip(panels, MEASURES, strict=False):
        for positions in _kinds(result):
            groups = {number: _values(result, positions, number, name) for number in _numbers(result)}
            draw_accuracies(panel, groups, *_STYLES.get(positions, (BLUE, "o")), label=f"{positions} positions")
        panel.set(
            xlabel="cross-attend", ylabel="share of the logits' variance (%)", title=MEASURES[name], ylim=(0, None)
        )
    panels[0].legend(frameon=False)
    return figure


def tabulate(result: dict) -> str:
    lines = [
        f"| positions | cross-attend | {' | '.join(f'{label} %' for label in MEASURES.values())} |",
        f"|---|---:|{'---:|' * len(MEASURES)}",
    ]
    for positions in _kinds(result):
        for number in _numbers(result):
            shares = [percent(_values(result, positions, number, name)) for name in MEASURES]
            lines.append(f"| {positions} | {number} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def judge(result: dict) -> list[Finding]:
    kinds, last = _kinds(result), max(_numbers(result))

    def compare(statement: str, name: str, first: tuple[str, int], second: tuple[str, int]):
        return is_larger(statement, _values(result, *first, name), _values(result, *second, name))

    first_maps, last_maps = (kinds[0], 1), (kinds[0], last)
    findings = [
        compare(
            "pixels explain more of the first cross-attend's logits than of the last's", "image", first_maps, last_maps
        ),
        compare("rows plus columns explain more of the last's than of the first's", "plaid", last_maps, first_maps),
        compare("the last's have more high frequencies than the first's", "high", last_maps, first_maps),
    ]
    if LEARNED in kinds:
        statement = "rows plus columns explain more of the last's with Fourier features than with learned positions"
        findings.append(compare(statement, "plaid", (FOURIER, last), (LEARNED, last)))
    return findings


def _kinds(result: dict) -> list[str]:
    return list(dict.fromkeys(run["positions"] for run in result["runs"]))


def _numbers(result: dict) -> range:
    return range(1, len(result["runs"][0]["cross_attends"]) + 1)


def _values(result: dict, positions: str, number: int, name: str) -> list[float]:
    """Return a measure of one cross-attend, with all seeds."""
    runs = [run for run in result["runs"] if run["positions"] == positions]
    return [run["cross_attends"][number - 1][name] for run in runs]
