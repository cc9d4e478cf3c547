"""Random changes and normalisation of uint8 pixels, for whole batches on their device."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from lab.augment.describing import listed_changes
from lab.augment.mixing import draw_erased, draw_mixed, erase, mix
from lab.augment.seeds import fold_seed
from lab.errors import UserError
from modeling_perceiver_study import PerceiverStudyImageProcessor
from modeling_perceiver_study.image_processing_perceiver_study import require_for_channels


@dataclass
class Augmentation:
    """What happens to each training image."""

    # Crop a random share of the area, evenly from [lowest, highest], and resize it, before other changes. Images keep
    # their size and are read from disk for each batch. null resizes and crops the centre, as in evaluation.
    random_resized_crop: list[float] | None = None
    crop_padding: int = 0  # black pixels around the image before a random crop of its own size
    horizontal_flip: bool = False
    # One of 14 operations, such as a shear or another contrast, of random strength; a number is a share of images.
    trivial_augment: bool | float = False
    random_erasing: float = 0.0  # share of the images in which a random rectangle gets the mean colour
    mixup_alpha: float = 0.0  # blend with another image, its share from Beta(alpha, alpha); 0 is off
    cutmix_alpha: float = 0.0  # paste a rectangle of another image, likewise; with both, half of the images get each

    @property
    def mixes(self) -> bool:
        """Whether images come in pairs, and labels as probabilities."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


# Lowest and highest values.
RANGES = {
    "crop_padding": (0, None),
    "trivial_augment": (0, 1),
    "random_erasing": (0, 1),
    "mixup_alpha": (0, None),
    "cutmix_alpha": (0, None),
}


@dataclass
class Draws:
    """The random choices for `n` images; None for changes that are off.

    Attributes:
        shift: `(2, n)`, row and column at which the crop of each begins, from 0 to `2 * crop_padding`.
        flip: `(n,)` bool.
        operation: `(n,)`, numbers from trivial_augment.py, which stay on the CPU.
        strength: `(n,)`, of that operation, also on the CPU.
        erased: `(4, n)`, rectangles as in mixing.py.
        mixed: `(4, n)`, rectangles as in mixing.py.
        opacity: `(n,)`, of the neighbour in `mixed`, from 0 to 1.
    """

    shift: torch.Tensor
    flip: torch.Tensor
    operation: torch.Tensor | None = None
    strength: torch.Tensor | None = None
    erased: torch.Tensor | None = None
    mixed: torch.Tensor | None = None
    opacity: torch.Tensor | None = None

    def rows(self, start: int, stop: int, device: torch.device) -> "Draws":
        """Return the choices for images `start` to `stop`."""
        chosen = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if values is not None:
                target = "cpu" if field.name in ("operation", "strength") else device
                chosen[field.name] = values[..., start:stop].to(target, non_blocking=True)
        return Draws(**chosen)


