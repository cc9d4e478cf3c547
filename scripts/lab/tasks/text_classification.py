"""Texts with labels, as bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.augment.describing import require_span
from lab.augment.padding import padded, shown
from lab.augment.seeds import fold_seed
from lab.augment.text import TEXT_RANGES, TextAugmentation, change, describe_text_augmentation
from lab.data.text import TEXT, TextDataset, TextDecoder
from lab.looking.text_view import TextView
from lab.recipe import Recipe
from lab.tasks.ragged import RaggedTask
from lab.tasks.task import Arguments, Batch, Judged
from lab.tasks.texts import (
    TOKENIZER_KEYS,
    as_text,
    build_tokenizer,
    byte_elements,
    bytes_config,
    inherit_tokenizer,
    with_special_tokens,
)
from lab.tasks.usage import with_parts, with_pipeline
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForSequenceClassification,
    PerceiverStudyTokenizer,
)


class TextClassification(RaggedTask):
    """`values` `(b, L)` int16, `lengths`, `rows` and `labels`, as a batch of `TextDataset` has them."""

    name = "text-classification"
    samples = "texts"
    model_class = PerceiverStudyForSequenceClassification
    processor_class = PerceiverStudyTokenizer
    processor_section = "tokenizer"
    processor_files = ("tokenizer_config.json", "tokenizer.json")
    processor_keys = TOKENIZER_KEYS
    columns = (TEXT,)
    view = TextView
    augmentation_class = TextAugmentation
    augmentation_ranges = TEXT_RANGES

    def __init__(self, recipe, config=None, processor=None, pretrained=None):
        super().__init__(recipe, config, processor, pretrained)
        require_span("augmentation.window", self.augmentation.window)

    def inherit(self, recipe: Recipe) -> Recipe:
        return inherit_tokenizer(super().inherit(recipe), self.pretrained.processor)

    def build_config(self) -> PerceiverStudyConfig:
        return bytes_config(self.recipe)

    def build_processor(self) -> PerceiverStudyTokenizer:
        return build_tokenizer(self.recipe, self.config)

    def decoder(self) -> TextDecoder:
        return TextDecoder(self.recipe.data, self.processor)

    def training_inputs(self, batch: Batch, step: int, first: int) -> tuple[Arguments, Any]:
        settings, mask_id = self.augmentation, self.processor.mask_token_id
        rows = []
        for place, (row, length) in enumerate(zip(batch["values"], batch["lengths"].tolist(), strict=True), first):
            rng = np.random.default_rng(fold_seed(self.recipe.seed, step, place))
            rows.append(change(row[:length].cpu().numpy(), settings, mask_id, rng))
        changed = padded(rows)
        device = batch["values"].device
        return self._arguments(changed["values"].to(device), changed["lengths"].to(device)), batch["labels"]

    def inputs(self, batch: Batch) -> tuple[Arguments, Any]:
        return self._arguments(batch["values"], batch["lengths"]), batch["labels"]

    def _arguments(self, values: torch.Tensor, lengths: torch.Tensor) -> Arguments:
        ids, lengths = with_special_tokens(values, lengths, self.processor)
        return {"input_ids": ids, "attention_mask": shown(lengths, ids.shape[1])}

    def blank(self) -> np.ndarray:
        return np.full(1, self.processor.convert_tokens_to_ids(" "), np.int16)

    def example(self, size: int, device: torch.device | str) -> tuple[Arguments, Any]:
        most = self.processor.model_max_length
        if self.augmentation.window:
            most = min(most, self.augmentation.window[1] + 2)
        ids = torch.full((size, most), self.processor.mask_token_id, device=device)
        mask = torch.ones(size, most, dtype=torch.bool, device=device)
        arguments = {"input_ids": ids, "attention_mask": mask}
        return arguments, self.target.example(size, self.config.num_labels, device)

    def as_read(self, sample: np.ndarray) -> str:
        return as_text(sample, self.processor)

    def write_example(self, folder: Path, name: str, sample: np.ndarray) -> str:
        (folder / f"{name}.txt").write_text(self.as_read(sample), encoding="utf-8")
        return f"{name}.txt"

    def save_examples(self, folder: Path, dataset: TextDataset) -> dict[str, str]:
        super().save_examples(folder, dataset)
        return {}  # the Hub's widget takes texts, not files

    def card(self, judged: Judged) -> dict[str, Any]:
        parts = super().card(judged)
        most = self.processor.model_max_length - 2
        return parts | {
            "tags": ["text", "bytes", *parts["tags"]],
            "purpose": self.target.purpose(f"texts of up to {most:,} bytes", self.config.num_labels),
            "elements": byte_elements(self.config),
            "augmentation": describe_text_augmentation(self.augmentation),
            "usage": [
                with_pipeline(self.name, "TEXT", self.target, ", truncation=True"),
                with_parts("AutoTokenizer", "AutoModelForSequenceClassification", '"TEXT"', self.target),
            ],
            "limits": "Texts of other kinds than those of the data are untested. Of longer ones the first "
            f"{most:,} bytes are read.",
        }

    clean_check = """
from transformers import AutoTokenizer, pipeline
assert len(AutoTokenizer.from_pretrained(folder, trust_remote_code=True)) == 262
assert pipeline("text-classification", model=folder, trust_remote_code=True)("Ein Text.")
"""
