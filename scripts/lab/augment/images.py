"""From uint8 pixels to what the model sees: random changes and normalisation, on whole batches and their device."""

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from lab.augment.mixing import draw_erased, draw_mixed, erase, mix
from lab.errors import UserError
from lab.recipe import Augmentation
from modeling_perceiver_study import PerceiverStudyImageProcessor


@dataclass
class Draws:
    """The random choices for `n` images; None for what is off.

    Attributes:
        shift: `(2, n)`, how far down and right the crop of each begins, from 0 to `2 * crop_padding`.
        flip: `(n,)` bool.
        operation: `(n,)`, of trivial_augment.py; stays on the CPU.
        strength: `(n,)`, of that operation; likewise.
        erased: `(4, n)`, rectangles of mixing.py.
        mixed: `(4, n)`, likewise.
        opacity: `(n,)`, of the neighbour in `mixed`.
    """

    shift: torch.Tensor
    flip: torch.Tensor
    operation: torch.Tensor | None = None
    strength: torch.Tensor | None = None
    erased: torch.Tensor | None = None
    mixed: torch.Tensor | None = None
    opacity: torch.Tensor | None = None

    def rows(self, start: int, stop: int, device: torch.device) -> "Draws":
        """The choices for images `start` to `stop`."""
        chosen = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if values is not None:
                target = "cpu" if field.name in ("operation", "strength") else device
                chosen[field.name] = values[..., start:stop].to(target, non_blocking=True)
        return Draws(**chosen)


def draw(settings: Augmentation, count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    """Choices for `count` images of `size` `(H, W)`, made on the CPU, so that all devices draw alike."""
    shift = torch.randint(0, 2 * settings.crop_padding + 1, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    draws = Draws(shift, flip & settings.horizontal_flip)
    if settings.trivial_augment:
        from lab.augment.trivial_augment import draw_operations  # kornia takes half a second to import

        draws.operation, draws.strength = draw_operations(count, generator)
    if settings.random_erasing:
        draws.erased = draw_erased(settings.random_erasing, count, size, generator)
    if settings.mixes:
        draws.mixed, draws.opacity = draw_mixed(settings.mixup_alpha, settings.cutmix_alpha, count, size, generator)
    return draws


def augment(pixels: torch.Tensor, settings: Augmentation, draws: Draws) -> torch.Tensor:
    """`(n, C, H, W) -> (n, C, H, W)`, uint8: crop and flip, then an operation of TrivialAugment."""
    pixels = crop_and_flip(pixels, settings, draws)
    if settings.trivial_augment:
        from lab.augment.trivial_augment import trivial_augment

        pixels = trivial_augment(pixels, draws.operation, draws.strength)
    return pixels


def crop_and_flip(pixels: torch.Tensor, settings: Augmentation, draws: Draws) -> torch.Tensor:
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
    """A training batch -> what the model sees and what it is to say, with random choices that a resumed run repeats.

    They depend on seed, step and place in the batch alone. Every process and accumulated part draws for the whole
    batch and takes its rows, so that cutting the batch differently changes nothing.

    Raises:
        UserError: TrivialAugment is to work on other than grey or colour images.
    """

    def __init__(self, settings: Augmentation, normalize: "Normalization", seed: int, batch_size: int, num_labels: int):
        self.settings = settings
        self.normalize = normalize
        self.seed = seed
        self.batch_size = batch_size
        self.num_labels = num_labels
        self.generator = torch.Generator()
        channels = len(normalize.scale)
        if settings.trivial_augment and channels not in (1, 3):
            raise UserError(
                f"augmentation.trivial_augment=true works on 1 or 3 channels, not model.num_channels={channels}"
            )

    def __call__(
        self, pixels: torch.Tensor, labels: torch.Tensor, step: int, first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(n, C, H, W)` uint8, `(n,)` -> float32, and the labels, or `(n, classes)` probabilities where images mix.

        Args:
            first: `pixels` are rows `first` to `first + n` of the batch of `step`; both even where images mix.
        """
        self.generator.manual_seed(fold_seed(self.seed, step))
        draws = draw(self.settings, self.batch_size, pixels.shape[-2:], self.generator)
        draws = draws.rows(first, first + len(pixels), pixels.device)
        images = self.normalize(augment(pixels, self.settings, draws))
        if self.settings.random_erasing:
            images = erase(images, draws.erased)
        if not self.settings.mixes:
            return images, labels
        return mix(images, F.one_hot(labels, self.num_labels).float(), draws.mixed, draws.opacity)


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
