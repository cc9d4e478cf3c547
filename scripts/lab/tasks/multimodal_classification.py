"""Samples of several modalities with labels, made of the tasks of each."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from lab.augment.seeds import fold_seed
from lab.augment.several import MULTIMODAL_RANGES, MultimodalAugmentation, mix_all
from lab.data.columns import Column
from lab.data.several import Sample, SeveralDecoder, part_of
from lab.errors import UserError
from lab.looking.multimodal_view import MultimodalView
from lab.recipe import PROCESSOR_SECTIONS, Recipe, build, require_keys
from lab.tasks.audio_classification import AudioClassification
from lab.tasks.decoded import DecodedTask
from lab.tasks.image_classification import SIZE_KEYS, ImageClassification
from lab.tasks.point_cloud_classification import PointCloudClassification
from lab.tasks.ragged import RaggedTask
from lab.tasks.task import CARD_PARTS, Arguments, Batch, Judged
from lab.tasks.text_classification import TextClassification
from lab.tasks.usage import with_pipeline
from lab.tasks.video_classification import VideoClassification
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForMultimodalClassification,
    PerceiverStudyProcessor,
)
from modeling_perceiver_study.input_fields import INPUT_FIELDS
from modeling_perceiver_study.inputs import adapter_class


class MultimodalClassification(RaggedTask):
    """What the task of each modality has, its name before it: a batch of `SeveralDataset`.

    Attributes:
        kinds: the tasks that a modality may have: their inputs, their random changes and what decodes them. A subclass
            may add to them, where its model, processor and view know of their inputs.
        parts: the task of each modality.
    """

    kinds: ClassVar[tuple[type[DecodedTask], ...]] = (
        ImageClassification,
        AudioClassification,
        PointCloudClassification,
        VideoClassification,
        TextClassification,
    )

    name = "multimodal-classification"
    samples = "samples"
    model_class = PerceiverStudyForMultimodalClassification
    processor_class = PerceiverStudyProcessor
    processor_files = ("processor_config.json",)
    has_modalities = True
    view = MultimodalView
    augmentation_class = MultimodalAugmentation
    augmentation_ranges = MULTIMODAL_RANGES

    def __init__(self, recipe, config=None, processor=None, pretrained=None):
        self.parts: dict[str, DecodedTask] = {}
        super().__init__(recipe, config, processor, pretrained)
        if not self.parts:
            self._open_parts()
        unknown = sorted({*self.augmentation.modalities, *recipe.data.withhold} - self.parts.keys())
        if unknown:
            raise UserError(f"{unknown[0]}: expected a modality, one of {', '.join(self.parts)}")
        self.in_pairs = self.augmentation.mixup_alpha > 0 or any(part.in_pairs for part in self.parts.values())
        for name, part in self.parts.items():
            if part.in_pairs:
                raise UserError(
                    f"augmentation.modalities.{name} mixes samples, whose labels would differ from modality to "
                    "modality: use augmentation.mixup_alpha, which mixes all alike"
                )
            if getattr(part.augmentation, "random_resized_crop", None):
                raise UserError(
                    f"augmentation.modalities.{name}.random_resized_crop: it is for pictures alone, which stay encoded "
                    "until then; set it to null, and use crop_padding"
                )
            self._check_time(name, part)
            if self.augmentation.mixup_alpha and part.config.input_type != "grid":
                raise UserError(f"augmentation.mixup_alpha: {name} is no grid, and cannot be blended; set it to 0")

    def _check_time(self, name: str, part: DecodedTask):
        """Frames from all over a long file would stand beside sound from its beginning."""
        columns = self.recipe.data.columns
        heard = {
            columns.get(other) for other, sound in self.parts.items() if isinstance(sound, AudioClassification)
        } - {None}
        if not isinstance(part, VideoClassification) or columns.get(name) not in heard:
            return
        settings = part.processor
        if settings.long_clips != "cut" and not settings.do_sample_frames and settings.num_frames is not None:
            raise UserError(
                f"feature_extractor.modalities.{name}: frames and sound come from the same files, and of long ones "
                "frames would be spread over all, and sound cut: set long_clips to cut"
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        """One for each modality, by its name."""
        return tuple(dataclasses.replace(part.columns[0], role=name) for name, part in self.parts.items())

    def _open_parts(self):
        """The tasks of a model that is there already."""
        kinds = {kind.processor_class.__name__: kind for kind in self.kinds}
        for name, processor in self.processor.modalities.items():
            kind, config = kinds[type(processor).__name__], self.config.modality_config(name)
            config.num_labels, config.problem_type = self.config.num_labels, self.config.problem_type
            self.parts[name] = kind(self._part_recipe(name, kind, {}, {}), config, processor)

    def _part_recipe(self, name: str, kind: type[DecodedTask], fields: dict, settings: dict) -> Recipe:
        changes = self.augmentation.modalities.get(name) or {}
        data = dataclasses.replace(self.recipe.data, withhold=[])
        sections = {key: {} for key in PROCESSOR_SECTIONS} | {kind.processor_section: settings}
        seed = fold_seed(self.recipe.seed, zlib.crc32(name.encode()))  # or two of a kind would be changed alike
        return dataclasses.replace(
            self.recipe,
            task=kind.name,
            seed=seed,
            model=fields,
            data=data,
            augmentation=changes,
            pretrained=None,
            **sections,
        )

    def inherit(self, recipe: Recipe) -> Recipe:
        kinds = {kind.processor_class.__name__: kind for kind in self.kinds}
        settings, fields = {}, {}
        for name, found in self.pretrained.processor["modalities"].items():
            kind = kinds[found["processor"]]
            kept = {key: found[key] for key in kind.processor_keys if key in found and key not in SIZE_KEYS}
            settings[name] = {"task": kind.name, **kept}
            described = self.pretrained.architecture["modalities"][name]
            fields[name] = {key: value for key, value in described.items() if key not in kind.derived_keys}
        settings = _merged(settings, recipe.feature_extractor.get("modalities"))
        fields = _merged(fields, recipe.model.get("modalities"))
        recipe = super().inherit(recipe)
        model = recipe.model | {"modalities": fields}
        return dataclasses.replace(recipe, feature_extractor={"modalities": settings}, model=model)

    def build_config(self) -> PerceiverStudyConfig:
        """The model of the recipe, with the input of each modality as the config of its own task describes it."""
        require_keys("feature_extractor", self.recipe.feature_extractor, ("modalities",))
        kinds = {kind.name: kind for kind in self.kinds}
        described = self.recipe.feature_extractor.get("modalities", {})
        fields = self.recipe.model.get("modalities") or {}
        if not described or fields.keys() - described.keys():
            raise UserError(
                "feature_extractor.modalities: give each modality a name, and below it `task`, one of "
                f"{', '.join(kinds)}, and its settings; model.modalities has the rest by the same names"
            )
        shared = {key: self.recipe.model[key] for key in ("num_labels", "problem_type") if key in self.recipe.model}
        for name, settings in described.items():
            kind = kinds.get((settings or {}).get("task"))
            if kind is None:
                raise UserError(f"feature_extractor.modalities.{name}.task: expected one of {', '.join(kinds)}")
            settings = {key: value for key, value in settings.items() if key != "task"}
            try:
                self.parts[name] = kind(self._part_recipe(name, kind, shared | fields.get(name, {}), settings))
            except UserError as error:
                raise UserError(f"modality {name}: {error}") from None
        config_class = self.model_class.config_class
        inputs = {name: _described(part.config, config_class) for name, part in self.parts.items()}
        return build("model", config_class, self.recipe.model | {"modalities": inputs})

    def build_processor(self) -> PerceiverStudyProcessor:
        return self.processor_class(
            {name: part.processor for name, part in self.parts.items()}, self.processor_arguments
        )

    def decoder(self) -> SeveralDecoder:
        decoders = {name: part.decoder_beside_others() for name, part in self.parts.items()}
        blanks = {name: part.blank() for name, part in self.parts.items()}
        return SeveralDecoder(self.recipe.data, decoders, blanks, self.recipe.data.withhold)

    def training_inputs(self, batch: Batch, step: int, first: int) -> tuple[Arguments, Any]:
        made = {name: part.training_inputs(part_of(batch, name), step, first)[0] for name, part in self.parts.items()}
        arguments, targets = self._joined(made, batch), batch["labels"]
        if not self.augmentation.mixup_alpha:
            return arguments, targets
        targets = self.target.blendable(targets, self.config.num_labels)
        inputs = {name: (arguments[self._argument(name)], arguments[f"{name}_attention_mask"]) for name in self.parts}
        mixed, targets = mix_all(inputs, targets, self.augmentation.mixup_alpha, self.recipe.seed, step, first)
        for name, (values, mask) in mixed.items():
            arguments |= {self._argument(name): values, f"{name}_attention_mask": mask}
        return arguments, targets

    def inputs(self, batch: Batch) -> tuple[Arguments, Any]:
        made = {name: part.alone(part_of(batch, name)) for name, part in self.parts.items()}
        return self._joined(made, batch), batch["labels"]

    def _argument(self, name: str) -> str:
        """What the model calls the input of a modality."""
        return self.processor_arguments[name]

    @property
    def processor_arguments(self) -> dict[str, str]:
        own = {name: self.config.modality_config(name).input_name for name in self.parts}
        return {name: own[name] or part.model_class.main_input_name for name, part in self.parts.items()}

    def _joined(self, made: dict[str, Arguments], batch: Batch) -> Arguments:
        """Arguments of the modalities as those of the model, with masks that hide what is missing."""
        joined = {}
        for name, arguments in made.items():
            (_, values), *others = arguments.items()
            there = batch[f"{name}.there"]
            mask = arguments.get("attention_mask")
            if mask is None:  # of images: one entry for each line of pixels
                mask = values.new_ones(values.shape[0], values.shape[-2], dtype=torch.long)
            if values.is_floating_point() and not there.all():  # else a stand-in would be mixed with other samples
                values = values * there.to(values)[(slice(None), *[None] * (values.ndim - 1))]
            joined[self._argument(name)] = values
            joined |= {f"{name}_{key}": value for key, value in others if key != "attention_mask"}
            joined[f"{name}_attention_mask"] = mask.long() * there.to(mask.device).long()[:, None]
        return joined

    def mirrored(self, arguments: Arguments) -> Arguments | None:
        """All modalities that have a mirror image."""
        changed = {}
        for name, part in self.parts.items():
            main, *others = part.processor.model_input_names
            called = {main: self._argument(name), **{own: f"{name}_{own}" for own in others}}
            seen = part.mirrored({own: arguments[key] for own, key in called.items() if key in arguments})
            changed |= {called[own]: value for own, value in (seen or {}).items()}
        return arguments | changed if changed else None

    def example(self, size: int, device: torch.device | str) -> tuple[Arguments, Any]:
        made = {name: part.example(size, device)[0] for name, part in self.parts.items()}
        there = {f"{name}.there": torch.ones(size, dtype=torch.bool) for name in self.parts}
        return self._joined(made, there), self.target.example(size, self.config.num_labels, device)

    def as_read(self, sample: Sample) -> Sample:
        return {name: self.parts[name].as_read(value) for name, value in sample.items()}

    def write_example(self, folder: Path, name: str, sample: Sample) -> str:
        np.savez_compressed(folder / f"{name}.npz", **self.as_read(sample))
        return f"{name}.npz"

    def card(self, judged: Judged) -> dict[str, Any]:
        parts = super().card(judged)
        for part in self.parts.values():  # which answer nothing themselves
            part.target, part.config.id2label = self.target, self.config.id2label
        cards = {name: CARD_PARTS | part.card(judged) for name, part in self.parts.items()}
        names = ", ".join(self.parts)
        changes = [f"; {name}: {card['augmentation'][2:]}" for name, card in cards.items() if card["augmentation"]]
        mixup = f"; mixup of all ({self.augmentation.mixup_alpha:g})" if self.augmentation.mixup_alpha else ""
        return parts | {
            "tags": ["multimodal", *parts["tags"]],
            "purpose": self.target.purpose(f"samples of {names}, or of some of them,", self.config.num_labels),
            "elements": " and ".join(f"{card['elements']} ({name})" for name, card in cards.items()),
            "augmentation": "".join(changes) + mixup,
            "usage": [
                with_pipeline(self.name, "sample", self.target).replace(
                    '"sample"', f"dict({', '.join(f'{name}=...' for name in self.parts)})"
                )
            ],
            "packages": sorted({name for card in cards.values() for name in card["packages"]}),
            "limits": " ".join(dict.fromkeys(filter(None, (card["limits"] for card in cards.values())))),
        }

    clean_check = """
from transformers import AutoProcessor, pipeline
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert pipeline("multimodal-classification", model=folder, trust_remote_code=True).processor.modalities.keys()
"""


def _described(config: PerceiverStudyConfig, whole: type[PerceiverStudyConfig]) -> dict[str, Any]:
    """The fields of a config that describe its input, where they are not the defaults of the whole model's."""
    own = adapter_class(config.input_type).config_fields
    return {
        name: getattr(config, name)
        for name in dict.fromkeys((*INPUT_FIELDS, *own))
        if getattr(config, name) != getattr(whole, name)
    }


def _merged(found: dict[str, dict], given: dict[str, dict | None] | None) -> dict[str, dict]:
    """What is said of each modality; what is given wins, key by key."""
    given = given or {}
    return {name: {**found.get(name, {}), **(given.get(name) or {})} for name in {**found, **given}}
