"""Images to normalised pixels and Fourier position features, for the Perceiver study models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import (
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    is_pil_image,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import is_vision_available, logging

from .image_reading import image_pixels, open_image, upright
from .position import fourier_axis_features, resolve_max_frequencies
from .scalars import as_list, is_count, is_number, plain, require_saved_as, unmasked

if is_vision_available():
    from PIL import Image

logger = logging.get_logger(__name__)

# What Pillow's conversion from RGB to L weighs the colours with, in units of 2 ** -16.
LUMA = (19595, 38470, 7471)

_STATISTICS = ("image_mean", "image_std")
_WHITE = 255  # of the numbers that images have unless `rescale_factor` says otherwise


class PerceiverStudyImageProcessorKwargs(ImagesKwargs, total=False):
    """What the processor takes beside the arguments that all of transformers' image processors share.

    Attributes:
        num_channels: `C`. With `do_convert_rgb`, images become RGB for 3 and grey for 1, and must have that many
            channels already for other numbers. It also helps to tell arrays `(C, H, W)` from `(H, W, C)`.
        crop_first: cut the centre out before resizing it to `size`, as transformers' Perceiver does: `size / crop_size`
            of the shorter edge, along each axis. Both then have a height and a width.
        do_fourier_encode: return `position_features`.
        num_frequency_bands: `K`, Fourier bands per axis, at least 1.
        max_frequencies: highest band, a number or one for rows and one for columns, above 0; None is the Nyquist
            frequency of the produced image, half its height and half its width. Where `size` and `crop_size` of the
            processor say how large that is, None becomes these numbers once and for all: as in the model, other sizes
            at a call span the same coordinates with the same frequencies.
        concat_positions: give the coordinates themselves beside sines and cosines.
    """

    num_channels: int
    crop_first: bool
    do_fourier_encode: bool
    num_frequency_bands: int
    max_frequencies: float | int | list[float | int] | tuple[float | int, ...] | None
    concat_positions: bool


class PerceiverStudyImageProcessor(PilBackend):
    r"""Resizes, crops, rescales, normalises and Fourier-encodes images.

    Returns `pixel_values` `(B, C, H, W)` in float32 and, with `do_fourier_encode`, `position_features`
    `(B, H + W, F)`: the features of each row, then those of each column (see `position.fourier_axis_features`). They
    are the same for all images of one size, and are repeated so that whatever slices or stacks a batch by sample keeps
    working. Both are torch tensors unless `return_tensors` says otherwise (`"np"`, or None for lists of arrays, which
    may differ in size), so that `model(**processor(images))` runs.

    Pillow does the resizing whether torchvision is there or not, and results are the same with and without it.

    Images are PIL images of any mode; files by path, URL or bytes, opened, or as undecoded dicts of `datasets`; numpy
    arrays or torch tensors of shape `(H, W)`, `(H, W, C)` or `(C, H, W)`; batches of these with one more axis in front;
    and lists of all that in any nesting. Arrays of any type
    hold 0 to 255 unless `rescale_factor` or `do_rescale` say otherwise, or False and True for black and white. With
    `do_convert_rgb`, transparent images are laid on white (255, or for other than 8-bit arrays what becomes 1 by
    rescaling). Without it pixels keep the channels they come with. PIL images are turned upright as their EXIF says,
    and 16-bit grey ones are brought to 0 to 255 (see `image_reading.py`).

    The channels of an array are on its first or its last axis, whichever has a length of 1, 3, 4 or `num_channels`; if
    both have, the axis of `num_channels`. Whatever is still not clear needs `input_data_format`.

    Args:
        size: as a number it is the length of the shortest edge, and the aspect ratio is kept.
        crop_size: None, or a `size` given without it, is as large as `size`: a square for a shortest edge.
        image_mean: one number for each channel, or one for all; so is `image_std`.
        kwargs: all others are described in `PerceiverStudyImageProcessorKwargs` and transformers' `ImagesKwargs`;
            `device`, `data_format` and `disable_grouping` do nothing here.

    Raises:
        ValueError: an argument has a value outside of what is said above, or an image has the wrong number of axes or
            channels, or does not say which axis these are on, or images of different sizes are to become one tensor;
            names the value.
    """

    valid_kwargs = PerceiverStudyImageProcessorKwargs
    model_input_names = ["pixel_values", "position_features"]

    do_resize = True
    size = {"shortest_edge": 32}
    default_to_square = False
    resample = PILImageResampling.BICUBIC
    do_center_crop = True
    crop_size = None
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = 0.5
    image_std = 0.5
    do_convert_rgb = True
    num_channels = 3
    crop_first = False
    do_fourier_encode = True
    num_frequency_bands = 16
    max_frequencies = None
    concat_positions = True
    return_tensors = "pt"

    def __init__(self, **kwargs: Unpack[PerceiverStudyImageProcessorKwargs]):
        super().__init__(**plain(kwargs))
        self._check_settings()
        for name in _STATISTICS:
            value = getattr(self, name)
            if isinstance(value, (int, float)):  # others read these as one number per channel
                setattr(self, name, (float(value),) * self.num_channels)
            elif self.do_normalize and self.do_convert_rgb:  # otherwise pixels keep the channels that they come with
                require_for_channels(self.num_channels, **{name: value})
        grid = self._produced_grid()
        if self.max_frequencies is None and grid is not None:
            self.max_frequencies = tuple(resolve_max_frequencies(None, grid))

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs):
        """As in transformers, but a new `size` without a `crop_size` does not keep that of the dictionary."""
        require_saved_as("image_processor_type", image_processor_dict)
        return super().from_dict(image_processor_dict, **_follow_size(kwargs))

    def preprocess(self, images: ImageInput, *args, **kwargs: Unpack[PerceiverStudyImageProcessorKwargs]):
        return super().preprocess(images, *args, **_follow_size(plain(kwargs)))

    def _check_settings(self, **kwargs):
        """Raise a ValueError where those of a call, or the processor's own in their place, do not fit."""
        own = {name: getattr(self, name) for name in self._valid_kwargs_names}
        self._validate_preprocess_kwargs(**self._standardize_kwargs(**own | _follow_size(plain(kwargs))))

    def _produced_grid(self) -> tuple[int, int] | None:
        """Height and width of every produced image; None if they depend on the image that comes in."""
        if self.do_pad:
            return None
        cropped_last = self.do_center_crop and not self.crop_first
        size = self.crop_size if cropped_last else self.size if self.do_resize else None
        return (size.height, size.width) if size and size.height and size.width else None

    def _standardize_kwargs(self, max_frequencies=None, **kwargs) -> dict:
        if isinstance(max_frequencies, list):  # as JSON has it
            max_frequencies = tuple(max_frequencies)
        kwargs = super()._standardize_kwargs(**kwargs) | {"max_frequencies": max_frequencies}
        kwargs |= {name: _alone(kwargs[name]) for name in _STATISTICS}
        size = kwargs["size"]
        if kwargs["crop_size"] is None and size:
            height, width = size.height or size.shortest_edge, size.width or size.shortest_edge
            kwargs["crop_size"] = SizeDict(height=height, width=width) if height and width else None
        return kwargs

    def _validate_preprocess_kwargs(
        self,
        num_channels: int,
        crop_first: bool,
        num_frequency_bands: int,
        max_frequencies: float | tuple[float, ...] | None,
        size: SizeDict | None = None,
        do_resize: bool | None = None,
        do_normalize: bool | None = None,
        image_std: float | Sequence[float] | None = None,
        **kwargs,
    ):
        if do_resize and size and not size.shortest_edge and not (size.height and size.width):
            raise ValueError(f"size={dict(size)}: expected height and width, or shortest_edge.")
        if do_normalize and image_std is not None and not (np.asarray(image_std) > 0).all():
            raise ValueError(f"image_std={image_std!r}: expected numbers above 0.")
        normalizing = {"do_normalize": do_normalize, "image_std": image_std}
        super()._validate_preprocess_kwargs(size=size, do_resize=do_resize, **normalizing, **kwargs)
        if crop_first and not (size and size.height and size.width):
            raise ValueError(f"size={size and dict(size)}: crop_first=True needs a height and a width.")
        for name, value in (("num_channels", num_channels), ("num_frequency_bands", num_frequency_bands)):
            if not is_count(value):
                raise ValueError(f"{name}={value!r}: expected a whole number of at least 1.")
        if max_frequencies is not None:
            values = max_frequencies if isinstance(max_frequencies, tuple) else (max_frequencies,) * 2
            if len(values) != 2 or not all(is_number(value) and value > 0 for value in values):
                raise ValueError(
                    f"max_frequencies={max_frequencies!r}: expected None, a number above 0, or one for rows and one "
                    "for columns."
                )

    def is_several(self, value: Any) -> bool:
        """Whether it is several pictures, and not one."""
        value = as_list(value)
        return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 3

    def fetch_images(self, image_url_or_urls):
        """As in transformers, but in the mode of the file, and of all that `open_image` takes."""
        return super().fetch_images(open_image(as_list(image_url_or_urls)))

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> list:
        images = list(_flatten(self.fetch_images(images)))
        if not images:
            raise ValueError(f"images={images!r}: expected at least one image.")
        return images

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        num_channels: int | None = None,
        input_data_format: str | ChannelDimension | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        **kwargs,
    ) -> np.ndarray:
        """One image of any kind to `(C, H, W)`, in colours that fit `num_channels` if `do_convert_rgb`."""
        to_colours = do_convert_rgb and num_channels in (1, 3)
        if is_pil_image(image):
            pixels = image_pixels(upright(image), to_colours)
            layout = ChannelDimension.LAST
        else:
            pixels = _tensor_pixels(image) if isinstance(image, torch.Tensor) else np.asarray(unmasked(image))
            layout = _layout(pixels, num_channels, input_data_format)
        if pixels.dtype == bool:
            pixels = pixels * np.uint8(255)
        _require_numbers(pixels)
        if pixels.ndim == 2:
            pixels = pixels[None]
        elif layout == ChannelDimension.LAST:
            pixels = np.moveaxis(pixels, -1, 0)
        if 0 in pixels.shape:
            raise ValueError(f"An image of shape {pixels.shape} (channels first) has no pixels.")
        if do_rescale and rescale_factor < 1:
            _warn_if_rescaled(pixels, rescale_factor)
        if to_colours and len(pixels) != num_channels and len(pixels) in (1, 3, 4):
            white = _white(pixels.dtype, rescale_factor if do_rescale else None)
            pixels = _convert_colours(pixels, num_channels, white)
        if do_convert_rgb and len(pixels) != num_channels:
            raise ValueError(
                f"An image of shape {pixels.shape} (channels first) has {len(pixels)} channels, but "
                f"num_channels={num_channels}."
            )
        return pixels

    def resize(
        self,
        image: np.ndarray,
        size: SizeDict,
        resample: PILImageResampling | int | None = None,
        reducing_gap: int | None = None,
        **kwargs,
    ) -> np.ndarray:
        """`(C, H, W) -> (C, H', W')`, in float32 unless the image is of 8 bits.

        Channel by channel, and not through 8 bits as in transformers: Pillow knows no images of 5 channels, takes a
        fourth one for transparency, and values such as reflectances do not fit in 8 bits. What a filter overshoots is
        cut off, as Pillow does in 8 bits, at 0 and 255 or at the image's own lowest and highest value.
        """
        if size.shortest_edge:
            height, width = get_resize_output_image_size(
                image,
                size.shortest_edge,
                default_to_square=False,
                max_size=size.longest_edge,
                input_data_format=ChannelDimension.FIRST,
            )
            height, width = max(1, height), max(1, width)  # of a line the short edge may be rounded to 0
        else:
            height, width = size.height, size.width
        image = image if image.dtype == np.uint8 else image.astype(np.float32)
        resized = [
            Image.fromarray(channel).resize((width, height), resample=resample, reducing_gap=reducing_gap)
            for channel in image
        ]
        resized = np.stack([np.asarray(channel) for channel in resized])
        return resized if image.dtype == np.uint8 else resized.clip(min(image.min(), 0), max(image.max(), 255))

    def normalize(self, image: np.ndarray, mean: float | Sequence[float], std: float | Sequence[float]) -> np.ndarray:
        """`(C, H, W)` less a mean and divided by a deviation, each a number, or one for each channel."""
        require_for_channels(len(image), image_mean=mean, image_std=std)
        return super().normalize(image, mean, std)

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_center_crop: bool,
        crop_first: bool,
        size: SizeDict,
        crop_size: SizeDict,
        do_fourier_encode: bool,
        num_frequency_bands: int,
        max_frequencies: float | tuple[float, ...] | None,
        concat_positions: bool,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        if do_center_crop and crop_first:
            images = [self._crop_part(image, size, crop_size) for image in images]
            do_center_crop = False
        pixel_values = super()._preprocess(
            images, do_center_crop=do_center_crop, size=size, crop_size=crop_size, return_tensors=None, **kwargs
        )["pixel_values"]
        data = {"pixel_values": [image.astype(np.float32) for image in pixel_values]}
        if do_fourier_encode:
            grids = [image.shape[-2:] for image in pixel_values]
            features = {
                grid: _position_features(grid, num_frequency_bands, max_frequencies, concat_positions)
                for grid in set(grids)
            }
            data["position_features"] = [features[grid] for grid in grids]
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _crop_part(self, image: np.ndarray, size: SizeDict, crop_size: SizeDict) -> np.ndarray:
        shorter = min(image.shape[-2:])
        height = max(int(size.height / crop_size.height * shorter), 1)
        width = max(int(size.width / crop_size.width * shorter), 1)
        return self.center_crop(image, SizeDict(height=height, width=width))


