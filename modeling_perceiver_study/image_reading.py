"""From a picture in any form, a file or a PIL image of any mode, to an upright array of 0 to 255.

Training, evaluation, the commands and the pipelines all read pictures with these functions, so that a model is asked
about what it was trained on. transformers' `load_image` turns every picture into 8-bit RGB instead: what is transparent
shows the colours that lie under it, and whatever is above 255 of 65535 becomes white.
"""

import base64
import os
from io import BytesIO
from pathlib import Path

import numpy as np
from transformers.utils import is_vision_available

from .fetching import fetched, file_in, is_url

if is_vision_available():
    from PIL import ExifTags, Image, UnidentifiedImageError

    # What brings a picture of each EXIF orientation upright.
    TURNS = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }

_LONGEST_NAME = 200  # of a source in a message; base64 is longer

# Pillow opens 16-bit grey files of these formats in mode I, which has 32 bits: PGM always, PNG before Pillow 11.
FORMATS_OF_16_BITS = ("PPM", "PNG")


def open_image(source, timeout: float | None = None):
    """The PIL image in a file, in the mode of the file; anything else as it comes.

    Args:
        source: a path, a URL, a base64 string, bytes, a file object, or a dict of `datasets` with `bytes` or `path`.
        timeout: seconds to wait for a URL; None waits forever.

    Raises:
        ValueError: a string or a dict is none of these; names it.
        OSError: the file cannot be read, or holds no image.
    """
    source = file_in(source)
    if not isinstance(source, (str, os.PathLike, bytes)):
        return source
    name = "bytes" if isinstance(source, bytes) else repr(str(source))
    if isinstance(source, bytes):
        content = source
    elif is_url(source):
        content = fetched(source, timeout)
    elif not isinstance(source, str) or os.path.isfile(os.path.expanduser(source)):
        content = Path(os.path.expanduser(source)).read_bytes()
    else:
        encoded = source.partition(",")[2] if source.startswith("data:image/") else source
        try:
            content = base64.b64decode(encoded, validate=not source.startswith("data:image/"))
        except ValueError:
            raise ValueError(
                f"{source!r} is not an image: expected the path of an existing file, a URL that begins with http:// or "
                "https://, or a base64 string."
            ) from None
    try:
        return Image.open(BytesIO(content))
    except UnidentifiedImageError:
        name = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
        raise UnidentifiedImageError(
            f"cannot identify an image in {name}: expected an image file, a URL of one, or one in base64."
        ) from None


def upright(image):
    """The PIL image, turned as its EXIF orientation says; a malformed EXIF is ignored.

    The result does not have that orientation any more, so a picture may pass here more than once.
    """
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow's parser lets out nearly anything that Python raises
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.format = image.format
    turned.info = {name: value for name, value in image.info.items() if name == "transparency"}
    return turned


def image_pixels(image, convert_colours: bool) -> np.ndarray:
    """A PIL image of any mode to 0 to 255: `(H, W)` or `(H, W, C)`.

    Pictures of 16 bits are divided by 257, in float32. Mode `I`, which has 32 bits, holds 16 of them where the format
    of the file says so (PGM), or where any value is above 255; otherwise it holds 0 to 255, as mode `F` does. What lies
    beyond is cut off, as it is from the 8-bit pixels that training keeps.

    Args:
        convert_colours: to grey, RGB, or RGBA for a picture with transparency; otherwise channels stay as they are.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int) and convert_colours:
            values = np.where(values == transparent, 65535, values)
        if image.mode != "I" or image.format in FORMATS_OF_16_BITS or values.max(initial=0) > 255:
            values = (values / 257).astype(np.float32)
        return values.clip(0, 255)
    if image.mode == "F":
        return np.asarray(image).clip(0, 255)
    if not convert_colours:
        return np.array(image)
    if image.mode == "La":
        image = image.convert("LA")  # Pillow knows no other way out of this mode
    if image.has_transparency_data:
        return np.array(image.convert("RGBA"))
    return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
