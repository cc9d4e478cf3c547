"""Pictures for a model card: predictions on test images, and where the latents look."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.data import DataLoader, default_convert
from tqdm.auto import tqdm

from lab.augment.images import Normalization
from lab.data.arrays import ImageDataset
from lab.judging.scores import confusions
from lab.looking.curves import BLUE, ORANGE
from lab.looking.maps import (
    cross_attention_maps,
    displayed,
    draw_map_lines,
    evenly_chosen,
    mean_and_single,
    show_pixels,
)
from modeling_perceiver_study import PerceiverStudyForImageClassification

_RIGHT, _WRONG = BLUE, ORANGE  # wrong ones also name two classes


@dataclass
class Classified:
    """`n` labelled images and what a model says of them.

    Attributes:
        images: with their labels.
        probabilities: `(n, classes)` float32.
        names: of the classes.
    """

    images: ImageDataset
    probabilities: np.ndarray
    names: list[str]

    @property
    def classes(self) -> np.ndarray:
        """`(n,)`, the likeliest ones."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """From 0 to 1."""
        return float((self.classes == self.images.labels).mean())

    def confusions(self) -> np.ndarray:
        """`(classes, classes)`: images of the row's class that are taken for the column's."""
        return confusions(self.images.labels, self.classes, len(self.names))

    def sample(self, count: int) -> np.ndarray:
        """Indices of `count` images, or all there are: by chance, so as not to flatter, and always the same."""
        return np.random.default_rng(0).permutation(len(self.images))[:count]

    def picture(self, index: int) -> Image.Image:
        """One image, for files."""
        return Image.fromarray(displayed(self.pixels([index])[0]))

    def pixels(self, indices) -> np.ndarray:
        """`(k, C, H, W)` uint8"""
        return self.images.__getitems__(indices)["pixels"].numpy()


@torch.no_grad()
def predict(
    model: PerceiverStudyForImageClassification, normalize: Normalization, images: ImageDataset, names: list[str]
) -> Classified:
    """Predictions of a model in evaluation mode, on the device that it is on."""
    found = []
    for batch in tqdm(
        DataLoader(images, 64, collate_fn=default_convert), desc="predictions", disable=None, leave=False
    ):
        logits = model(pixel_values=normalize(batch["pixels"].to(model.device))).logits
        found.append(logits.float().softmax(dim=-1).cpu().numpy())
    return Classified(images, np.concatenate(found), names)


def draw_predictions(predictions: Classified, picture: Path, rows: int = 4, columns: int = 8):
    """A grid of test images drawn by chance, each with the likeliest class; a wrong one also with the right class."""
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, index in zip(grid, predictions.sample(rows * columns), strict=False):
        label, predicted = predictions.images.labels[index], predictions.classes[index]
        show_pixels(axes, predictions.pixels([index])[0])
        text = f"{predictions.names[predicted]}, {100 * predictions.probabilities[index, predicted]:.0f} %"
        if predicted != label:
            text += f"\nis {predictions.names[label]}"
        axes.set_title(text, color=_RIGHT if predicted == label else _WRONG, fontsize=9)
    figure.savefig(picture, dpi=100)


def draw_attention(
    model: PerceiverStudyForImageClassification,
    normalize: Normalization,
    predictions: Classified,
    picture: Path,
    rows: int = 4,
):
    """For some test images the map of the last cross-attend: mean over latents, then single latents, heads averaged."""
    chosen = predictions.sample(rows)
    pixels = predictions.pixels(chosen)
    maps = cross_attention_maps(model, normalize(torch.from_numpy(pixels).to(model.device)))
    last = maps[-1].mean(dim=1).numpy()
    latents = evenly_chosen(last.shape[1])
    lines = [("", seen, mean_and_single(of_image, latents)) for seen, of_image in zip(pixels, last, strict=True)]
    figure = draw_map_lines(lines, latents)
    figure.suptitle(f"attention weights, cross-attend {len(maps)} of {len(maps)}", fontsize=10)
    figure.savefig(picture, dpi=100)
