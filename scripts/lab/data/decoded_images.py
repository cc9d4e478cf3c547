"""Decoded images: a uint8 array per split, from which whole batches are taken at once."""

import hashlib
import io
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import fsspec
import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from lab.data.images import UNUSABLE, seen_pixels
from lab.data.sources import Source
from lab.data.splits import Rows
from lab.errors import UserError
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyImageProcessor
from modeling_perceiver_study.image_reading import upright

_CHUNK = 64  # images that a thread decodes at a time

# What decoded pixels depend on, beside their shape: settings of the processor, and how pictures are read.
_READING = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_first", "do_convert_rgb")
_READING_VERSION = 2


class ImageDataset(torch.utils.data.Dataset):
    """Images `(n, C, H, W)` uint8, in memory or memory-mapped, with labels `(n,)` int64.

    Args:
        broken: `(n,)` bool, images to leave out.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, broken: np.ndarray | None = None):
        self.pixels = pixels
        self.rows = None if broken is None or not broken.any() else np.flatnonzero(~broken)
        self.labels = labels if self.rows is None else labels[self.rows]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch: `pixels` `(b, C, H, W)` uint8, `labels` `(b,)`.

        It comes assembled, so a data loader takes `default_convert` to collate.
        """
        rows = indices if self.rows is None else self.rows[indices]
        return {
            "pixels": torch.from_numpy(self.pixels[rows]),
            "labels": torch.from_numpy(self.labels[indices]),
        }


class Decoder:
    """Encoded images -> pixels as the processor resizes and crops them, uint8."""

    def __init__(self, settings: Data, config: PerceiverStudyConfig, processor: PerceiverStudyImageProcessor):
        self.settings = settings
        self.processor = processor
        self.shape = (config.num_channels, *config.grid)
        self.plain_mode = {1: "L", 3: "RGB"}.get(config.num_channels)
        # Small images spend most of their time in the processor, so ones that it returns as they are skip it.
        probe = np.random.default_rng(0).integers(0, 256, self.shape, dtype=np.uint8)
        self.processor_is_identity = np.array_equal(seen_pixels(processor, probe), probe)

    def decode(self, of: Rows) -> ImageDataset:
        """The images of some rows.

        Raises:
            UserError: one cannot be decoded, unless the recipe says to skip such; names it.
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
            path.parent.mkdir(parents=True, exist_ok=True)
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
        return Path(folder) / f"{hashlib.sha256(content.encode() + rows.tobytes()).hexdigest()[:32]}.npy"

    def _fill(self, pixels: np.ndarray, source: Source, rows: np.ndarray) -> np.ndarray:
        """Decode into `pixels`; returns which `(n,)` are broken, where the recipe says to skip such."""
        broken = np.zeros(len(rows), bool)

        def fill_from(start: int) -> int:
            chunk = rows[start : start + _CHUNK]
            for offset, (row, encoded) in enumerate(zip(chunk, source.read(chunk), strict=True)):
                try:
                    pixels[start + offset] = self.decode_one(encoded)
                except UNUSABLE as error:
                    path = encoded["path"] if isinstance(encoded, dict) else None
                    where = f"row {row} of {source.name}" + (f" ({path})" if path else "")
                    if self.settings.on_error == "raise":
                        raise UserError(
                            f"{where} is no usable image: {error}; data.on_error=skip leaves such out"
                        ) from None
                    broken[start + offset] = True
                    tqdm.write(f"left out: {where} is no usable image: {error}")
            return len(chunk)

        # Threads are enough: Pillow lets others run while it decodes and resizes.
        with ThreadPoolExecutor() as pool, _progress(source, len(rows)) as bar:
            for count in pool.map(fill_from, range(0, len(rows), _CHUNK)):
                bar.update(count)
        if broken.any():
            tqdm.write(f"left out {broken.sum()} of {len(rows)} images of {source.name}")
        return broken

    def decode_one(self, encoded) -> np.ndarray:
        """One image as `(C, H, W)` uint8; raises one of `UNUSABLE` if that fails."""
        if encoded is None or (isinstance(encoded, dict) and encoded["bytes"] is None and not encoded["path"]):
            raise ValueError("there is none")
        if isinstance(encoded, dict) and encoded["bytes"] is None:
            with fsspec.open(encoded["path"], "rb") as file:  # also inside an archive, or on the Hub
                encoded = {"bytes": file.read(), "path": None}
        image = Image.open(io.BytesIO(encoded["bytes"])) if isinstance(encoded, dict) else encoded
        image = upright(image)
        channels, height, width = self.shape
        plain = image.mode == self.plain_mode and not image.has_transparency_data
        if self.processor_is_identity and plain and image.size == (width, height):
            return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
        pixels = seen_pixels(self.processor, image)
        if pixels.shape != self.shape:
            raise ValueError(f"its pixels are {pixels.shape} after resize and crop, expected {self.shape}")
        return pixels

    def batch(self, images: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Decoded images as a batch: `pixels` `(b, C, H, W)` uint8."""
        return {"pixels": torch.from_numpy(np.stack(images))}


def _progress(source: Source, total: int) -> tqdm:
    return tqdm(total=total, desc=f"decoding {source.name}", unit="image", disable=None, leave=False)
