"""Texts without labels: bytes of them are masked, and the model is to say what they were."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from lab.augment.masking import MASKING_RANGES, NO_LABEL, UNITS, Masking, mask
from lab.augment.padding import padded, shown
from lab.augment.seeds import fold_seed
from lab.data.sources import Reading
from lab.data.splits import Splits, choose_splits, require_same_validation, require_validation
from lab.data.streams import choose_any_split, choose_stream_splits
from lab.data.text import TEXT, TextDataset, TextDecoder, choose_pieces, pieces_of
from lab.data.unlabelled import UNLABELLED
from lab.errors import UserError
from lab.looking.maps import draw_maps_on
from lab.looking.style import save
from lab.looking.text_view import MaskedView
from lab.recipe import Recipe
from lab.scoring.report import Details, write_evaluation
from lab.tasks.task import Arguments, Batch, Judged, Scores, Task, drawn
from lab.tasks.texts import (
    as_text,
    build_tokenizer,
    byte_elements,
    bytes_config,
    inherit_tokenizer,
    with_special_tokens,
)
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForMaskedLM, PerceiverStudyTokenizer

_DRAWN, _EXAMPLES = 4, 3
_JOIN = "join"  # texts of a split are one long text, cut into pieces of what the model takes
_USAGE = """from transformers import pipeline