def _position_features(
    grid: tuple[int, int],
    num_frequency_bands: int,
    max_frequencies: float | Sequence[float] | None,
    concat_positions: bool,
) -> np.ndarray:
    """`(H, W) -> (H + W, F)`"""
    highest = resolve_max_frequencies(max_frequencies, grid)
    return torch.cat(fourier_axis_features(grid, num_frequency_bands, highest, concat_positions, device="cpu")).numpy()


def _flatten(images):
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _flatten(image)
    elif not (is_pil_image(images) or hasattr(images, "ndim")):
        raise ValueError(f"An image is a {type(images).__name__}: expected a picture, an array or a tensor.")
    elif is_pil_image(images) or images.ndim in (2, 3):
        yield images
    elif images.ndim == 4:
        yield from images
    else:
        raise ValueError(f"An array of shape {tuple(images.shape)} is not an image and no batch of images.")


def _tensor_pixels(image: torch.Tensor) -> np.ndarray:
    # float() since numpy has no bfloat16; pixel values end as float32 anyway.
    return (image.detach().float() if image.is_floating_point() else image).cpu().numpy()


def _layout(
    pixels: np.ndarray, num_channels: int, input_data_format: str | ChannelDimension | None
) -> ChannelDimension | None:
    """Where the channels of an array are, None for `(H, W)`."""
    if pixels.ndim == 2:
        return None
    if input_data_format is not None:
        return ChannelDimension(input_data_format)
    if pixels.shape == (1, 1, 1):
        return ChannelDimension.FIRST  # which is the same as the other
    axes = {ChannelDimension.FIRST: pixels.shape[0], ChannelDimension.LAST: pixels.shape[-1]}
    possible = [layout for layout, length in axes.items() if length in (1, 3, 4, num_channels)]
    if len(possible) == 2:
        possible = [layout for layout, length in axes.items() if length == num_channels]
    if len(possible) != 1:
        raise ValueError(
            f"Cannot tell which axis of an image of shape {tuple(pixels.shape)} holds the channels "
            f"(num_channels={num_channels}): pass input_data_format, 'channels_first' or 'channels_last'."
        )
    return possible[0]


