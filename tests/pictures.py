"""Pictures, and what the image processor should make of them, for tests."""

import io

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


def encoded(image, kind, **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def every_picture(height=10, width=8):
    """`name -> (bytes of a file or None, PIL image)`: at least one of every mode, with transparency or 16 bits or both.

    Colours are noise with hard edges. Values of 16 bits are multiples of 257, so that 8 bits hold them.
    """
    rgb, grey, alpha = noise(height, width, 3), noise(height, width, seed=1), noise(height, width, seed=2)
    colours, wide = Image.fromarray(rgb), grey * np.uint16(257)
    rgba = Image.fromarray(np.dstack([rgb, alpha]))
    palette = colours.quantize(16)
    files = {
        "1": encoded(Image.fromarray(grey).convert("1"), "png"),
        "1 with a colour": encoded(Image.fromarray(grey).convert("1"), "png", transparency=0),
        "L": encoded(Image.fromarray(grey), "png"),
        "L with a colour": encoded(Image.fromarray(grey & 3), "png", transparency=2),
        "LA": encoded(Image.fromarray(np.dstack([grey, alpha])), "png"),
        "P": encoded(palette, "png"),
        "P with bytes": encoded(palette, "png", transparency=bytes(range(0, 256, 16))),
        "P with an index": encoded(palette, "gif", transparency=3),
        "RGB": encoded(colours, "png"),
        "RGB with a colour": encoded(colours, "png", transparency=tuple(rgb[0, 0].tolist())),
        "RGBA": encoded(rgba, "png"),
        "RGBA of WebP": encoded(rgba, "webp", lossless=True),
        "CMYK": encoded(colours.convert("CMYK"), "tiff"),
        "YCbCr": encoded(colours.convert("YCbCr"), "tiff"),
        "LAB": encoded(Image.frombytes("LAB", (width, height), rgb.tobytes()), "tiff"),
        "I;16": encoded(Image.fromarray(wide), "png"),
        "I;16 with a colour": encoded(Image.fromarray(wide), "png", transparency=int(wide[0, 0])),
        "I;16B": encoded(Image.fromarray(wide.astype(">u2")), "tiff"),
        "I of PGM": b"P5 %d %d 65535\n" % (width, height) + wide.astype(">u2").tobytes(),
        "I of a dark PGM": b"P5 %d %d 65535\n" % (width, height) + (grey % 2).astype(">u2").tobytes(),
        "I of TIFF, 16 bits": encoded(Image.fromarray(wide.astype(np.int32)), "tiff"),
        "I of TIFF, 8 bits": encoded(Image.fromarray(grey.astype(np.int32)), "tiff"),
        "F": encoded(Image.fromarray(grey.astype(np.float32)), "tiff"),
        "F beyond 0 to 255": encoded(Image.fromarray(grey.astype(np.float32) * 2 - 100), "tiff"),
    }
    pictures = {name: (content, opened(content)) for name, content in files.items()}
    in_memory = {
        "La": Image.fromarray(np.dstack([grey, alpha])).convert("La"),
        "PA": palette.convert("PA"),
        "RGBa": rgba.convert("RGBa"),
        "RGBX": colours.convert("RGBX"),
        "HSV": colours.convert("HSV"),
        "I;16L": Image.frombytes("I;16L", (width, height), wide.astype("<u2").tobytes()),
        "I;16N": Image.frombytes("I;16N", (width, height), wide.tobytes()),
    }
    return pictures | {name: (None, image) for name, image in in_memory.items()}
