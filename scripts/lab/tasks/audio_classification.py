"""Recordings with labels, and any other series of numbers, of one channel or several."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from lab.augment.describing import require_span
from lab.augment.sound import RANGES, SoundAugmentation, TrainingSound, describe_augmentation
from lab.data.sound import AUDIO, SoundDecoder
from lab.errors import UserError
from lab.looking.sound_view import SoundView
from lab.recipe import Recipe, build, require_keys
from lab.tasks.ragged import RaggedTask
from lab.tasks.task import Arguments, Batch, Judged
from lab.tasks.usage import elements_of, with_parts, with_pipeline
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyFeatureExtractor,
    PerceiverStudyForAudioClassification,
)

_EXTRACTOR_KEYS = (
    "feature_size",
    "sampling_rate",
    "feature_type",
    "num_mel_bins",
    "frame_length",
    "hop_length",
    "min_frequency",
    "max_frequency",
    "dynamic_range",
    "do_rescale",
    "normalize",
    "mean",
    "std",
    "max_length",
    "stretch_to",
)


@dataclasses.dataclass
class Windows:
    """Targets of recordings of which long ones became several rows.

    Attributes:
        labels: of the `b` recordings.
        owners: `(rows,)`, which recording each row is of.
        shares: `(rows,)`, what each counts in the answer of its recording.
    """

    labels: torch.Tensor
    owners: torch.Tensor
    shares: torch.Tensor


class AudioClassification(RaggedTask):
    """`values` `(b, L, C)` float32, `lengths` and `labels`, as a batch of `RaggedDataset` has them."""

    name = "audio-classification"
    samples = "recordings"
    model_class = PerceiverStudyForAudioClassification
    processor_class = PerceiverStudyFeatureExtractor
    processor_keys = _EXTRACTOR_KEYS
    derived_keys = ("input_type", "num_axes", "image_size", "num_channels")
    columns = (AUDIO,)
    view = SoundView
    augmentation_class = SoundAugmentation
    augmentation_ranges = RANGES

    def __init__(self, recipe, config=None, processor=None, pretrained=None):
        super().__init__(recipe, config, processor, pretrained)
        self.samples = "recordings" if self.processor.do_rescale else "series"
        self._check_augmentation()
        self.in_pairs = self.augmentation.mixup_alpha > 0
        self._changed = TrainingSound(
            self.augmentation,
            self.processor,
            recipe.seed,
            recipe.optimization.batch_size,
            lambda labels: self.target.blendable(labels, self.config.num_labels),
        )

    def inherit(self, recipe: Recipe) -> Recipe:
        settings = {key: self.pretrained.processor[key] for key in _EXTRACTOR_KEYS if key in self.pretrained.processor}
        recipe = dataclasses.replace(recipe, feature_extractor=settings | recipe.feature_extractor)
        recipe = super().inherit(recipe)
        kept = {key: value for key, value in recipe.model.items() if key not in self.derived_keys}
        return dataclasses.replace(recipe, model=kept)

    def build_config(self) -> PerceiverStudyConfig:
        extractor = self.build_processor()
        if extractor.max_length is None:
            raise UserError("feature_extractor.max_length: say how many samples the model is to look at, at most")
        # Another name of the input may be wanted beside other recordings; positions count from the start all the same.
        shape = {"input_type": "grid", "input_name": "input_values", "absolute_positions": True}
        shape |= {"num_channels": extractor.feature_size}
        if extractor.feature_type == "log-mel":
            frames = extractor.max_length // extractor.hop_length + 1
            shape |= {"num_axes": 2, "image_size": [frames, extractor.num_mel_bins]}
        else:
            shape |= {"num_axes": 1, "image_size": extractor.max_length}
        for key in self.derived_keys:
            if self.recipe.model.get(key, shape[key]) != shape[key]:
                raise UserError(f"model.{key}={self.recipe.model[key]}: feature_extractor makes it {shape[key]}")
        return build("model", PerceiverStudyConfig, shape | self.recipe.model)

    def build_processor(self) -> PerceiverStudyFeatureExtractor:
        section = self.processor_section
        require_keys(section, self.recipe.feature_extractor, _EXTRACTOR_KEYS)
        return build(section, self.processor_class, self.recipe.feature_extractor)

    def _check_augmentation(self):
        settings = self.augmentation
        for name in ("speed", "noise", "vocal_tract"):
            require_span(f"augmentation.{name}", getattr(settings, name), positive=name != "noise")
        if self.processor.feature_type == "log-mel":
            return
        if settings.vocal_tract or settings.equalizer:
            raise UserError("augmentation.vocal_tract and equalizer are for feature_extractor.feature_type=log-mel")
        if settings.band_masks and self.processor.feature_size == 1:
            raise UserError(
                "augmentation.band_masks is for feature_extractor.feature_type=log-mel, or a feature_size above 1"
            )

    def decoder(self) -> SoundDecoder:
        return SoundDecoder(self.recipe.data, self.processor)

    def decoder_beside_others(self) -> SoundDecoder:
        """Of what is longer than `max_length` the beginning, not a window by chance: what goes with it begins there."""
        return SoundDecoder(
            self.recipe.data, self.processor, self.processor.max_length / (self.processor.sampling_rate or 1)
        )

    def training_inputs(self, batch: Batch, step: int, first: int) -> tuple[Arguments, Any]:
        return self._changed(batch["values"], batch["lengths"], batch["labels"], step, first)

    def inputs(self, batch: Batch) -> tuple[Arguments, torch.Tensor | Windows]:
        """As the pipeline: a recording longer than `max_length` is cut into windows, whose answers make one."""
        values, lengths, most = batch["values"].transpose(1, 2), batch["lengths"], self.processor.max_length
        if values.shape[-1] <= most:
            return self._arguments(values, lengths), batch["labels"]
        recordings = [value[:, :length] for value, length in zip(values, lengths.tolist(), strict=True)]
        parts, shares = zip(*map(self.processor.windows, recordings), strict=True)
        owners = [owner for owner, windows in enumerate(parts) for _ in windows]
        windows = [window for windows in parts for window in windows]
        padded = values.new_zeros(len(windows), values.shape[1], most)
        for row, window in zip(padded, windows, strict=True):
            row[:, : window.shape[-1]] = window
        sizes = torch.tensor([window.shape[-1] for window in windows], device=values.device)
        targets = Windows(batch["labels"], torch.tensor(owners, device=values.device), torch.cat(shares).to(values))
        return self._arguments(padded, sizes), targets

    def alone(self, batch: Batch) -> Arguments:
        """Without windows: what is longer than `max_length` is cut, as the feature extractor does."""
        most = self.processor.max_length
        return self._arguments(batch["values"][:, :most].transpose(1, 2), batch["lengths"].clamp(max=most))

    def blank(self) -> np.ndarray:
        return np.zeros((1, self.processor.feature_size), np.float32)

    def _arguments(self, samples: torch.Tensor, lengths: torch.Tensor) -> Arguments:
        values, mask = self.processor.features(samples, lengths)
        return {"input_values": values, "attention_mask": mask}

    def judge(self, outputs: list[Any], targets: torch.Tensor | Windows) -> dict[str, torch.Tensor]:
        if isinstance(targets, Windows):
            outputs = [_of_recordings(output, targets) for output in outputs]
            targets = targets.labels
        return super().judge(outputs, targets)

    def loss(self, outputs: Any, targets: torch.Tensor | Windows) -> torch.Tensor:
        if isinstance(targets, Windows):
            outputs, targets = _of_recordings(outputs, targets), targets.labels
        return super().loss(outputs, targets)

    def example(self, size: int, device: torch.device | str) -> tuple[Arguments, Any]:
        longest = self.processor.stretch_to or self.processor.max_length
        samples = torch.zeros(size, self.processor.feature_size, longest, device=device)
        lengths = torch.full((size,), longest, device=device)
        return self._arguments(samples, lengths), self.target.example(size, self.config.num_labels, device)

    def as_read(self, sample: np.ndarray) -> np.ndarray:
        return sample.T

    def write_example(self, folder: Path, name: str, sample: np.ndarray) -> str:
        path, rate = folder / f"{name}.wav", self.processor.sampling_rate or 1
        if self.processor.do_rescale:
            soundfile.write(path, sample.clip(-1, 1), rate)
        else:  # numbers in units of their own, which 16 bits would change
            soundfile.write(path, sample, rate, subtype="FLOAT")
        return f"{name}.wav"

    def card(self, judged: Judged) -> dict[str, Any]:
        extractor, parts = self.processor, super().card(judged)
        if extractor.do_rescale:
            seconds = extractor.max_length / extractor.sampling_rate
            given = f"recordings of up to {seconds:g} s at {extractor.sampling_rate} Hz"
            single, several = "raw samples", "raw samples"
            tag, file, limits = "audio", "sound.wav", "Other speakers, microphones, rooms and noise are untested."
            packages = ["soundfile", "soxr"]
        else:  # numbers of sensors, in units of their own
            channels = f", of {extractor.feature_size} channels" if extractor.feature_size > 1 else ""
            given = f"series of up to {extractor.max_length} numbers{channels}"
            single, several = "single moments", "moments"
            tag, file, limits = "time-series", "series.csv", "Other sensors, units and rates are untested."
            packages = ["soundfile"]  # for the examples
        if extractor.feature_type == "log-mel":
            single = several = "log-mel spectrograms"
        return parts | {
            "tags": [tag, *parts["tags"]],
            "purpose": self.target.purpose(given, self.config.num_labels),
            "elements": elements_of(self.config, single, several),
            "augmentation": describe_augmentation(self.augmentation),
            "usage": [
                with_pipeline(self.name, file, self.target),
                with_parts("AutoFeatureExtractor", "AutoModelForAudioClassification", f'"{file}"', self.target),
            ],
            "packages": packages,
            "limits": limits,
        }

    clean_check = """
import numpy as np
from transformers import AutoFeatureExtractor, pipeline
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
noise = np.random.default_rng(0).normal(size=(extractor.feature_size, 3000)).astype("float32")
assert pipeline("audio-classification", model=folder, trust_remote_code=True)(noise)
"""


def _of_recordings(output: Any, windows: Windows) -> SequenceClassifierOutput:
    """The answers to recordings, of those to their windows."""
    logits = output.logits.float()
    total = logits.new_zeros(len(windows.labels), logits.shape[1])
    return SequenceClassifierOutput(logits=total.index_add_(0, windows.owners, windows.shares[:, None] * logits))
