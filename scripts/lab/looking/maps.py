"""Maps of cross-attends over a sample, as arrays and as pictures."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure, FigureBase
from transformers import PreTrainedModel

from lab.errors import UserError
from lab.looking.view import View
from lab.looking.views import VIEWS

_WORDS = {"first": 1, "second": 2}


_FEW = 6  # latents to show by default


@torch.no_grad()
def attention_maps(model: PreTrainedModel, **inputs: torch.Tensor) -> list[torch.Tensor]:
    """`-> [(B, h, N, M)]`: return the maps of each cross-attend, in float32 on the CPU.

    The weights of a latent sum to 1.

    Raises:
        ValueError: they are not finite numbers.
    """
    maps = [weights.float().cpu() for weights in model(**inputs, output_attentions=True).cross_attentions]
    if not all(weights.isfinite().all() for weights in maps):
        raise ValueError("attention is not finite numbers: the sample has huge ones, or the checkpoint is broken")
    return maps


def cross_attention_maps(model: PreTrainedModel, pixel_values: torch.Tensor, **inputs) -> list[torch.Tensor]:
    """`(B, C, H, W) -> [(B, h, N, H', W')]`: the same for images.

    `H', W'` are `H, W`, or the size of the grid after a stem or of patches.
    """
    grid = model.config.attended_sizes(pixel_values.shape[2:])
    return [weights.unflatten(-1, grid) for weights in attention_maps(model, pixel_values=pixel_values, **inputs)]


def map_logits(maps: torch.Tensor) -> torch.Tensor:
    """`(.., H, W) -> (.., H, W)`: recover logits from attention weights, with a mean of 0 over pixels.

    The softmax loses only a constant, as long as weights are not below the smallest number of the dtype.
    """
    logits = maps.clamp_min(torch.finfo(maps.dtype).tiny).log()
    return logits - logits.mean(dim=(-2, -1), keepdim=True)


def draw_attention_maps(
    model: PreTrainedModel,
    processor: Any,
    sample: Any,
    cross_attends: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    latents: Sequence[int] | None = None,
    logits: bool = False,
    view: type[View] | None = None,
) -> Figure:
    """Draw maps of some cross-attends on one sample, a line for each head: the mean over latents, then single latents.

    Args:
        model: in evaluation mode.
        sample: what the view of the model's input reads: an image, a recording `(C, L)`, a cloud of points.
        cross_attends: numbers from 1, or `"first"`, `"second"` and `"last"`; None is these three.
        heads: numbers from 1; None is all.
        latents: numbers from 1; None is a few at even distances.
        logits: show the logits before the softmax, as figure 3 of the paper does, since weights may be very sparse.
        view: how to draw the sample; None is what `VIEWS` has for the model.

    Raises:
        UserError: the model has no such cross-attend, head or latent.
    """
    view = view or VIEWS[type(model).__name__]
    part, title = view.part(processor, sample)
    maps = attention_maps(model, **arguments_of(processor, part, model.device))
    num_heads, num_latents = maps[0].shape[1:3]
    chosen = _choose("cross-attend", cross_attends or [1, min(2, len(maps)), len(maps)], len(maps))
    heads = _choose("head", heads or range(1, num_heads + 1), num_heads)
    latents = _choose("latent", latents or evenly_chosen(num_latents), num_latents)
    seen = view.of(processor, model.config, part)
    lines = []
    for number in chosen:
        of_sample = _logits(maps[number - 1][0]) if logits else maps[number - 1][0]
        for head in heads:
            label = f"cross-attend {number}" + (f"\nhead {head}" if num_heads > 1 else "")
            lines.append((label, seen, mean_and_single(of_sample[head - 1].numpy(), latents)))
    return draw_map_lines(lines, latents, logits, title=title)


def draw_maps_on(
    samples: Sequence[Any], model: PreTrainedModel, processor: Any, view: type[View], cross_attend: int
) -> Figure:
    """Draw maps of one cross-attend, numbered from 1: the mean over latents, then some of them, heads averaged."""
    lines = []
    for sample in samples:
        sample, title = view.part(processor, sample)
        maps = attention_maps(model, **arguments_of(processor, sample, model.device))
        latents = evenly_chosen(maps[-1].shape[2])
        shown = mean_and_single(maps[cross_attend - 1][0].mean(dim=0).numpy(), latents)
        label = "" if title == view.sample else title
        lines.append((label, view.of(processor, model.config, sample), shown))
    figure = draw_map_lines(lines, latents)
    figure.suptitle(f"attention weights, cross-attend {cross_attend} of {len(maps)}", fontsize=10)
    return figure


def arguments_of(processor: Any, sample: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """What the model takes, of one sample that a view read."""
    batch = sample[None] if isinstance(sample, np.ndarray) else sample
    return processor(batch, return_tensors="pt").to(device)


def draw_map_lines(
    lines: Sequence[tuple[str, View, np.ndarray]],
    latents: Sequence[int],
    logits: bool = False,
    into: FigureBase | None = None,
    title: str | None = None,
) -> FigureBase:
    """Draw a grid of pictures; each line is a sample, the mean of its maps over all latents, and the maps of some.

    Args:
        lines: label, sample, and maps `(1 + k, M)` of each: the mean, then those of the latents.
        latents: `k` numbers from 1.
        logits: the maps have both signs; otherwise the darkest colour is 0.
        into: a figure or a part of one to draw into; None makes a figure.
        title: of the samples; None is what their view calls them.
    """
    size = (1.5 * (2 + len(latents)), 1.5 * len(lines) + 0.4)
    figure = Figure(figsize=size, layout="constrained") if into is None else into
    grid = figure.subplots(len(lines), 2 + len(latents), squeeze=False)
    for axes, (label, seen, maps) in zip(grid, lines, strict=True):
        seen.draw(axes[0])
        for panel, values in zip(axes[1:], maps, strict=True):
            # Each map has its own scale, from 0 or its lowest logit to its largest value.
            seen.paint(panel, values, None if logits else 0.0)
        for panel in axes:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        axes[0].set_ylabel(label, fontsize=9)
    titles = [title or lines[0][1].sample, "all latents", *(f"latent {latent}" for latent in latents)]
    for panel, title in zip(grid[0], titles, strict=True):
        panel.set_title(title, fontsize=9)
    return figure


def mean_and_single(maps: np.ndarray, latents: Sequence[int]) -> np.ndarray:
    """`(N, ..) -> (1 + k, ..)`: return the mean of all maps, then those of `k` latents, numbered from 1."""
    return np.stack([maps.mean(axis=0), *maps[np.array(latents) - 1]])


def evenly_chosen(count: int) -> list[int]:
    """Return a few numbers from 1 to `count`, including both."""
    return [int(number) for number in np.linspace(1, count, min(_FEW, count))]


def _logits(maps: torch.Tensor) -> torch.Tensor:
    """`(.., M)`, as `map_logits` of a grid."""
    return map_logits(maps[..., None, :])[..., 0, :]


def _choose(what: str, wanted: Iterable[int | str], count: int) -> list[int]:
    """Return the chosen numbers, from 1, each once."""
    numbers = []
    for name in wanted:
        number = {**_WORDS, "last": count}.get(name, name)
        if isinstance(number, str):
            number = int(number) if number.isdecimal() else 0
        if not 1 <= number <= count:
            words = "first, second, last or " if what == "cross-attend" else ""
            raise UserError(f"{what} {name}: expected {words}a number from 1 to {count}")
        numbers.append(number)
    return list(dict.fromkeys(numbers))
