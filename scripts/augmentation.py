"""From uint8 pixels to what the model sees: random crop, flip and normalisation, on whole batches and their device."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from modeling_perceiver_study import PerceiverStudyImageProcessor
from recipe import Augmentation


@dataclass
class Draws:
    """The random choices for `n` images.

    Attributes:
        shift: `(2, n)`, how far down and right the crop of each begins, from 0 to `2 * crop_padding`.
        flip: `(n,)` bool.
    """

    shift: torch.Tensor
    flip: torch.Tensor

    def rows(self, start: int, stop: int, device: torch.device) -> "Draws":
        """The choices for images `start` to `stop`."""
        shift = self.shift[:, start:stop].to(device, non_blocking=True)
        return Draws(shift, self.flip[start:stop].to(device, non_blocking=True))


def draw(settings: Augmentation, count: int, generator: torch.Generator) -> Draws:
    """Choices for `count` images, made on the CPU, so that all devices draw alike."""
    shift = torch.randint(0, 2 * settings.crop_padding + 1, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    return Draws(shift, flip & settings.horizontal_flip)


def augment(pixels: torch.Tensor, settings: Augmentation, draws: Draws) -> torch.Tensor:
    """`(n, C, H, W) -> (n, C, H, W)`: a random crop of each padded image, mirrored or not."""
    if not (settings.crop_padding or settings.horizontal_flip):
        return pixels
    count, channels, height, width = pixels.shape
    padded = F.pad(pixels, (settings.crop_padding,) * 4)
    row = torch.arange(height, device=pixels.device) + draws.shift[0][:, None]
    column = torch.arange(width, device=pixels.device).expand(count, width)
    column = torch.where(draws.flip[:, None], width - 1 - column, column) + draws.shift[1][:, None]
    # One gather over flat pixels is several times faster than indexing with four arrays.
    index = row[:, :, None] * padded.shape[-1] + column[:, None, :]
    index = index.reshape(count, 1, height * width).expand(count, channels, height * width)
    return padded.flatten(2).gather(2, index).view(pixels.shape)


class TrainingInputs:
    """uint8 pixels of a training batch -> what the model sees, with random choices that a resumed run repeats.

    They depend on seed, step and place in the batch alone. Every process and accumulated part draws for the whole
    batch and takes its rows, so that cutting the batch differently changes nothing.
    """

    def __init__(self, settings: Augmentation, normalize: "Normalization", seed: int, batch_size: int):
        self.settings = settings
        self.normalize = normalize
        self.seed = seed
        self.batch_size = batch_size
        self.generator = torch.Generator()

    def __call__(self, pixels: torch.Tensor, step: int, first: int) -> torch.Tensor:
        """`(n, C, H, W)` uint8 -> float32; `pixels` are rows `first` to `first + n` of the batch of `step`."""
        self.generator.manual_seed(fold_seed(self.seed, step))
        draws = draw(self.settings, self.batch_size, self.generator).rows(first, first + len(pixels), pixels.device)
        return self.normalize(augment(pixels, self.settings, draws))


def fold_seed(*numbers: int) -> int:
    """One seed from several numbers of at least 0, unrelated for all that differ."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class Normalization:
    """`(n, C, H, W)` uint8 -> float32: the image processor's rescaling and normalisation in one multiply and add."""

    def __init__(self, processor: PerceiverStudyImageProcessor, device: torch.device):
        rescale = processor.rescale_factor if processor.do_rescale else 1.0
        mean = processor.image_mean if processor.do_normalize else [0.0] * processor.num_channels
        std = processor.image_std if processor.do_normalize else [1.0] * processor.num_channels
        std = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        mean = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
        self.scale = (rescale / std).float().to(device)
        self.offset = (-mean / std).float().to(device)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.offset, pixels.float(), self.scale)
