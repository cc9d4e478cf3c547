"""How well a classifier of images does when they are changed, and how far its confidence can be trusted."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize_scalar
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from lab.errors import UserError
from lab.looking.style import BLUE, COLOURS, MARKERS, ORANGE, tidy
from lab.scoring.scores import BINS, calibrate
from lab.study.robustness import Curve
from lab.tasks.image_classification import ImageClassification

Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
_MODES = {1: "L", 3: "RGB"}
_TEMPERATURES = (0.05, 20.0)


def compressed(pixels: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """`(b, C, H, W)` uint8 `->` the same, written as JPEG and read again."""

    def again(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _one_by_one(pixels, again)


def noisy(pixels: np.ndarray, percent: float, rng: np.random.Generator) -> np.ndarray:
    """`(b, C, H, W)` uint8 `->` the same with Gaussian noise, whose deviation is so many percent of white."""
    noise = rng.normal(scale=2.55 * percent, size=pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def blurred(pixels: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """`(b, C, H, W)` uint8 `->` the same under a Gaussian window, whose deviation is in pixels."""
    smooth = gaussian_filter(pixels.astype(np.float32), (0, 0, deviation, deviation), mode="nearest")
    return np.rint(smooth).astype(np.uint8)


def resized(pixels: np.ndarray, percent: float, rng: np.random.Generator) -> np.ndarray:
    """`(b, C, H, W)` uint8 `->` `(b, C, H', W')`: so many percent of the size, which spans the same coordinates."""
    size = [max(1, round(side * percent / 100)) for side in pixels.shape[:1:-1]]
    return _one_by_one(pixels, lambda image: image.resize(size, Image.Resampling.BICUBIC))


def permuted(pixels: np.ndarray) -> np.ndarray:
    """`(b, C, H, W)` uint8 `->` the same with pixels in another order, one for all images, and positions as before."""
    return pixels.reshape(*pixels.shape[:2], -1)[..., order_of(pixels.shape[2] * pixels.shape[3])].reshape(pixels.shape)


def order_of(count: int) -> np.ndarray:
    """`(count,)`: a permutation by chance, always the same."""
    return np.random.default_rng(0).permutation(count)


def _one_by_one(pixels: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    mode = _MODES[pixels.shape[1]]
    images = (Image.fromarray(image.squeeze(-1) if mode == "L" else image) for image in pixels.transpose(0, 2, 3, 1))
    changed = np.stack([np.asarray(change(image).convert(mode)) for image in images])
    return np.ascontiguousarray((changed[..., None] if mode == "L" else changed).transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Kind:
    """A kind of change.

    Attributes:
        name: of the axis.
        row: begins a row of the table, with the place in braces.
        places: how strong the change is, from the weakest on, or in the order of the axis.
        same: the place at which images are as they are; None if there is no such place.
    """

    name: str
    row: str
    change: Change
    places: tuple[float, ...]
    same: float | None = None


KINDS = (
    Kind("JPEG quality", "JPEG of quality {:g}", compressed, (90, 75, 50, 25, 10, 5)),
    Kind("noise, % of white", "noise of {:g} % of white", noisy, (0, 2, 5, 10, 20), 0),
    Kind("blur, pixels", "blur of {:g} px", blurred, (0, 0.5, 0.75, 1, 1.5, 2), 0),
    Kind("size, % of the trained", "{:g} % of the size", resized, (50, 75, 100, 150, 200), 100),
)


@torch.no_grad()
def logits_of(
    task: ImageClassification,
    model: PreTrainedModel,
    images: Dataset,
    rows: np.ndarray,
    batch_size: int,
    change: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels,
    with_positions: bool = False,
) -> np.ndarray:
    """`-> (n, classes)`, of the images at some rows.

    Args:
        change: of pixels `(b, C, H, W)` uint8.
        with_positions: give the model the elements, pixels beside their positions, in another order.
    """
    found = []
    for first in range(0, len(rows), batch_size):
        batch = images.__getitems__(rows[first : first + batch_size].tolist())
        pixels = task.normalize(torch.from_numpy(change(batch["pixels"].numpy())).to(model.device))
        arguments = {"pixel_values": pixels}
        if with_positions:
            elements = model.perceiver.elements(**arguments)
            arguments = {"inputs": elements[:, torch.from_numpy(order_of(elements.shape[1])).to(elements.device)]}
        found.append(model(**arguments).logits.float().cpu())
    logits = torch.cat(found).numpy()
    task.require_numbers({"logits": logits})
    return logits


def measure_changes(
    task: ImageClassification, model: PreTrainedModel, images: Dataset, rows: np.ndarray, batch_size: int
) -> dict:
    """Return `accuracy` of images as they are, `curves` by kind of change, and what a `permutation` does.

    Raises:
        UserError: images have another number of channels than 1 or 3.
    """
    if task.config.num_channels not in _MODES:
        raise UserError(f"model.num_channels={task.config.num_channels}: expected images with 1 or 3, as files have")
    labels = images.labels[rows]
    plain = logits_of(task, model, images, rows, batch_size)
    accuracy = _accuracy(plain, labels)
    curves = []
    for kind in KINDS:
        found = []
        for place in tqdm(kind.places, desc=kind.name, disable=None, leave=False):
            rng = np.random.default_rng(0)

            def change(pixels, kind=kind, place=place, rng=rng):
                return kind.change(pixels, place, rng)

            same = place == kind.same
            logits = plain if same else logits_of(task, model, images, rows, batch_size, change)
            found.append(_accuracy(logits, labels))
        curves.append(Curve(kind.name, list(kind.places), found))
    together = logits_of(task, model, images, rows, batch_size, with_positions=True)
    alone = logits_of(task, model, images, rows, batch_size, permuted)
    permutation = {
        "with_positions": _accuracy(together, labels),
        "largest_difference_of_logits": float(np.abs(together - plain).max()),
        "alone": _accuracy(alone, labels),
    }
    return {"accuracy": accuracy, "curves": curves, "permutation": permutation}


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """In nats, of logits divided by a temperature."""
    return F.cross_entropy(torch.from_numpy(logits).double() / temperature, torch.from_numpy(labels)).item()


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least cross-entropy (Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2)."""
    found = minimize_scalar(
        lambda logarithm: cross_entropy(logits, labels, np.exp(logarithm)),
        bounds=np.log(_TEMPERATURES),
        method="bounded",
    )
    return float(np.exp(found.x))


