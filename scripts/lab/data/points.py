"""Clouds of points: in columns of nested lists, and in files."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np

from lab.data.columns import Column
from lab.data.ragged import RaggedDecoder
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyPointCloudProcessor

_FILES = ("binary", "large_binary", "string", "large_string")


def _is_nested(feature: Any) -> bool:
    """Whether values are `(m, columns)` numbers."""
    if isinstance(feature, datasets.Array2D):
        return True
    inner = getattr(feature, "feature", None)
    return isinstance(feature, datasets.List | datasets.LargeList) and isinstance(inner, datasets.List)


def _is_possible(feature: Any) -> bool:
    if isinstance(feature, dict):
        return feature.keys() <= {"bytes", "path"} and "bytes" in feature
    return _is_nested(feature) or (isinstance(feature, datasets.Value) and feature.dtype in _FILES)


POINTS = Column(
    "points", "points as nested lists, bytes of .npy, .ply, .off or .pcd files, or paths", _is_nested, _is_possible
)


class PointsDecoder(RaggedDecoder):
    """A cloud in any form `-> (M, A + C)` float32, as the processor samples, centres and scales it."""

    role, sample, unusable = POINTS.role, "cloud", (OSError, ValueError)

    def __init__(self, settings: Data, processor: PerceiverStudyPointCloudProcessor):
        super().__init__(settings)
        self.processor = processor

    def decode_one(self, encoded: Any) -> np.ndarray:
        if isinstance(encoded, dict):
            encoded = encoded["path"] if encoded.get("bytes") is None else encoded["bytes"]
        if encoded is None:
            raise ValueError("there is none")
        if isinstance(encoded, str) and self.settings.path is not None:
            encoded = Path(self.settings.path, encoded)
        return self.processor.process_cloud(encoded, "it")
