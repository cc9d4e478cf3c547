"""Random changes of clips, the same for all their frames, for whole batches.

Each clip has a generator of its own, seeded by seed, step and its place in the batch. So a resumed run repeats all
choices, and they do not depend on how a batch is divided among processes and accumulated parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from lab.augment.describing import listed_changes, span
from lab.augment.mixing import blend
from lab.augment.padding import padded
from lab.augment.seeds import fold_seed
from modeling_perceiver_study import PerceiverStudyVideoProcessor


@dataclass
class VideoAugmentation:
    """What happens to each training clip."""

    flip: bool = False  # half of the clips are mirrored left to right
    zoom: list[float] | None = None  # shows it so many times as large, evenly from [lowest, highest]
    shift: float = 0.0  # moves it by at most so many times its height up or down, and its width to the sides
    rotation: float = 0.0  # degrees, at most, either way
    stretch: float = 0.0  # makes it wider or narrower by at most this share
    speed: list[float] | None = None  # plays it so many times as fast, evenly from [lowest, highest]
    time_shift: int = 0  # frames: its first are left out, or the first is repeated, at most so many
    contrast: float = 0.0  # differences from its mean are multiplied by 1 - contrast to 1 + contrast
    brightness: float = 0.0  # what is added at most, either way, where black is 0 and white is 1
    noise: float = 0.0  # standard deviation of what is added to each pixel, at most, after normalising
    time_masks: int = 0  # stretches of frames that become the mean
    time_mask: float = 0.1  # how long each is at most, as a share of the clip
    erase: float = 0.0  # share of the clips in which a box becomes the mean, in all frames
    mixup_alpha: float = 0.0  # blend with another clip, its share from Beta(alpha, alpha); 0 is off


VIDEO_RANGES = {
    "shift": (0, 1),
    "rotation": (0, 180),
    "stretch": (0, 0.9),
    "time_shift": (0, None),
    "contrast": (0, 1),
    "brightness": (0, 1),
    "noise": (0, None),
    "time_masks": (0, 10),
    "time_mask": (0, 1),
    "erase": (0, 1),
    "mixup_alpha": (0, None),
}
_ERASED = (0.15, 0.5)  # least and most of a side that a box covers

Generators = list[np.random.Generator]


class TrainingVideo:
    """Turn a training batch into the model's arguments and targets."""

    def __init__(
        self,
        settings: VideoAugmentation,
        processor: PerceiverStudyVideoProcessor,
        seed: int,
        blendable: Callable[[torch.Tensor], torch.Tensor],
    ):
        """
        Args:
            blendable: turns labels into floats that can be averaged; called if clips are mixed.
        """
        self.settings, self.processor, self.seed, self.blendable = settings, processor, seed, blendable

    def __call__(
        self, values: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, step: int, first: int
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The model's arguments, and the labels, or `(n, classes)` probabilities if clips are mixed.

        Args:
            values: `(n, T, C, H, W)` uint8, padded.
            lengths: `(n,)`.
            first: these are rows `first` to `first + n` of the batch of `step`; both are even if clips are mixed.
        """
        settings = self.settings
        generators = [np.random.default_rng(fold_seed(self.seed, step, first + row)) for row in range(len(values))]
        opacity = [
            rng.beta(settings.mixup_alpha, settings.mixup_alpha) if settings.mixup_alpha else 0.0 for rng in generators
        ]
        values, lengths = in_other_time(values, lengths, settings, self.processor.num_frames, generators)
        values = elsewhere(values.float(), settings, generators)
        values = in_other_light(values, settings, generators)
        values, mask = self.processor.features(values, lengths)
        values = hidden(values, lengths, settings, generators)
        if settings.noise:
            noise = [
                _noise(values.shape, int(length), settings.noise, rng)
                for length, rng in zip(lengths, generators, strict=True)
            ]
            values = values + torch.from_numpy(np.stack(noise)).to(values)
        if settings.mixup_alpha:
            values, mask, labels = blend(values, mask, self.blendable(labels), torch.tensor(opacity))
        return {"pixel_values": values, "attention_mask": mask}, labels


def in_other_time(
    values: torch.Tensor, lengths: torch.Tensor, settings: VideoAugmentation, most: int | None, generators: Generators
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(n, T, ..), (n,) -> (n, T', ..), (n,)`: at another speed, by the nearest frames, and begun earlier or later."""
    if settings.speed is None and not settings.time_shift:
        return values, lengths
    chosen = []
    for length, rng in zip(lengths.tolist(), generators, strict=True):
        speed = rng.uniform(*settings.speed) if settings.speed else 1.0
        start = int(rng.integers(-settings.time_shift, settings.time_shift, endpoint=True))
        count = max(1, round(length / speed))
        frames = np.minimum(np.round(np.arange(count) * speed), length - 1)
        frames = np.concatenate([np.zeros(max(-start, 0)), frames[min(max(start, 0), count - 1) :]])
        chosen.append(frames[:most].astype(np.int64))
    index = padded(chosen)
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, index["values"].to(values.device)], index["lengths"].to(lengths.device)