fill = pipeline("fill-mask", model="{repo_id}", trust_remote_code=True)
print(fill("TEXT with a [MASK]yte that is masked."))"""


class MaskedLM(Task):
    """`values` `(b, L)` int16, `lengths` and `rows`, as a batch of `TextDataset` has them."""

    name = "masked-lm"
    samples = "texts"
    model_class = PerceiverStudyForMaskedLM
    processor_class = PerceiverStudyTokenizer
    processor_section = "tokenizer"
    processor_files = ("tokenizer_config.json", "tokenizer.json")
    head = "decoder"
    augmentation_class = Masking
    augmentation_ranges = MASKING_RANGES
    best = "bits_per_byte"

    def __init__(self, recipe, config=None, processor=None, pretrained=None):
        super().__init__(recipe, config, processor, pretrained)
        ignored = {
            "optimization.label_smoothing": recipe.optimization.label_smoothing,
            "optimization.class_weights": recipe.optimization.class_weights,
            "data.withhold": recipe.data.withhold,
            "model.num_labels": recipe.model.get("num_labels"),
        }
        for key, value in ignored.items():
            if value:
                raise UserError(f"{key}={value}: texts of task=masked-lm have no labels and one input; leave it out")
        settings = self.augmentation
        if settings.masked not in UNITS:
            raise UserError(f"augmentation.masked={settings.masked}: expected one of {', '.join(UNITS)}")
        if settings.random_share + settings.kept_share > 1:
            raise UserError(
                f"augmentation.random_share={settings.random_share} and kept_share={settings.kept_share}: expected at "
                "most 1 together"
            )

    def inherit(self, recipe: Recipe) -> Recipe:
        return inherit_tokenizer(super().inherit(recipe), self.pretrained.processor)

    def build_config(self) -> PerceiverStudyConfig:
        return bytes_config(self.recipe)

    def build_processor(self) -> PerceiverStudyTokenizer:
        return build_tokenizer(self.recipe, self.config, (_JOIN,))

    # Data

    @property
    def reading(self) -> Reading:
        """What is read of datasets."""
        return Reading(self.recipe.data, (TEXT,), UNLABELLED, validated=self.validated)

    def decoder(self) -> TextDecoder:
        return TextDecoder(self.recipe.data, self.processor, may_be_empty=self._joins)

    @property
    def _joins(self) -> bool:
        return bool(self.recipe.tokenizer.get(_JOIN))

    @property
    def _room(self) -> int:
        """Bytes between `[CLS]` and `[SEP]`."""
        return self.processor.model_max_length - 2

    def load_splits(self) -> Splits:
        reading, decoder, streaming = self.reading, self.decoder(), self.recipe.data.streaming
        if self._joins:
            if streaming:
                raise UserError("tokenizer.join=true: texts of a stream are not known before; set data.streaming=false")
            train, validation, test = choose_pieces(reading, decoder, self._newline, self._room)
            return Splits(train, validation, test, [], validation and validation.fingerprint())
        if streaming:
            train, validation, test, _ = choose_stream_splits(reading, decoder, 1)
        else:
            train, validation, test = choose_splits(reading)
            train = decoder.decode(train)
        validated = validation and validation.fingerprint()
        return Splits(train, validation and decoder.decode(validation), test and decoder.decode(test), [], validated)

    def fit(self, splits: Splits):
        pass

    def load_split(self, split: str, by_number: bool = False) -> Dataset:
        reading, decoder = self.reading, self.decoder()
        if self._joins and split in ("train", "validation"):
            train, validation, _ = choose_pieces(reading, decoder, self._newline, self._room)
            return train if split == "train" else require_same_validation(require_validation(validation), reading)
        dataset = decoder.decode(choose_any_split(reading, split, 1))
        if not self._joins:
            return dataset
        return pieces_of([dataset.sample(row) for row in range(len(dataset))], self._newline, self._room)

    @property
    def _newline(self) -> int:
        return self.processor.convert_tokens_to_ids("\n")

    # A batch

    def training_inputs(self, batch: Batch, step: int, first: int) -> tuple[Arguments, Any]:
        places = range(first, first + len(batch["values"]))
        return self._masked(batch, [(self.recipe.seed, step, place) for place in places], windows=True)

    def inputs(self, batch: Batch) -> tuple[Arguments, Any]:
        """Each text has the same bytes masked each time, and of a long one the beginning."""
        return self._masked(batch, [(row,) for row in batch["rows"].tolist()])

    def _masked(self, batch: Batch, seeds: list[tuple[int, ...]], windows: bool = False) -> tuple[Arguments, Any]:
        """The arguments, and `(b, O)` what stood at the positions that are asked for, -100 for those that fill up."""
        texts, labels, device = [], [], batch["values"].device
        for row, length, seed in zip(batch["values"], batch["lengths"].tolist(), seeds, strict=True):
            rng = np.random.default_rng(fold_seed(*seed))
            first = int(rng.integers(max(0, length - self._room) + 1)) if windows else 0
            ids = row[first : min(length, first + self._room)].cpu().numpy()
            text, label = mask(ids, self.augmentation, self.processor.mask_token_id, rng)
            texts.append(text)
            labels.append(label)
        ids, lengths = with_special_tokens(*_on(padded(texts), device), self.processor)
        wanted = [np.flatnonzero(label != NO_LABEL) for label in labels]
        asked = padded([positions + 1 for positions in wanted])  # behind [CLS]; position 0 fills up
        targets = padded([label[positions] for label, positions in zip(labels, wanted, strict=True)])
        targets = targets["values"].long().masked_fill(~shown(targets["lengths"], targets["values"].shape[1]), NO_LABEL)
        if targets.shape[1] == 0:  # texts of nothing but special tokens: something has to be asked
            asked["values"] = torch.zeros(len(ids), 1, dtype=torch.long)
            targets = targets.new_full((len(ids), 1), NO_LABEL)
        arguments = {
            "input_ids": ids,
            "attention_mask": shown(lengths, ids.shape[1]),
            "output_positions": asked["values"].to(device),
        }
        return arguments, targets.to(device)

    def example(self, size: int, device: torch.device | str) -> tuple[Arguments, Any]:
        most = self.processor.model_max_length
        asked = max(1, round(self.augmentation.share * most))
        ids = torch.full((size, most), self.processor.mask_token_id, device=device)
        arguments = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids, dtype=torch.bool),
            "output_positions": torch.arange(asked, device=device).expand(size, -1),
        }
        return arguments, ids[:, :asked]

    # Answers

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """The mean over masked bytes of each text, and then over texts, so that a batch that is cut trains the same."""
        nats = self._nats(outputs, targets)
        counts = (targets != NO_LABEL).sum(dim=1).clamp(min=1)
        return (nats.sum(dim=1) / counts).mean()

    def _nats(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        logits = outputs.logits.float().transpose(1, 2)
        return F.cross_entropy(logits, targets, reduction="none", ignore_index=NO_LABEL)

    def judge(self, outputs: list[Any], targets: torch.Tensor) -> dict[str, torch.Tensor]:
        (output,) = outputs
        return {
            "nats": self._nats(output, targets).sum(dim=1),
            "right": (output.logits.argmax(dim=-1) == targets).sum(dim=1),
            "masked": (targets != NO_LABEL).sum(dim=1),
        }

    def scores(self, judged: Judged) -> Scores:
        nats, masked = judged["nats"].sum(dtype=np.float64), judged["masked"].sum()
        if not np.isfinite(nats):
            raise UserError(
                "answers are not finite numbers: try another --dtype, such as float32, or lower "
                "optimization.learning_rate"
            )
        loss = float(nats / masked)
        right = float(judged["right"].sum() / masked)
        return {"bits_per_byte": loss / math.log(2), "masked_accuracy": right, "loss": loss}

    def all_scores(self, judged: Judged) -> Scores:
        return self.scores(judged)

    # What people see

    def write_report(self, folder: Path, results: dict, judged: Judged, mirrored: Judged | None):
        masked = int(judged["masked"].sum())
        text = f"{masked:,} masked bytes, chosen as in training ({self._masking}), always the same."
        write_evaluation(folder, results, self.samples, Details(text, {"masked_bytes": masked}), None)

    @property
    def _masking(self) -> str:
        settings = self.augmentation
        unit = {
            "bytes": "of the bytes, one by one",
            "words": "of the words",
            "spans": f"of the bytes, in spans of {settings.span:g} on average",
        }
        return f"{100 * settings.share:g} % {unit[settings.masked]}"

    def illustrate(
        self, folder: Path, model: Any, dataset: TextDataset, judged: Judged, show_samples: bool
    ) -> list[tuple[str, str]]:
        if not show_samples:
            return []
        texts = [as_text(dataset.sample(row), self.processor) for row in drawn(len(dataset), _DRAWN)]
        figure = draw_maps_on(texts, model, self.processor, MaskedView, self.config.num_cross_attends)
        save(figure, folder / "attention.png", dpi=100)
        return [("Attention of latents to texts", "attention.png")]

    def save_examples(self, folder: Path, dataset: TextDataset) -> dict[str, str]:
        settings = dataclasses.replace(self.augmentation, random_share=0.0, kept_share=0.0)
        for number, row in enumerate(drawn(len(dataset), _EXAMPLES)):
            ids = np.array(self.processor(as_text(dataset.sample(row), self.processor))["input_ids"])
            rng = np.random.default_rng(fold_seed(int(row)))
            ids, _ = mask(ids, settings, self.processor.mask_token_id, rng)
            text = self.processor.decode(ids[1:-1].tolist())
            (folder / f"{number}.txt").write_text(text, encoding="utf-8")
        return {}

    def card(self, judged: Judged) -> dict[str, Any]:
        return {
            "purpose": f"says what masked bytes of texts of up to {self._room:,} bytes were",
            "details": f"Masked were {self._masking}.",
            "weakness": "",
            "elements": byte_elements(self.config),
            "augmentation": ", other masks at each step",
            "usage": [_USAGE],
            "limits": "Texts of other kinds than those of the data are untested.",
            "tags": ["text", "bytes", "perceiver", "custom_code", "arxiv:2107.14795"],
            "metric": "bits_per_byte",
        }

    clean_check = """
from transformers import AutoTokenizer, pipeline
assert len(AutoTokenizer.from_pretrained(folder, trust_remote_code=True)) == 262
assert pipeline("fill-mask", model=folder, trust_remote_code=True)("Ein T[MASK]xt.")
"""


def _on(batch: dict[str, torch.Tensor], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return batch["values"].to(device), batch["lengths"].to(device)
