"""Rectangles of training images that lose their pixels or show their neighbour's: random erasing, mixup and CutMix.

Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412) blends two whole images, CutMix (Yun et al. 2019,
https://arxiv.org/abs/1905.04899) pastes a rectangle of one into the other; labels are blended by the same share. Both
are a rectangle and how much of the neighbour shows in it, so a batch may hold both.

Who is neighbour to whom does not depend on how a batch is cut into parts, as long as parts are of even size: images 0
and 1 of a batch, 2 and 3, and so on. The order of the images is random anyway.
"""

import numpy as np
import torch

# A rectangle is `(4,)`: first row, row after the last, first column, column after the last; empty where all are 0.
_ERASED_SHARES = (0.02, 0.33)  # of the image; these and the ratios are torchvision's
_ERASED_RATIOS = (0.3, 3.3)  # height to width


def draw_erased(share: float, count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """`(4, n)`, rectangles to erase from images of `size` `(H, W)`; empty for all but a `share` of them."""
    area = torch.empty(count).uniform_(*_ERASED_SHARES, generator=generator)
    ratio = torch.empty(count).uniform_(*np.log(_ERASED_RATIOS), generator=generator).exp()
    sides = []
    for length, side in zip(size, ((area * ratio).sqrt(), (area / ratio).sqrt()), strict=True):
        # Shares of a side, so that rectangles are stretched with the image.
        side = (side * length).round().clamp(max=length)
        first = (torch.rand(count, generator=generator) * (length - side + 1)).floor()
        sides += [first, first + side]
    return torch.stack(sides).long() * (torch.rand(count, generator=generator) < share)


def draw_mixed(
    mixup_alpha: float, cutmix_alpha: float, count: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(4, n), (n,)`: rectangles that show the neighbour, and how much of it, from 0 to 1.

    Args:
        mixup_alpha: the neighbour's share of a blend is from Beta(alpha, alpha); 0 does not mix.
        cutmix_alpha: likewise for the area of a pasted rectangle. With both, half of the images get either.
    """
    cut = torch.rand(count, generator=generator) < (0.5 if mixup_alpha and cutmix_alpha else float(cutmix_alpha > 0))
    # torch draws from a Beta distribution without a generator only.
    rng = np.random.default_rng(torch.randint(2**62, (), generator=generator).item())
    opacity, area = (
        torch.from_numpy(rng.beta(alpha or 1.0, alpha or 1.0, count)).float() for alpha in (mixup_alpha, cutmix_alpha)
    )
    sides = []
    for length in size:
        middle = torch.rand(count, generator=generator) * length
        half = area.sqrt() * length / 2
        first, last = (middle - half).round().clamp(min=0), (middle + half).round().clamp(max=length)
        sides += [torch.where(cut, first, 0), torch.where(cut, last, length)]
    return torch.stack(sides).long(), torch.where(cut, 1.0, opacity)


def erase(images: torch.Tensor, rectangles: torch.Tensor) -> torch.Tensor:
    """`(n, C, H, W)`, `(4, n)` -> the images with 0 in their rectangles."""
    return images.masked_fill(_inside(rectangles, images), 0)


def mix(
    images: torch.Tensor, targets: torch.Tensor, rectangles: torch.Tensor, opacity: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and targets, each mixed with its neighbour's as `draw_mixed` says.

    Args:
        images: `(n, C, H, W)`; `n` is even.
        targets: `(n, classes)`, probabilities.
    """
    shown = _inside(rectangles, images) * opacity[:, None, None, None]
    share = shown.mean(dim=(1, 2, 3))[:, None]
    return torch.lerp(images, _neighbours(images), shown), torch.lerp(targets, _neighbours(targets), share)


def _neighbours(rows: torch.Tensor) -> torch.Tensor:
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _inside(rectangles: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """`(n, 1, H, W)` bool"""
    inside = []
    for axis, (first, end) in zip((-2, -1), rectangles.view(2, 2, -1, 1), strict=True):
        place = torch.arange(images.shape[axis], device=images.device)
        inside.append((place >= first) & (place < end))
    return inside[0][:, None, :, None] & inside[1][:, None, None, :]
