"""Recordings, and series of numbers from sensors, as rows hold them."""

from collections.abc import Sequence
from typing import Any

import datasets
import fsspec
import numpy as np

from lab.data.columns import Column, file_of, media_column, require_content
from lab.data.images import UNUSABLE
from lab.data.ragged import RaggedDecoder
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyFeatureExtractor

_FILES = media_column("audio", datasets.Audio)
_NUMBERS = ("int", "uint", "float")


def _is_series(feature: Any) -> bool:
    """Whether a column holds lists of numbers, or lists of such lists, one for each channel or each moment."""
    for _ in range(2):
        if isinstance(feature, datasets.List | datasets.LargeList):
            feature = feature.feature
            if isinstance(feature, datasets.Value):
                return feature.dtype.startswith(_NUMBERS)
    return isinstance(feature, datasets.Array2D)


AUDIO = Column(
    "audio",
    "recordings, bytes of files, paths, or lists of numbers",
    lambda feature: _FILES.is_certain(feature) or _is_series(feature),
    lambda feature: _FILES.is_possible(feature) or _is_series(feature) or isinstance(feature, datasets.Video),
    lambda feature: None if _is_series(feature) else datasets.Audio(decode=False),
)


class SoundDecoder(RaggedDecoder):
    """A recording or a series `-> (L, C)` float32, at the rate and with the channels of a feature extractor."""

    role, sample = AUDIO.role, "recording"
    unusable = UNUSABLE  # what broken files raise, or archives that they are in

    def __init__(self, settings: Data, extractor: PerceiverStudyFeatureExtractor, seconds: float | None = None):
        """
        Args:
            seconds: what is kept of each at most, from its beginning.
        """
        super().__init__(settings)
        self.extractor, self.seconds = extractor, seconds
        self.moments_first = False

    def look_at(self, inputs: dict[str, Sequence[Any]]):
        channels, lists = self.extractor.feature_size, list | np.ndarray
        for series in inputs[self.role]:
            nested = isinstance(series, lists) and len(series) > 0 and isinstance(series[0], lists)
            if nested and (len(series) == channels) != (len(series[0]) == channels):
                self.moments_first = len(series) != channels
                return

    def decode_one(self, encoded: Any) -> np.ndarray:
        require_content(encoded)
        if not isinstance(encoded, dict):
            return self._read(self._channels_first(_numbers(encoded, self.extractor)))
        if (path := file_of(encoded)) is not None:
            with fsspec.open(path, "rb") as file:  # also inside an archive, or on the Hub
                return self._read({"bytes": file, "path": path})  # the path names it in errors
        return self._read(encoded)

    def _read(self, recording: Any) -> np.ndarray:
        return self.extractor.read(recording, seconds=self.seconds).T

    def _channels_first(self, series: np.ndarray) -> np.ndarray:
        """Lists `(C, L)` or `(L, C)` `-> (C, L)`; one with as many moments as channels is as others of its column."""
        channels = self.extractor.feature_size
        if series.ndim == 1:
            series = series[None]
        if series.shape[1] == channels and (len(series) != channels or self.moments_first):
            series = series.T
        if len(series) != channels:
            raise ValueError(
                f"it has shape {series.shape}: expected {channels} channels, as feature_extractor.feature_size says"
            )
        return series


def _numbers(series: Any, extractor: PerceiverStudyFeatureExtractor) -> np.ndarray:
    numbers = np.asarray(series)
    if numbers.dtype.kind in "iu" and extractor.do_rescale:
        raise ValueError(
            "it holds whole numbers, and a list does not say how large they can be: give floats from -1 to 1, or "
            "feature_extractor.do_rescale=false for numbers that keep their units"
        )
    return numbers.astype(np.float64)