def _require_numbers(pixels: np.ndarray):
    if pixels.dtype.kind not in "iuf":
        raise ValueError(f"An image has dtype {pixels.dtype}: expected whole or real numbers.")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        wrong = pixels[~np.isfinite(pixels)][0]
        raise ValueError(f"An image of shape {pixels.shape} holds {wrong}: expected finite numbers.")


def _warn_if_rescaled(pixels: np.ndarray, rescale_factor: float):
    """Say once that an image of floats in 0 to 1 is about to become black; one that is black is as it should be.

    Or that one of 16 bits, whatever its type, is about to become much whiter than white.
    """
    if np.issubdtype(pixels.dtype, np.floating) and 0 < pixels.max() <= 1 and pixels.min() >= 0:
        logger.warning_once(
            "An image has floats from 0 to 1, which will be rescaled as if they were 0 to 255, to nearly black. Pass "
            "do_rescale=False if they are rescaled already."
        )
    if pixels.dtype.itemsize > 1 and rescale_factor == 1 / _WHITE and pixels.max() > 2 * _WHITE:
        logger.warning_once(
            "An image has numbers far above 255, which will be rescaled as if they were 0 to 255. Pass "
            "rescale_factor=1 / 65535 for images of 16 bits."
        )


def require_for_channels(num_channels: int, **settings: float | Sequence[float]):
    """Raise a ValueError for a setting that is neither one number nor one for each channel."""
    for name, value in settings.items():
        if np.shape(value) not in ((), (1,), (num_channels,)):
            raise ValueError(f"{name}={value!r}: expected a number, or one for each of the {num_channels} channels.")


