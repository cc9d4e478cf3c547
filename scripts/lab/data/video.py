"""Clips, as rows hold them: lists of pictures, or files."""

from typing import Any

import datasets
import numpy as np

from lab.data.columns import Column, content_of, media_column
from lab.data.images import UNUSABLE
from lab.data.ragged import RaggedDecoder
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyVideoProcessor

_FILES = media_column("video", datasets.Video)


def _is_frames(feature: Any) -> bool:
    return isinstance(feature, datasets.List | datasets.LargeList) and isinstance(feature.feature, datasets.Image)


def _stored_as(feature: Any) -> Any:
    if _is_frames(feature):
        return datasets.List(datasets.Image(decode=False))
    # Undecoded, an image is nothing but bytes and a path.
    return datasets.Video(decode=False) if isinstance(feature, datasets.Video) else datasets.Image(decode=False)


VIDEO = Column(
    "video",
    "clips: lists of images, bytes of files, or paths",
    lambda feature: _FILES.is_certain(feature) or _is_frames(feature),
    # An image may be an animation.
    lambda feature: _FILES.is_possible(feature) or _is_frames(feature) or isinstance(feature, datasets.Image),
    _stored_as,
)


class VideoDecoder(RaggedDecoder):
    """A clip in any form `-> (T, C, H, W)` uint8, as the processor takes frames, resizes and crops them."""

    role, sample, unusable = VIDEO.role, "clip", UNUSABLE

    def __init__(self, settings: Data, processor: PerceiverStudyVideoProcessor):
        super().__init__(settings)
        self.processor = processor

    def decode_one(self, encoded: Any) -> np.ndarray:
        clip = self.processor.process_clip(content_of(encoded))
        return np.clip(np.rint(clip), 0, 255).astype(np.uint8)
