"""Images that stay encoded until a batch needs them, and that training crops at random while they have their size."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from lab.data.decoded_images import IMAGE, Decoder
from lab.data.images import UNUSABLE
from lab.data.splits import Rows
from lab.errors import UserError


class EncodedImages(Dataset):
    """Images that are decoded for each batch, with labels `(n,)`.

    They come as in evaluation, resized and cropped to the centre. Those of `in_epoch` come with random crops.
    """

    def __init__(self, of: Rows, decoder: Decoder):
        self.source, self.rows, self.decoder = of.source, of.rows, decoder
        self.labels = of.source.labels[of.rows]
        self.epoch: tuple[int, int] | None = None

    def in_epoch(self, seed: int, epoch: int) -> "EncodedImages":
        """The same images for an epoch of training. How one is cropped depends on seed, epoch and image alone."""
        cropped = copy.copy(self)
        cropped.epoch = (seed, epoch)
        return cropped

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch: `pixels` `(b, C, H, W)` uint8, `labels` `(b,)`.

        Where the recipe says to skip a broken image, the next usable one stands in for it.

        Raises:
            UserError: one cannot be decoded; names it.
        """
        encoded = self.source.read(self.rows[indices])[IMAGE.role]
        if get_worker_info() is None:
            with ThreadPoolExecutor() as pool:  # Pillow lets others run while it decodes and resizes
                samples = list(pool.map(self._decode, indices, encoded))
        else:
            samples = list(map(self._decode, indices, encoded))
        pixels, found = zip(*samples, strict=True)
        return {**self.decoder.batch(pixels), "labels": torch.from_numpy(self.labels[list(found)])}

    def _decode(self, index: int, encoded) -> tuple[np.ndarray, int]:
        for _ in range(len(self)):
            try:
                if self.epoch is None:
                    return self.decoder.decode_one(encoded), index
                return self.decoder.crop_one(encoded, *self.epoch, index), index
            except UNUSABLE as error:
                self.decoder.leave_out(self.source, self.rows[index], encoded, error)
            index = (index + 1) % len(self)
            (encoded,) = self.source.read(self.rows[[index]])[IMAGE.role]
        raise UserError(f"{self.source.name} has no usable image")
