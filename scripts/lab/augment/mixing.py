"""Random erasing, mixup and CutMix: rectangles of training images are erased or show another image, their neighbour.

Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412) blends two whole images, CutMix (Yun et al. 2019,
https://arxiv.org/abs/1905.04899) pastes a rectangle of one into the other; labels are blended by the same share. Both
are a rectangle and the opacity of the neighbour in it, so a batch can have both.

Images 0 and 1 of a batch are neighbours, 2 and 3, and so on. So the pairs do not depend on how a batch is divided, as
long as parts have an even size. The order of the images is random anyway.
"""

import numpy as np
import torch

# A rectangle is `(4,)`: first row, row after the last, first column, column after the last; empty where all are 0.
_ERASED_SHARES = (0.02, 0.33)  # of the image; these and the ratios are torchvision's
_ERASED_RATIOS = (0.3, 3.3)  # height to width


def draw_erased(share: float, count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Draw rectangles `(4, n)` to erase from images of `size` `(H, W)`; only a `share` of them is not empty."""
    area = torch.empty(count).uniform_(*_ERASED_SHARES, generator=generator)
    ratio = torch.empty(count).uniform_(*np.log(_ERASED_RATIOS), generator=generator).exp()
    sides = []
    for length, side in zip(size, ((area * ratio).sqrt(), (area / ratio).sqrt()), strict=True):
        # In shares of a side, so rectangles are stretched with the image.
        side = (side * length).round().clamp(max=length)
        first = (torch.rand(count, generator=generator) * (length - side + 1)).floor()
        sides += [first, first + side]
    return torch.stack(sides).long() * (torch.rand(count, generator=generator) < share)


def draw_mixed(
    mixup_alpha: float, cutmix_alpha: float, count: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw rectangles `(4, n)` that show the neighbour, and its opacity `(n,)` in them, from 0 to 1.

    Args:
        mixup_alpha: the opacity of a blend is from Beta(alpha, alpha); 0 turns mixup off.
        cutmix_alpha: the area of a pasted rectangle is from Beta(alpha, alpha); 0 turns CutMix off. With both, half of
            the images get each.
    """
    cut = torch.rand(count, generator=generator) < (0.5 if mixup_alpha and cutmix_alpha else float(cutmix_alpha > 0))
    # torch cannot draw from a Beta distribution with a generator.
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
    """`(n, C, H, W), (4, n) -> (n, C, H, W)`: set the pixels in rectangles to 0."""
    return images.masked_fill(_inside(rectangles, images), 0)


def mix(
    images: torch.Tensor, targets: torch.Tensor, rectangles: torch.Tensor, opacity: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix images and targets with those of their neighbours, by what `draw_mixed` drew.

    Args:
        images: `(n, C, H, W)`; `n` is even.
        targets: `(n, classes)`, probabilities.
    """
    shown = _inside(rectangles, images) * opacity[:, None, None, None]
    share = shown.mean(dim=(1, 2, 3))[:, None]
    return torch.lerp(images, neighbours(images), shown), torch.lerp(targets, neighbours(targets), share)


def blend(
    values: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor, opacity: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each sample of a batch blended with its neighbour, which also shows where only the neighbour is not padding.

    Args:
        values: `(n, ..)`, in which padding is 0.
        mask: `(n, ..)`, what is not padding.
        targets: `(n, classes)`, probabilities.
        opacity: `(n,)`, that of the neighbour.
    """
    share = opacity.to(values)
    blended = torch.lerp(values, neighbours(values), share.view(-1, *[1] * (values.ndim - 1)))
    return blended, mask | neighbours(mask), torch.lerp(targets, neighbours(targets), share[:, None])


def neighbours(rows: torch.Tensor) -> torch.Tensor:
    """Rows of a batch, or of an even part of it, each in the place of its neighbour: 1, 0, 3, 2, and so on."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _inside(rectangles: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return `(n, 1, H, W)` bool: which pixels are in the rectangles."""
    inside = []
    for axis, (first, end) in zip((-2, -1), rectangles.view(2, 2, -1, 1), strict=True):
        place = torch.arange(images.shape[axis], device=images.device)
        inside.append((place >= first) & (place < end))
    return inside[0][:, None, :, None] & inside[1][:, None, None, :]