def calibration_of(
    validation: tuple[np.ndarray, np.ndarray], judged: tuple[np.ndarray, np.ndarray]
) -> dict[str, float | int | dict]:
    """Return calibration `before` and `after` division by the temperature that is best on validation images.

    Args:
        validation: `(n, classes)` logits and `(n,)` labels that the temperature is fitted to.
        judged: those of the images to judge.
    """
    temperature = fit_temperature(*validation)
    logits, labels = judged
    result: dict = {"temperature": temperature, "fitted_on": len(validation[1]), "judged_on": len(labels)}
    for name, by in (("before", 1.0), ("after", temperature)):
        probabilities = torch.from_numpy(logits).double().div(by).softmax(dim=1).numpy()
        found = calibrate(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
        bins = [
            {"up_to": (number + 1) / BINS, "images": int(count), "confidence": confidence, "accuracy": accuracy}
            for number, (count, confidence, accuracy) in enumerate(
                zip(found.counts, found.confidences.tolist(), found.accuracies.tolist(), strict=True)
            )
            if count
        ]
        result[name] = {
            "expected_calibration_error": found.error,
            "cross_entropy": cross_entropy(logits, labels, by),
            "bins": bins,
        }
    return result


def draw_images(changes: dict, calibration: dict) -> Figure:
    """A panel for each kind of change, for the permutation, and for confidence against accuracy."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    *curves, bars, reliability = panels
    for panel, curve in zip(curves, changes["curves"], strict=True):
        places = np.arange(len(curve.places))
        panel.axhline(100 * changes["accuracy"], color="0.6", linestyle="--", label="as they are")
        panel.plot(places, 100 * np.array(curve.accuracies), color=BLUE, marker="o", label="changed")
        panel.set_xticks(places, [f"{place:g}" for place in curve.places])
        panel.set(xlabel=curve.name, ylim=(0, 100))
    panels[0].legend(frameon=False, loc="lower left")
    permutation = changes["permutation"]
    names = ("as they are", "permuted\nwith positions", "permuted\nwithout")
    heights = [changes["accuracy"], permutation["with_positions"], permutation["alone"]]
    drawn = bars.bar(names, 100 * np.array(heights), color=[BLUE, BLUE, ORANGE], width=0.6)
    bars.bar_label(drawn, fmt="%.1f")
    bars.set(ylim=(0, 100), xlabel="pixels")
    _draw_reliability(reliability, calibration)
    for panel in (panels[0], panels[3]):
        panel.set_ylabel("accuracy in %")
    tidy(*panels)
    return figure


def _draw_reliability(panel: Axes, calibration: dict):
    panel.plot([0, 100], [0, 100], color="0.6", linestyle="--")
    named = {"before": "as it is", "after": f"temperature {calibration['temperature']:.2f}"}
    for (when, name), colour, marker in zip(named.items(), COLOURS, MARKERS, strict=False):
        bins = calibration[when]["bins"]
        error = 100 * calibration[when]["expected_calibration_error"]
        panel.plot(
            [100 * bin["confidence"] for bin in bins],
            [100 * bin["accuracy"] for bin in bins],
            color=colour,
            marker=marker,
            label=f"{name}: {error:.1f} %",
        )
    panel.set(xlabel=f"confidence in %, in {BINS} bins", xlim=(0, 100), ylim=(0, 100))
    panel.legend(frameon=False, loc="upper left", fontsize=8, title="calibration error", title_fontsize=8)


def images_table(changes: dict, calibration: dict, count: int) -> str:
    """Markdown: a row for each change, and the calibration before and after."""
    accuracy, permutation = changes["accuracy"], changes["permutation"]
    lines = [
        f"| {count:,} images | accuracy | change |",
        "|---|---:|---:|",
        f"| as they are | {100 * accuracy:.1f} % | |",
    ]
    rows = {
        kind.row.format(place): value
        for kind, curve in zip(KINDS, changes["curves"], strict=True)
        for place, value in zip(curve.places, curve.accuracies, strict=True)
        if place != kind.same
    }
    rows |= {
        "pixels permuted with their positions": permutation["with_positions"],
        "pixels permuted without": permutation["alone"],
    }
    lines += [f"| {name} | {100 * value:.1f} % | {100 * (value - accuracy):+.1f} |" for name, value in rows.items()]
    before, after = calibration["before"], calibration["after"]
    lines += [
        "",
        f"| {calibration['judged_on']:,} images | as it is | at temperature {calibration['temperature']:.3f} |",
        "|---|---:|---:|",
        f"| expected calibration error | {100 * before['expected_calibration_error']:.2f} % | "
        f"{100 * after['expected_calibration_error']:.2f} % |",
        f"| cross-entropy, nats | {before['cross_entropy']:.4f} | {after['cross_entropy']:.4f} |",
        "",
        "Permuted with their positions, pixels change logits by at most "
        f"{permutation['largest_difference_of_logits']:.1e}. The temperature is fitted to the "
        f"{calibration['fitted_on']:,} validation images alone.",
    ]
    return "\n".join(lines) + "\n"
