"""Clouds of points with labels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.augment.padding import shown
from lab.augment.points import POINT_RANGES, PointAugmentation, PointTrainingInputs, describe_point_augmentation
from lab.data.points import POINTS, PointsDecoder
from lab.data.splits import Splits
from lab.errors import UserError
from lab.looking.points_view import PointsView
from lab.recipe import build, require_keys
from lab.tasks.ragged import RaggedTask
from lab.tasks.task import Arguments, Batch, Judged
from lab.tasks.usage import with_pipeline
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForPointCloudClassification,
    PerceiverStudyPointCloudProcessor,
)

# What a recipe may say about the processor; all else follows from the model, so that the two agree.
_PROCESSOR_KEYS = ("feature_names", "center", "scale", "num_points", "sampling", "on_nan")
_EXAMPLE_POINTS = 1024  # of a cloud whose size nothing says


class PointCloudClassification(RaggedTask):
    """`values` `(b, M, A + C)`, `lengths` `(b,)` and `labels`, as a batch of `RaggedDataset` has them."""

    name = "point-cloud-classification"
    samples = "clouds of points"
    model_class = PerceiverStudyForPointCloudClassification
    processor_class = PerceiverStudyPointCloudProcessor
    processor_keys = _PROCESSOR_KEYS
    columns = (POINTS,)
    view = PointsView
    augmentation_class = PointAugmentation
    augmentation_ranges = POINT_RANGES

    def __init__(self, recipe, config=None, processor=None, pretrained=None):
        super().__init__(recipe, config, processor, pretrained)
        self.in_pairs = self.augmentation.mixes
        self._longest = _EXAMPLE_POINTS
        self._changed = PointTrainingInputs(
            self.augmentation,
            self.processor,
            recipe.seed,
            lambda labels: self.target.blendable(labels, self.config.num_labels),
        )

    def inherit(self, recipe):
        recipe, found = super().inherit(recipe), self.pretrained.processor
        settings = {key: found[key] for key in _PROCESSOR_KEYS if key in found}
        return dataclasses.replace(recipe, feature_extractor=settings | recipe.feature_extractor)

    def build_config(self) -> PerceiverStudyConfig:
        config = build("model", PerceiverStudyConfig, {"input_type": "points"} | self.recipe.model)
        if config.input_type != "points":
            raise UserError(f"model.input_type={config.input_type}: expected points, or a task for that kind of input")
        return config

    def build_processor(self) -> PerceiverStudyPointCloudProcessor:
        """The processor that belongs to the model: as many coordinates and features."""
        section = self.processor_section
        require_keys(section, self.recipe.feature_extractor, _PROCESSOR_KEYS)
        shape = {"num_axes": self.config.num_axes, "num_features": self.config.num_channels}
        return build(section, self.processor_class, shape | self.recipe.feature_extractor)

    def load_splits(self) -> Splits:
        splits = super().load_splits()
        in_memory = (split for split in (splits.train, splits.validation) if hasattr(split, "lengths"))  # not streamed
        self._longest = max((int(split.lengths.max()) for split in in_memory), default=self._longest)
        return splits

    def decoder(self) -> PointsDecoder:
        return PointsDecoder(self.recipe.data, self.processor)

    def training_inputs(self, batch: Batch, step: int, first: int) -> tuple[Arguments, Any]:
        values, lengths, targets = self._changed(batch["values"], batch["lengths"], batch["labels"], step, first)
        return self._arguments(values, lengths), targets

    def inputs(self, batch: Batch) -> tuple[Arguments, Any]:
        return self._arguments(batch["values"], batch["lengths"]), batch["labels"]

    def mirrored(self, arguments: Arguments) -> Arguments:
        """Clouds mirrored along the first axis that training mirrors, or along the first of all."""
        signs = torch.ones(self.processor.num_axes)
        signs[(self.augmentation.mirror or [0])[0]] = -1
        return self.turned(arguments, signs.diag())

    def turned(self, arguments: Arguments, matrix: torch.Tensor) -> Arguments:
        """Clouds whose points are multiplied by a matrix `(A, A)`, and normals with them."""
        turned = {"points": arguments["points"] @ matrix.to(arguments["points"])}
        if self._changed.normals is not None and "point_features" in arguments:
            turned["point_features"] = self._changed.turned_normals(arguments["point_features"], matrix.numpy()[None])
        return arguments | turned

    def _arguments(self, values: torch.Tensor, lengths: torch.Tensor) -> Arguments:
        axes = self.processor.num_axes
        arguments = {"points": values[..., :axes]}
        if self.processor.num_features:
            arguments["point_features"] = values[..., axes:]
        return arguments | {"attention_mask": shown(lengths, values.shape[1])}

    def example(self, size: int, device: torch.device | str) -> tuple[Arguments, Any]:
        points = self.augmentation.num_points or self.processor.num_points or self._longest
        values = torch.zeros(size, points, self.processor.num_columns, device=device)
        lengths = torch.full((size,), points, device=device)
        return self._arguments(values, lengths), self.target.example(size, self.config.num_labels, device)

    def blank(self) -> np.ndarray:
        return np.zeros((1, self.processor.num_columns), np.float32)

    def as_read(self, sample: np.ndarray) -> np.ndarray:
        return sample

    def write_example(self, folder: Path, name: str, sample: np.ndarray) -> str:
        np.save(folder / f"{name}.npy", sample)
        return f"{name}.npy"

    def card(self, judged: Judged) -> dict[str, Any]:
        parts = super().card(judged)
        return parts | {
            "tags": ["point-cloud", *parts["tags"]],
            "purpose": self.target.purpose("clouds of points", self.config.num_labels),
            "elements": "points with their neighbors" if self.config.stem_type == "neighbors" else "single points",
            "augmentation": describe_point_augmentation(self.augmentation),
            "usage": [with_pipeline(self.name, "cloud.ply", self.target)],
            "packages": ["trimesh", "pypcd4"],
            "limits": "Clouds from other sensors, with parts hidden or in other poses, are untested.",
        }

    clean_check = """
import numpy as np
from transformers import AutoFeatureExtractor, pipeline
processor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
cloud = np.random.default_rng(0).normal(size=(50, processor.num_axes + processor.num_features))
assert pipeline("point-cloud-classification", model=folder, trust_remote_code=True)(cloud)
"""
