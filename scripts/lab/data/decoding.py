"""What all decoders of samples share: they turn what a row holds into arrays, and may leave out broken rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from lab.data.images import NO_FORMAT
from lab.data.sources import Source
from lab.data.splits import Rows
from lab.errors import UserError
from lab.recipe import Data

_CHUNK = 64  # samples that a thread decodes at a time


class BadInput(ValueError):
    """One of several inputs of a row cannot be decoded.

    Args:
        name: of the input.
        encoded: what the row holds for it.
        error: what its own decoder raised.
    """

    def __init__(self, name: str, encoded: Any, error: Exception):
        super().__init__(f"{name}: {reason_of(error)}")
        self.encoded = encoded


def reason_of(error: Exception) -> str:
    """Why a sample cannot be decoded."""
    # Pillow would call it an object at some place in memory.
    return NO_FORMAT if isinstance(error, UnidentifiedImageError) else str(error)


def file_at_fault(encoded: Any, error: Exception) -> str | None:
    """The path of what a row holds, if it has one; of several inputs that of the one which cannot be decoded."""
    encoded = error.encoded if isinstance(error, BadInput) else encoded
    return encoded.get("path") if isinstance(encoded, dict) else None


class SampleDecoder(ABC):
    """What a row holds `->` an array.

    Attributes:
        role: which input of a row it decodes.
        sample: what messages call a row that cannot be decoded.
        unusable: what such a row raises.
    """

    role: ClassVar[str]
    sample: ClassVar[str]
    unusable: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, settings: Data):
        self.settings = settings

    @abstractmethod
    def decode_one(self, encoded: Any) -> np.ndarray:
        """One sample; raises one of `unusable` if that fails."""

    def look_at(self, inputs: dict[str, Sequence[Any]]):  # noqa: B027, most have nothing to learn
        """Learn from rows, given by role, how a column holds its samples, where one row alone does not say so."""

    def decode_row(self, inputs: dict[str, Any], *place: int) -> np.ndarray:
        """The sample of a row, given by role.

        Args:
            place: what random changes depend on, for decoders that make such.
        """
        return self.decode_one(inputs[self.role])

    @abstractmethod
    def batch(self, samples: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Decoded samples as a batch, without labels."""

    @abstractmethod
    def joined(self, samples: Sequence[np.ndarray], labels: np.ndarray) -> Dataset:
        """Decoded samples as a dataset in memory."""

    def usable(self, of: Rows) -> tuple[list[np.ndarray], np.ndarray]:
        """The samples of some rows, and their labels.

        Raises:
            UserError: one cannot be decoded, unless the recipe says to skip such; names it. Or none is left.
        """
        samples: list[np.ndarray | None] = [None] * len(of.rows)
        broken = self.decode_all(of.source, of.rows, samples.__setitem__)
        return [sample for sample in samples if sample is not None], of.source.labels[of.rows[~broken]]

    def decode_all(self, source: Source, rows: np.ndarray, keep: Callable[[int, np.ndarray], None]) -> np.ndarray:
        """Decode rows of a source in threads; returns which `(n,)` are broken, where the recipe says to skip such.

        Args:
            keep: called with the place among `rows` and the sample, by several threads at once.

        Raises:
            UserError: one cannot be decoded, and the recipe does not say to skip such; names it. Or none is left.
        """
        broken = np.zeros(len(rows), bool)
        self.look_at(source.read(rows[:_CHUNK]))

        def decode_from(start: int) -> int:
            chunk = rows[start : start + _CHUNK]
            read = source.read(chunk)
            for offset in range(len(chunk)):
                inputs = {role: values[offset] for role, values in read.items()}
                try:
                    keep(start + offset, self.decode_row(inputs))
                except self.unusable as error:
                    self.leave_out(source, chunk[offset], inputs[self.role], error)
                    broken[start + offset] = True
            return len(chunk)

        # Threads are enough: libraries that decode let others run meanwhile.
        bar = tqdm(total=len(rows), desc=f"decoding {source.name}", unit=self.sample, disable=None, leave=False)
        with ThreadPoolExecutor() as pool, bar:
            for count in pool.map(decode_from, range(0, len(rows), _CHUNK)):
                bar.update(count)
        if broken.any():
            tqdm.write(f"left out {broken.sum()} of {len(rows)} {self.sample}s of {source.name}")
        if broken.all():
            raise UserError(f"{source.name} has no usable {self.sample}")
        return broken

    def leave_out(self, source: Source, sample: int, encoded: Any, error: Exception):
        """Say that a sample is not usable; a `UserError` unless the recipe says to skip such."""
        path = file_at_fault(encoded, error)
        where = f"row {source.rows[sample]} of {source.name}" + (f" ({path})" if path else "")
        reason = f"{where} is not a usable {self.sample}: {reason_of(error)}"
        if self.settings.on_error == "raise":
            raise UserError(f"{reason}; data.on_error=skip leaves such out") from None
        tqdm.write(f"left out: {reason}")
