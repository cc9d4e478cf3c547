"""Decoded images: a uint8 array per split, from which whole batches are taken at once."""

import hashlib
import io
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from lab.augment.crops import random_box
from lab.data.columns import content_of, media_column
from lab.data.decoding import SampleDecoder
from lab.data.images import UNUSABLE, seen_pixels
from lab.data.sources import Source
from lab.data.splits import Rows
from lab.places import folder_to_write
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyImageProcessor
from modeling_perceiver_study.image_reading import upright

# What decoded pixels depend on, beside their shape: settings of the processor, and how pictures are read.
_READING = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_first", "do_convert_rgb")
_READING_VERSION = 2


class ImageDataset(torch.utils.data.Dataset):
    """Images `(n, C, H, W)` uint8, in memory or memory-mapped, with labels `(n,)` int64 or `(n, L)` float32.

    Args:
        broken: `(n,)` bool, images to leave out.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, broken: np.ndarray | None = None):
        self.pixels = pixels
        self.rows = None if broken is None or not broken.any() else np.flatnonzero(~broken)
        self.labels = labels if self.rows is None else labels[self.rows]

    @property
    def in_memory(self) -> bool:
        """Not memory-mapped, so that no processes need to read ahead."""
        return not isinstance(self.pixels, np.memmap)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch: `pixels` `(b, C, H, W)` uint8, `labels` `(b,)` or `(b, L)`.

        It comes assembled, so a data loader takes `default_convert` to collate.
        """
        rows = indices if self.rows is None else self.rows[indices]
        return {
            "pixels": torch.from_numpy(self.pixels[rows]),
            "labels": torch.from_numpy(self.labels[indices]),
        }


IMAGE = media_column("image", datasets.Image)


class Decoder(SampleDecoder):
    """Encoded images -> pixels as the processor resizes and crops them, uint8."""

    role, sample, unusable = IMAGE.role, "image", UNUSABLE

    def __init__(
        self,
        settings: Data,
        config: PerceiverStudyConfig,
        processor: PerceiverStudyImageProcessor,
        crop_scale: tuple[float, float] | None = None,
    ):
        """
        Args:
            crop_scale: shares of an image's area that random crops have, for `crop_one`; None is no such crops.
        """
        super().__init__(settings)
        self.crop_scale = crop_scale
        self.processor = processor
        self.shape = (config.num_channels, *config.grid)
        self.plain_mode = {1: "L", 3: "RGB"}.get(config.num_channels)
        # Small images spend most of their time in the processor, so ones that it returns as they are skip it.
        probe = np.random.default_rng(0).integers(0, 256, self.shape, dtype=np.uint8)
        self.processor_is_identity = np.array_equal(seen_pixels(processor, probe), probe)

    def decode(self, of: Rows) -> ImageDataset:
        """The images of some rows.

        Raises:
            UserError: one cannot be decoded, unless the recipe says to skip such; names it. Or none is left.
        """
        source, rows = of.source, of.rows
        shape = (len(rows), *self.shape)
        labels = source.labels[rows]
        if np.prod(shape, dtype=np.int64) <= self.settings.max_memory_gb * 1e9:
            pixels = np.empty(shape, np.uint8)
            return ImageDataset(pixels, labels, self._fill(pixels, source, rows))
        path = self._cache_path(source, rows)
        broken_path = path.with_suffix(".broken.npy")
        if not path.exists():
            folder_to_write(path.parent, "data.cache_dir")
            unfinished = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # machines may share the folder
            try:
                pixels = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
                broken = self._fill(pixels, source, rows)
                if broken.any():
                    np.save(broken_path, broken)
                pixels.flush()
                del pixels  # Windows renames no file that is mapped
                os.replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
        broken = np.load(broken_path) if broken_path.exists() else None
        return ImageDataset(np.load(path, mmap_mode="r"), labels, broken)

    def _cache_path(self, source: Source, rows: np.ndarray) -> Path:
        folder = self.settings.cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "decoded"
        settings = [getattr(self.processor, name) for name in _READING]
        content = f"{_READING_VERSION} {source.fingerprint} {self.shape} {settings} {self.settings.on_error}"
        checksum = hashlib.sha256(content.encode() + source.rows[rows].tobytes())
        for _, path in source.take(rows).files():  # the fingerprint is that of the table, which may only name them
            checksum.update(_state(path).encode())
        return Path(folder) / f"{checksum.hexdigest()[:32]}.npy"

    def _fill(self, pixels: np.ndarray, source: Source, rows: np.ndarray) -> np.ndarray:
        """Decode into `pixels`; returns which `(n,)` are broken, where the recipe says to skip such."""
        return self.decode_all(source, rows, pixels.__setitem__)

    def decode_row(self, inputs: dict[str, Any], *place: int) -> np.ndarray:
        """The image of a row, given by role; cropped at random if there is a `place` and the recipe says so."""
        crops = place and self.crop_scale is not None
        return self.crop_one(inputs[IMAGE.role], *place) if crops else self.decode_one(inputs[IMAGE.role])

    def upright_image(self, encoded) -> Image.Image:
        """One image as it is, but upright; raises one of `UNUSABLE` if that fails."""
        content = content_of(encoded)
        return upright(Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content)

    def decode_one(self, encoded) -> np.ndarray:
        """One image as `(C, H, W)` uint8; raises one of `UNUSABLE` if that fails."""
        image = self.upright_image(encoded)
        channels, height, width = self.shape
        if self.processor_is_identity and self._is_plain(image) and image.size == (width, height):
            return _channels_first(image, channels)
        pixels = seen_pixels(self.processor, image)
        if pixels.shape != self.shape:
            raise ValueError(f"its pixels are {pixels.shape} after resize and crop, expected {self.shape}")
        return pixels

    def crop_one(self, encoded, *place: int) -> np.ndarray:
        """A random crop of one image, resized to `(C, H, W)` uint8; raises one of `UNUSABLE` if that fails.

        Args:
            place: what the crop depends on, such as seed, epoch and row.
        """
        image = self.upright_image(encoded)
        image = image.crop(random_box(image.size, self.crop_scale, *place))
        channels, height, width = self.shape
        if self._is_plain(image):  # the same, several times faster
            return _channels_first(image.resize((width, height), self.processor.resample), channels)
        size = {"height": height, "width": width}
        return seen_pixels(self.processor, image, do_resize=True, size=size, do_center_crop=False)

    def _is_plain(self, image: Image.Image) -> bool:
        return image.mode == self.plain_mode and not image.has_transparency_data

    def joined(self, images: Sequence[np.ndarray], labels: np.ndarray) -> ImageDataset:
        return ImageDataset(np.stack(images), labels)

    def batch(self, images: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Decoded images as a batch: `pixels` `(b, C, H, W)` uint8."""
        return {"pixels": torch.from_numpy(np.stack(images))}


def _state(path: str) -> str:
    """What is another once a file was written anew."""
    try:
        found = os.stat(path)
    except OSError:  # inside of an archive, on the Hub, or missing, as whoever decodes it says
        return path
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def _channels_first(image: Image.Image, channels: int) -> np.ndarray:
    return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)