def _alone(value: Any) -> Any:
    """The number of a tuple or list of one; anything else as it is."""
    return value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value


def _white(dtype: np.dtype, rescale_factor: float | None) -> float:
    if dtype == np.uint8 or (rescale_factor is None and np.issubdtype(dtype, np.integer)):
        return 255
    return 1 if rescale_factor is None else 1 / rescale_factor


def _convert_colours(pixels: np.ndarray, num_channels: int, white: float) -> np.ndarray:
    """Grey, RGB or RGBA `(1, 3 or 4, H, W)` to grey or RGB `(num_channels, H, W)`, of the same type."""
    colours = pixels
    if len(colours) == 4:
        colours = colours.astype(np.float64)  # in 8 bits differences would wrap around
        colours = white + (colours[:3] - white) * (colours[3:] / white)
    if num_channels == 1:
        colours = np.tensordot(np.array(LUMA) / 2**16, colours, axes=1)[None]
    elif len(colours) == 1:
        colours = np.repeat(colours, num_channels, axis=0)
    if np.issubdtype(pixels.dtype, np.integer) and not np.issubdtype(colours.dtype, np.integer):
        colours = np.floor(colours + 0.5)
    return colours.astype(pixels.dtype)


def _follow_size(kwargs: dict) -> dict:
    """Arguments of which a `size` without a `crop_size` has `crop_size=None`, in place of what was there before."""
    return {"crop_size": None, **kwargs} if kwargs.get("size") is not None else kwargs


PerceiverStudyImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["PerceiverStudyImageProcessor", "PerceiverStudyImageProcessorKwargs"]