def elsewhere(values: torch.Tensor, settings: VideoAugmentation, generators: Generators) -> torch.Tensor:
    """`(n, T, C, H, W)` floats: mirrored, turned, stretched, larger or smaller, and moved; edges are repeated."""
    moves = (settings.flip, settings.zoom, settings.shift, settings.rotation, settings.stretch)
    if not any(moves):
        return values
    height, width = values.shape[-2:]
    matrices = np.stack([_matrix(settings, height, width, rng) for rng in generators])
    flat = values.flatten(1, 2)
    grid = F.affine_grid(torch.from_numpy(matrices).to(flat), list(flat.shape), align_corners=False)
    moved = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.unflatten(1, values.shape[1:3])


def _matrix(settings: VideoAugmentation, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """`(2, 3)`: from where each place comes, in coordinates that span [-1, 1]."""
    mirror = -1.0 if settings.flip and rng.random() < 0.5 else 1.0
    zoom = rng.uniform(*settings.zoom) if settings.zoom else 1.0
    wider = 1 + settings.stretch * rng.uniform(-1, 1)
    angle = np.deg2rad(settings.rotation) * rng.uniform(-1, 1)
    shift = 2 * settings.shift * rng.uniform(-1, 1, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pixels = np.diag([width, height]) / 2.0  # a turn is one of pixels, whatever the shape of the frame
    linear = np.linalg.inv(pixels) @ turn @ pixels @ np.diag([mirror / (zoom * wider), 1 / zoom])
    return np.concatenate([linear, shift[:, None]], axis=1)


def in_other_light(values: torch.Tensor, settings: VideoAugmentation, generators: Generators) -> torch.Tensor:
    """`(n, T, C, H, W)` in 0 to 255: with another contrast and brightness."""
    if not settings.contrast and not settings.brightness:
        return values
    drawn = torch.from_numpy(np.stack([rng.uniform(-1, 1, 2) for rng in generators])).to(values)
    contrast, brightness = drawn.view(-1, 2, 1, 1, 1, 1).unbind(dim=1)
    mean = values[:, :1].mean(dim=(1, 2, 3, 4), keepdim=True)  # of the first frame, which is never padding
    changed = mean + (values - mean) * (1 + settings.contrast * contrast) + 255 * settings.brightness * brightness
    return changed.clamp(0, 255)


def hidden(
    values: torch.Tensor, lengths: torch.Tensor, settings: VideoAugmentation, generators: Generators
) -> torch.Tensor:
    """`(n, T, C, H, W)` normalised: with stretches of frames, and boxes in all frames, that are 0, the mean."""
    if not settings.time_masks and not settings.erase:
        return values
    values = values.clone()
    height, width = values.shape[-2:]
    for clip, length, rng in zip(values, lengths.tolist(), generators, strict=True):
        for _ in range(settings.time_masks):
            size = int(rng.uniform(0, settings.time_mask) * length + 0.5)
            first = int(rng.integers(0, length - size, endpoint=True))
            clip[first : first + size] = 0
        if settings.erase and rng.random() < settings.erase:
            sides = np.round(rng.uniform(*_ERASED, 2) * (height, width)).astype(int)
            top, left = rng.integers(0, np.array([height, width]) - sides, endpoint=True)
            clip[..., top : top + sides[0], left : left + sides[1]] = 0
    return values


def _noise(shape: torch.Size, length: int, most: float, rng: np.random.Generator) -> np.ndarray:
    """For one clip of a batch of this shape; as many numbers are drawn as it has, however long the padding."""
    noise = np.zeros(shape[1:], np.float32)
    noise[:length] = most * rng.random() * rng.standard_normal((length, *shape[2:]), np.float32)
    return noise


def describe_video_augmentation(settings: VideoAugmentation) -> str:
    """What happens to each training clip, as the end of a list; empty if nothing does."""
    kinds = {
        "half of the clips mirrored": settings.flip,
        f"zoom {span(settings.zoom)}": settings.zoom,
        f"shifts by up to {100 * settings.shift:g} % of the frame": settings.shift,
        f"rotation by up to {settings.rotation:g} degrees": settings.rotation,
        f"stretching by up to {100 * settings.stretch:g} %": settings.stretch,
        f"speed {span(settings.speed)}": settings.speed,
        f"starts up to {settings.time_shift} frames earlier or later": settings.time_shift,
        f"contrast changed by up to {100 * settings.contrast:g} %": settings.contrast,
        f"brightness changed by up to {100 * settings.brightness:g} %": settings.brightness,
        f"noise of up to {settings.noise:g}": settings.noise,
        f"{settings.time_masks} masks over time": settings.time_masks,
        f"boxes erased in {100 * settings.erase:g} % of the clips": settings.erase,
        f"mixup ({settings.mixup_alpha:g})": settings.mixup_alpha,
    }
    return listed_changes(kinds)
