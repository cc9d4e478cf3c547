"""Clips with labels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lab.augment.describing import require_span
from lab.augment.video import VIDEO_RANGES, TrainingVideo, VideoAugmentation, describe_video_augmentation
from lab.data.video import VIDEO, VideoDecoder
from lab.errors import UserError
from lab.looking.image_view import displayed
from lab.looking.video_view import VideoView
from lab.recipe import Recipe, build, require_keys
from lab.tasks.image_classification import PICTURE_KEYS, SIZE_KEYS
from lab.tasks.ragged import RaggedTask
from lab.tasks.task import Arguments, Batch, Judged
from lab.tasks.usage import elements_of, with_parts, with_pipeline
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForVideoClassification,
    PerceiverStudyVideoProcessor,
)

_PROCESSOR_KEYS = ("do_sample_frames", "long_clips", "fps", *PICTURE_KEYS, "normalize")
_SHOWN_FOR = 40  # milliseconds of a frame in an example


class VideoClassification(RaggedTask):
    """`values` `(b, T, C, H, W)` uint8, `lengths` and `labels`, as a batch of `RaggedDataset` has them."""

    name = "video-classification"
    samples = "clips"
    model_class = PerceiverStudyForVideoClassification
    processor_class = PerceiverStudyVideoProcessor
    processor_keys = _PROCESSOR_KEYS
    columns = (VIDEO,)
    view = VideoView
    augmentation_class = VideoAugmentation
    augmentation_ranges = VIDEO_RANGES

    def __init__(self, recipe, config=None, processor=None, pretrained=None):
        super().__init__(recipe, config, processor, pretrained)
        for name in ("zoom", "speed"):
            require_span(f"augmentation.{name}", getattr(self.augmentation, name))
        self.in_pairs = self.augmentation.mixup_alpha > 0
        self._changed = TrainingVideo(
            self.augmentation,
            self.processor,
            recipe.seed,
            lambda labels: self.target.blendable(labels, self.config.num_labels),
        )

    def inherit(self, recipe: Recipe) -> Recipe:
        recipe, found = super().inherit(recipe), self.pretrained.processor
        settings = {key: found[key] for key in _PROCESSOR_KEYS if key in found and key not in SIZE_KEYS}
        return dataclasses.replace(recipe, feature_extractor=settings | recipe.feature_extractor)

    def build_config(self) -> PerceiverStudyConfig:
        shape = {"num_axes": 3, "channel_axis": 2, "absolute_positions": True}
        config = build("model", PerceiverStudyConfig, shape | self.recipe.model)
        for key, wanted in {"input_type": "grid", "num_axes": 3, "channel_axis": 2}.items():
            if getattr(config, key) != wanted:
                raise UserError(f"model.{key}={getattr(config, key)}: expected {wanted} for clips")
        return config

    def build_processor(self) -> PerceiverStudyVideoProcessor:
        """The processor that belongs to the model: as many frames, of the same size."""
        section = self.processor_section
        require_keys(section, self.recipe.feature_extractor, _PROCESSOR_KEYS)
        frames, height, width = self.config.grid
        size = {"height": height, "width": width}
        settings = {
            # A square crop keeps the aspect ratio of frames; for another shape they are stretched.
            "size": {"shortest_edge": height} if height == width else size,
            "crop_size": size,
            "num_channels": self.config.num_channels,
            "num_frames": frames,
        }
        return build(section, self.processor_class, settings | self.recipe.feature_extractor)

    def decoder(self) -> VideoDecoder:
        return VideoDecoder(self.recipe.data, self.processor)

    def training_inputs(self, batch: Batch, step: int, first: int) -> tuple[Arguments, Any]:
        return self._changed(batch["values"], batch["lengths"], batch["labels"], step, first)

    def inputs(self, batch: Batch) -> tuple[Arguments, torch.Tensor]:
        return self._arguments(batch["values"], batch["lengths"]), batch["labels"]

    def _arguments(self, values: torch.Tensor, lengths: torch.Tensor) -> Arguments:
        values, mask = self.processor.features(values, lengths)
        return {"pixel_values": values, "attention_mask": mask}

    def mirrored(self, arguments: Arguments) -> Arguments:
        return arguments | {"pixel_values": arguments["pixel_values"].flip(-1)}

    def blank(self) -> np.ndarray:
        return np.zeros((1, self.config.num_channels, *self.config.grid[1:]), np.uint8)

    def example(self, size: int, device: torch.device | str) -> tuple[Arguments, Any]:
        frames, height, width = self.config.grid
        values = torch.zeros(size, frames, self.config.num_channels, height, width, dtype=torch.uint8, device=device)
        lengths = torch.full((size,), frames, device=device)
        return self._arguments(values, lengths), self.target.example(size, self.config.num_labels, device)

    def as_read(self, sample: np.ndarray) -> np.ndarray:
        return sample

    def write_example(self, folder: Path, name: str, sample: np.ndarray) -> str:
        first, *others = (Image.fromarray(displayed(frame)) for frame in sample)
        first.save(folder / f"{name}.gif", save_all=True, append_images=others, duration=_SHOWN_FOR, loop=0)
        return f"{name}.gif"

    def card(self, judged: Judged) -> dict[str, Any]:
        parts, (frames, height, width) = super().card(judged), self.config.grid
        clips = f"clips of up to {frames} frames of {height} x {width}"
        return parts | {
            "tags": ["video", *parts["tags"]],
            "purpose": self.target.purpose(clips, self.config.num_labels),
            "elements": elements_of(self.config, "single pixels of frames", "frames"),
            "augmentation": describe_video_augmentation(self.augmentation),
            "usage": [
                with_pipeline(self.name, "clip.mp4", self.target),
                with_parts("AutoImageProcessor", "AutoModelForVideoClassification", '"clip.mp4"', self.target),
            ],
            "packages": ["av"],
            "limits": "Other cameras, cuts, frame rates and people are untested.",
        }

    clean_check = """
import numpy as np
from transformers import AutoImageProcessor, pipeline
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
clip = np.random.default_rng(0).integers(0, 256, (7, 40, 50, 3), dtype=np.uint8)
assert processor(clip, return_tensors="pt")["pixel_values"].ndim == 5
assert pipeline("video-classification", model=folder, trust_remote_code=True)(clip)
"""
