"""Random crops of images that keep their size, as Inception was trained with (Szegedy et al. 2015, arXiv 1409.4842)."""

import math

import numpy as np

from lab.augment.seeds import fold_seed
from lab.errors import UserError

Box = tuple[int, int, int, int]

RATIOS = (3 / 4, 4 / 3)  # width to height
_TRIES = 10
_CROPS = 1  # tells these seeds from others of a step


def require_scale(scale: list[float] | None):
    """Raises a `UserError` for what are not two shares of an area, the lower first."""
    if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
        raise UserError(
            f"augmentation.random_resized_crop={scale}: expected null, or the lowest and the highest share of the area "
            "above 0 and up to 1, such as [0.08, 1.0]"
        )


def random_box(size: tuple[int, int], scale: tuple[float, float], *place: int) -> Box:
    """Left, top, right and bottom edge of a crop of an image of `size` `(width, height)`, in pixels.

    Its area is a share of the image's, evenly from `scale`; its width to its height is as in `RATIOS`, evenly in the
    logarithm. Where ten such crops do not fit into the image, it is the largest one in the middle with a ratio from
    `RATIOS`. torchvision's `RandomResizedCrop` does the same.

    Args:
        place: numbers of at least 0, such as seed, epoch and row, on which the choice depends.
    """
    rng = np.random.default_rng(fold_seed(*place, _CROPS))
    width, height = size
    for _ in range(_TRIES):
        area = rng.uniform(*scale) * width * height
        ratio = math.exp(rng.uniform(*np.log(RATIOS)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
            return left, top, left + wide, top + high
    ratio = min(max(width / height, RATIOS[0]), RATIOS[1])
    wide, high = max(1, min(width, round(height * ratio))), max(1, min(height, round(width / ratio)))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
