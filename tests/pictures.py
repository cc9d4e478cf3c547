"""Pictures, and what the image processor should make of them, for tests."""

import numpy as np
from PIL import Image

from modeling_perceiver_study import PerceiverStudyImageProcessor


def noise(*shape, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def smooth(height, width):
    """A picture in which resampling overshoots nowhere, so that 8-bit and float arithmetic may be compared."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([40 + 150 * rows, 40 + 150 * columns, 200 - 75 * rows - 75 * columns], axis=-1).astype(np.uint8)


def reference(image, size=32, crop=32, resample=Image.Resampling.BICUBIC):
    """An RGB or L image as the class docstring says, in Pillow and numpy alone."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(size * width / short), int(size * height / short)), resample)
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    pixels = np.array(image.crop((left, top, left + crop, top + crop)), dtype=np.float64) / 255
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return (pixels - 0.5) / 0.5


def pixel_values(image, **kwargs):
    (pixels,) = PerceiverStudyImageProcessor(**kwargs)(image)["pixel_values"]
    return pixels.numpy()


def assert_close(actual, expected):
    # float32 against float64 for numbers up to 1: a rounding for each of rescaling, subtraction and division.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-7)
