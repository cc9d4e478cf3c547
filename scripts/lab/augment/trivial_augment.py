"""TrivialAugment (Müller and Hutter 2021, https://arxiv.org/abs/2103.10158): one operation per image, of any strength.

Operations and ranges are those of the paper's wide space, as in torchvision's `TrivialAugmentWide`. kornia and torch
compute them, for all images of a batch with the same operation together, each with its own strength.
"""

import contextlib
from collections.abc import Callable

import kornia.enhance as enhance
import torch
import torch.nn.functional as F

STRENGTHS = 31  # including zero
_FARTHEST = 32  # pixels, whatever the size of the image
_LARGEST_ANGLE = 135  # degrees
_LARGEST_CHANGE = 0.99  # of a factor, or of a shear

# `(n, C, H, W)` in [0, 1], `(n,)` strengths in [-1, 1] -> `(n, C, H, W)` in [0, 1]
Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def draw_operations(count: int, generator: torch.Generator, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw for `count` images the number of an operation `(n,)` and its strength `(n,)`, from -1 to 1 in even steps.

    Args:
        share: of the images that get one; the others get the identity.
    """
    operation = torch.randint(len(OPERATIONS), (count,), generator=generator)
    if share < 1:
        operation[torch.rand(count, generator=generator) >= share] = list(OPERATIONS).index("identity")
    strength = torch.randint(STRENGTHS, (count,), generator=generator) / (STRENGTHS - 1)
    sign = 1 - 2 * torch.randint(2, (count,), generator=generator)
    return operation, sign * strength


def trivial_augment(pixels: torch.Tensor, operation: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """`(n, C, H, W) -> (n, C, H, W)`, uint8: change each image by its operation.

    Args:
        pixels: grey or colour.
        operation: `(n,)` from `draw_operations`, on the CPU, where images are sorted by operation.
        strength: `(n,)` from `draw_operations`, on the CPU.
    """
    changed = pixels.clone()
    for number, apply in enumerate(OPERATIONS.values()):
        rows = (operation == number).nonzero()[:, 0]
        if len(rows):
            of_rows = strength[rows].to(pixels.device, non_blocking=True)
            rows = rows.to(pixels.device, non_blocking=True)
            changed[rows] = (apply(pixels[rows].float() / 255, of_rows) * 255).round().to(torch.uint8)
    return changed


def _warp(images: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return for each `(x, y)` the pixel nearest to `matrix @ [x, y, 1]`, black outside of the image.

    Args:
        matrix: `(n, 2, 3)`, in pixels from the corner of the image.
    """
    height, width = images.shape[-2:]
    # torch's coordinates run from -1 to 1: p = size * (c + 1) / 2.
    size = matrix.new_tensor([width, height])
    linear = matrix[..., :2] * size / size[:, None]
    offset = linear.sum(dim=-1) + matrix[..., 2] * 2 / size - 1
    grid = F.affine_grid(torch.cat([linear, offset[..., None]], -1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", align_corners=False)


def _matrix(strength: torch.Tensor, entries: list[list]) -> torch.Tensor:
    """Return `(n, 2, 3)` from `entries`, which are numbers or `(n,)`."""
    return torch.stack([torch.stack([e + 0 * strength for e in row], dim=-1) for row in entries], dim=-2)


def _shear_x(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return _warp(images, _matrix(strength, [[1, _LARGEST_CHANGE * strength, 0], [0, 1, 0]]))


def _shear_y(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return _warp(images, _matrix(strength, [[1, 0, 0], [_LARGEST_CHANGE * strength, 1, 0]]))


def _translate_x(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return _warp(images, _matrix(strength, [[1, 0, _FARTHEST * strength], [0, 1, 0]]))


def _translate_y(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return _warp(images, _matrix(strength, [[1, 0, 0], [0, 1, _FARTHEST * strength]]))


def _rotate(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    angle = torch.deg2rad(_LARGEST_ANGLE * strength)
    cos, sin = angle.cos(), angle.sin()
    height, width = images.shape[-2:]
    x, y = width / 2, height / 2  # the fixed point
    return _warp(images, _matrix(strength, [[cos, -sin, x - x * cos + y * sin], [sin, cos, y - x * sin - y * cos]]))


def _posterize(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return enhance.posterize(images, 8 - (6 * strength.abs()).round().int())


def _solarize(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return enhance.solarize(images, 1 - strength.abs())


def _equalize(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    with _sums_in_any_order():
        return enhance.equalize(images)


@contextlib.contextmanager
def _sums_in_any_order():
    """Let torch sum whole numbers as floats in deterministic mode; it refuses on CUDA, though order is irrelevant."""
    refused = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(refused, warn_only=warned)


def _by_factor(change: Operation) -> Operation:
    """Return an operation by a function of kornia's that takes a factor, where 1 is no change."""
    return lambda images, strength: change(images, 1 + _LARGEST_CHANGE * strength)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda images, strength: images,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
    "brightness": _by_factor(enhance.adjust_brightness_accumulative),
    "color": _by_factor(enhance.adjust_saturation_with_gray_subtraction),
    "contrast": _by_factor(enhance.adjust_contrast_with_mean_subtraction),
    "sharpness": _by_factor(enhance.sharpness),
    "posterize": _posterize,
    "solarize": _solarize,
    "auto_contrast": lambda images, strength: enhance.normalize_min_max(images),
    "equalize": _equalize,
}