def draw(settings: Augmentation, count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    """Draw choices for `count` images of `size` `(H, W)` on the CPU, so that they are the same for all devices."""
    shift = torch.randint(0, 2 * settings.crop_padding + 1, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    draws = Draws(shift, flip & settings.horizontal_flip)
    if settings.trivial_augment:
        from lab.augment.trivial_augment import draw_operations  # kornia takes half a second to import

        draws.operation, draws.strength = draw_operations(count, generator, share=float(settings.trivial_augment))
    if settings.random_erasing:
        draws.erased = draw_erased(settings.random_erasing, count, size, generator)
    if settings.mixes:
        draws.mixed, draws.opacity = draw_mixed(settings.mixup_alpha, settings.cutmix_alpha, count, size, generator)
    return draws


def augment(pixels: torch.Tensor, settings: Augmentation, draws: Draws) -> torch.Tensor:
    """`(n, C, H, W) -> (n, C, H, W)`, uint8: crop and flip, then apply an operation of TrivialAugment."""
    pixels = crop_and_flip(pixels, settings, draws)
    if settings.trivial_augment:
        from lab.augment.trivial_augment import trivial_augment

        pixels = trivial_augment(pixels, draws.operation, draws.strength)
    return pixels


def crop_and_flip(pixels: torch.Tensor, settings: Augmentation, draws: Draws) -> torch.Tensor:
    """`(n, C, H, W) -> (n, C, H, W)`: take a random crop of each padded image, and mirror some."""
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


def describe_augmentation(settings: Augmentation) -> str:
    """Return what happens to each training image, as the end of a list; empty if nothing does."""
    low, high = settings.random_resized_crop or (0, 0)
    of_some = "" if settings.trivial_augment == 1 else f" of {100 * settings.trivial_augment:g} % of the images"
    kinds = {
        f"random crops of {100 * low:g} to {100 * high:g} % of the area": high,
        f"random crops of images padded by {settings.crop_padding}": settings.crop_padding,
        "mirrored images": settings.horizontal_flip,
        f"TrivialAugment{of_some}": settings.trivial_augment,
        f"random erasing ({settings.random_erasing})": settings.random_erasing,
        f"mixup ({settings.mixup_alpha})": settings.mixup_alpha,
        f"CutMix ({settings.cutmix_alpha})": settings.cutmix_alpha,
    }
    return listed_changes(kinds)


class TrainingInputs:
    """Turn a training batch into the model's inputs and targets, with random choices that a resumed run repeats.

    The choices depend only on seed, step and place in the batch. Every process and accumulated part draws them for the
    whole batch and takes its rows, so the result does not depend on how the batch is divided.

    Raises:
        UserError: TrivialAugment is on, and images have neither 1 nor 3 channels.
    """

    def __init__(
        self,
        settings: Augmentation,
        normalize: "Normalization",
        seed: int,
        batch_size: int,
        blendable: Callable[[torch.Tensor], torch.Tensor],
    ):
        """
        Args:
            blendable: turns labels into floats that can be averaged; called if images are mixed.
        """
        self.settings = settings
        self.normalize = normalize
        self.seed = seed
        self.batch_size = batch_size
        self.blendable = blendable
        self.generator = torch.Generator()
        channels = len(normalize.scale)
        if settings.trivial_augment and channels not in (1, 3):
            raise UserError(f"augmentation.trivial_augment works on 1 or 3 channels, not model.num_channels={channels}")

    def __call__(
        self, pixels: torch.Tensor, labels: torch.Tensor, step: int, first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images as float32, and the labels, or `(n, classes)` probabilities if images are mixed.

        Args:
            pixels: `(n, C, H, W)` uint8.
            labels: `(n,)`.
            first: `pixels` are rows `first` to `first + n` of the batch of `step`; both are even if images are mixed.
        """
        self.generator.manual_seed(fold_seed(self.seed, step))
        draws = draw(self.settings, self.batch_size, pixels.shape[-2:], self.generator)
        draws = draws.rows(first, first + len(pixels), pixels.device)
        images = self.normalize(augment(pixels, self.settings, draws))
        if self.settings.random_erasing:
            images = erase(images, draws.erased)
        if not self.settings.mixes:
            return images, labels
        return mix(images, self.blendable(labels), draws.mixed, draws.opacity)


class Normalization:
    """`(n, C, H, W)` uint8 -> float32: rescale and normalise as the image processor does, in one multiply and add.

    Raises:
        UserError: `image_mean` or `image_std` has another number of values than `num_channels`.
    """

    def __init__(self, processor: PerceiverStudyImageProcessor):
        rescale = processor.rescale_factor if processor.do_rescale else 1.0
        mean = processor.image_mean if processor.do_normalize else [0.0] * processor.num_channels
        std = processor.image_std if processor.do_normalize else [1.0] * processor.num_channels
        try:
            require_for_channels(processor.num_channels, image_mean=mean, image_std=std)
        except ValueError as error:  # of a processor that takes pictures of any number of channels
            raise UserError(f"section image_processor: {error}") from None
        std = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        mean = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
        self.scale = (rescale / std).float()
        self.offset = (-mean / std).float()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.scale, self.offset = self.scale.to(pixels.device), self.offset.to(pixels.device)
        return torch.addcmul(self.offset, pixels.float(), self.scale)
