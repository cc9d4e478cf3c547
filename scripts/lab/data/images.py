"""Single images: what opens one, what a broken one raises, and what a model sees of it.

Apart from `data`, since the page (app.py) has no data sets.
"""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from transformers import BaseImageProcessor

from lab.errors import UserError, require_file

# What a broken image raises, or the archive that it is in.
UNUSABLE = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


NO_FORMAT = "cannot identify its format, such as PNG or JPEG"


def open_image(path: Path) -> Image.Image:
    """The image in a file, decoded; a missing or unreadable one is a `UserError`."""
    require_file(path)
    try:
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.load()
    except UnidentifiedImageError:  # which would call it an object at some place in memory
        raise UserError(f"{path} is not a readable image: {NO_FORMAT}") from None
    except UNUSABLE as error:
        raise UserError(f"{path} is not a readable image: {error}") from None
    return image


def seen_pixels(processor: BaseImageProcessor, image: Image.Image | np.ndarray, **settings) -> np.ndarray:
    """`(C, H, W)` uint8: the image as the model sees it, resized and cropped, but not rescaled.

    Args:
        settings: in place of those of the processor.
    """
    plain = {"do_normalize": False, "do_fourier_encode": False, **settings}
    pixels = processor(image, **plain, return_tensors="np")["pixel_values"][0]
    if processor.do_rescale:  # undone rather than left out, as it says which values are black and white
        pixels = pixels / processor.rescale_factor
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
