"""Pictures with labels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lab.augment.crops import require_scale
from lab.augment.images import RANGES, Augmentation, Normalization, TrainingInputs, describe_augmentation
from lab.data.decoded_images import IMAGE, Decoder, ImageDataset
from lab.data.encoded_images import EncodedImages
from lab.data.splits import Rows
from lab.errors import UserError
from lab.looking.image_pictures import draw_attention
from lab.looking.image_view import ImageView, displayed
from lab.looking.samples import draw_samples
from lab.recipe import Recipe, build, require_keys
from lab.tasks.decoded import DecodedTask
from lab.tasks.task import Arguments, Batch, Judged, drawn
from lab.tasks.usage import elements_of, with_parts, with_pipeline
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForImageClassification,
    PerceiverStudyImageProcessor,
)

_EXAMPLES = 3

# What a recipe may say about the image processor; all else follows from the model, so that the two agree.
PICTURE_KEYS = (
    "do_convert_rgb",
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "crop_first",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)
SIZE_KEYS = ("size", "crop_size", "crop_first")  # which follow from the model


class ImageClassification(DecodedTask):
    """`pixels` `(b, C, H, W)` uint8 and `labels`, as a batch of `ImageDataset` has them."""

    name = "image-classification"
    samples = "images"
    model_class = PerceiverStudyForImageClassification
    processor_class = PerceiverStudyImageProcessor
    processor_section = "image_processor"
    processor_keys = PICTURE_KEYS
    columns = (IMAGE,)
    augmentation_class = Augmentation
    augmentation_ranges = RANGES

    def __init__(self, recipe, config=None, processor=None, pretrained=None):
        super().__init__(recipe, config, processor, pretrained)
        require_scale(self.augmentation.random_resized_crop)
        self.normalize = Normalization(self.processor)
        self.in_pairs = self.augmentation.mixes
        self._changed = TrainingInputs(
            self.augmentation,
            self.normalize,
            recipe.seed,
            recipe.optimization.batch_size,
            lambda labels: self.target.blendable(labels, self.config.num_labels),
        )

    def inherit(self, recipe: Recipe) -> Recipe:
        recipe, found = super().inherit(recipe), self.pretrained.processor
        settings = {key: found[key] for key in PICTURE_KEYS if key in found}
        settings = resized(settings, self.pretrained.config.grid, self._read_config(recipe).grid)
        return dataclasses.replace(recipe, image_processor=settings | recipe.image_processor)

    def build_config(self) -> PerceiverStudyConfig:
        return self._read_config(self.recipe)

    def _read_config(self, recipe: Recipe) -> PerceiverStudyConfig:
        config = build("model", PerceiverStudyConfig, recipe.model)
        if config.num_axes != 2:
            raise UserError(f"model.num_axes={config.num_axes}: images have 2 axes")
        return config

    def build_processor(self) -> PerceiverStudyImageProcessor:
        """The image processor that belongs to the model: same size, same Fourier features."""
        section, config = self.processor_section, self.config
        require_keys(section, self.recipe.image_processor, PICTURE_KEYS)
        height, width = config.grid
        grid = {"height": height, "width": width}
        settings = {
            # A square crop keeps the aspect ratio of images; for another shape images are stretched.
            "size": {"shortest_edge": height} if height == width else grid,
            "crop_size": grid,
            "num_channels": config.num_channels,
            # A convolutional stem leaves a grid that the processor does not know.
            "do_fourier_encode": config.position_encoding_type == "fourier" and config.stem_type != "conv",
            "num_frequency_bands": config.num_frequency_bands,
            "max_frequencies": config.axis_max_frequencies,
            "concat_positions": config.concat_positions,
        }
        return build(section, self.processor_class, settings | self.recipe.image_processor)

    def decoder(self) -> Decoder:
        return Decoder(self.recipe.data, self.config, self.processor, self.augmentation.random_resized_crop)

    def to_train_on(self, rows: Rows, decoder: Decoder) -> ImageDataset | EncodedImages:
        return decoder.decode(rows) if decoder.crop_scale is None else EncodedImages(rows, decoder)

    def training_inputs(self, batch: Batch, step: int, first: int) -> tuple[Arguments, Any]:
        pixels, targets = self._changed(batch["pixels"], batch["labels"], step, first)
        return {"pixel_values": pixels}, targets

    def inputs(self, batch: Batch) -> tuple[Arguments, Any]:
        return {"pixel_values": self.normalize(batch["pixels"])}, batch["labels"]

    def mirrored(self, arguments: Arguments) -> Arguments:
        return {"pixel_values": arguments["pixel_values"].flip(-1)}

    def blank(self) -> np.ndarray:
        return np.zeros((self.config.num_channels, *self.config.grid), np.uint8)

    def as_read(self, sample: np.ndarray) -> np.ndarray:
        return displayed(sample)

    def example(self, size: int, device: torch.device | str) -> tuple[Arguments, Any]:
        pixels = torch.zeros(size, self.config.num_channels, *self.config.grid, device=device)
        return {"pixel_values": pixels}, self.target.example(size, self.config.num_labels, device)

    def look_at(self, dataset: ImageDataset, row: int) -> ImageView:
        return ImageView(_pixels(dataset, [row])[0])

    def illustrate(
        self, folder: Path, model, dataset: ImageDataset, judged: Judged, show_samples: bool
    ) -> list[tuple[str, str]]:
        figures = super().illustrate(folder, model, dataset, judged, show_samples)
        if show_samples:
            chosen = drawn(len(dataset), 32)
            draw_samples(
                [ImageView(image) for image in _pixels(dataset, chosen)],
                self.target.describe(judged["logits"], judged["labels"], chosen, self.label_names),
                folder / "predictions.png",
                columns=8,
                width=1.5,
            )
            chosen = drawn(len(dataset), 4)
            draw_attention(model, self.normalize, _pixels(dataset, chosen), folder / "attention.png")
            figures = [
                (f"Test images drawn by chance, with the answer; {self.target.wrong} in orange", "predictions.png"),
                *figures,
                ("Attention of latents to pixels", "attention.png"),
            ]
        return figures

    def save_examples(self, folder: Path, dataset: ImageDataset) -> dict[str, str]:
        titles = {}
        for number, row in enumerate(drawn(len(dataset), _EXAMPLES)):
            Image.fromarray(displayed(_pixels(dataset, [row])[0])).save(folder / f"{number}.png")
            titles[f"{number}.png"] = self.target.title(dataset.labels[row], self.label_names)
        return titles

    def card(self, judged: Judged) -> dict[str, Any]:
        grid, parts = " × ".join(map(str, self.config.grid)), super().card(judged)
        return parts | {
            "tags": ["vision", *parts["tags"]],
            "purpose": self.target.purpose(f"images of {grid} pixels", self.config.num_labels),
            "elements": elements_of(self.config, "single pixels", "pixels"),
            "augmentation": describe_augmentation(self.augmentation),
            "usage": [
                with_pipeline(self.name, "image.png", self.target),
                with_parts(
                    "AutoImageProcessor",
                    "AutoModelForImageClassification",
                    'Image.open("image.png")',
                    self.target,
                    "from PIL import Image\n",
                ),
            ],
            "limits": "Other cameras, crops or image sizes are untested.",
        }

    clean_check = """
from PIL import Image
from transformers import AutoImageProcessor, pipeline
AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
assert pipeline("image-classification", model=folder, trust_remote_code=True)(Image.new("RGB", (40, 30)))
"""


def resized(settings: dict[str, Any], old: list[int], new: list[int]) -> dict[str, Any]:
    """An image processor's settings for images of `new` size `[H, W]` instead of `old`.

    Sizes change in proportion. For images of another shape they are left out, and so follow from the model.
    """
    if old[0] * new[1] != old[1] * new[0]:
        return {key: value for key, value in settings.items() if key not in SIZE_KEYS}
    sizes = {key: settings[key] for key in ("size", "crop_size") if settings.get(key)}
    return settings | {
        key: {edge: round(pixels * new[0] / old[0]) for edge, pixels in size.items()} for key, size in sizes.items()
    }


def _pixels(dataset: ImageDataset, rows) -> np.ndarray:
    """`(k, C, H, W)` uint8"""
    return dataset.__getitems__(rows)["pixels"].numpy()
