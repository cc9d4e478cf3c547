"""Clouds of points: in columns of nested lists, and in files."""

from typing import Any

import datasets
import numpy as np

from lab.data.class_folders import POINT_ENDINGS as ENDINGS
from lab.data.class_folders import POINTS as ROLE
from lab.data.columns import Column, content_of, is_file
from lab.data.images import UNUSABLE
from lab.data.ragged import RaggedDecoder
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyPointCloudProcessor


def _is_nested(feature: Any) -> bool:
    """Whether values are `(m, columns)` numbers."""
    if isinstance(feature, datasets.Array2D):
        return True
    inner, lists = getattr(feature, "feature", None), datasets.List | datasets.LargeList
    return isinstance(feature, lists) and isinstance(inner, lists)


def _is_certain(feature: Any) -> bool:
    return _is_nested(feature) or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


POINTS = Column(
    ROLE,
    f"points as nested lists, bytes of {', '.join(ENDINGS)} files, or paths",
    _is_certain,
    lambda feature: _is_certain(feature) or is_file(feature),
    # Undecoded, an image is nothing but bytes and a path.
    lambda feature: datasets.Image(decode=False) if is_file(feature) else None,
)


class PointsDecoder(RaggedDecoder):
    """A cloud in any form `-> (M, A + C)` float32, as the processor samples, centres and scales it."""

    role, sample, unusable = POINTS.role, "cloud", UNUSABLE

    def __init__(self, settings: Data, processor: PerceiverStudyPointCloudProcessor):
        super().__init__(settings)
        self.processor = processor

    def decode_one(self, encoded: Any) -> np.ndarray:
        return self.processor.process_cloud(content_of(encoded), "it")
