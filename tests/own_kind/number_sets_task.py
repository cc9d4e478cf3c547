"""What training and the commands need of that kind beside what travels with the weights."""

import json
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from modeling_perceiver_study.number_sets import (
    NumberSetClassifier,
    NumberSetConfig,
    NumberSetProcessor,
    SetsAndMoreClassifier,
    SetsAndMoreProcessor,
)

from lab.augment.padding import shown
from lab.data.columns import Column
from lab.data.ragged import RaggedDecoder
from lab.looking.multimodal_view import MultimodalView
from lab.looking.view import View, as_image, read_with
from lab.recipe import build
from lab.tasks.multimodal_classification import MultimodalClassification
from lab.tasks.ragged import RaggedTask


def _is_numbers(feature: Any) -> bool:
    return getattr(getattr(feature, "feature", None), "dtype", "").startswith("float")


NUMBERS = Column("numbers", "lists of numbers", _is_numbers, _is_numbers)


class NumbersDecoder(RaggedDecoder):
    role, sample, unusable = "numbers", "set of numbers", (ValueError,)

    def decode_one(self, encoded):
        return np.asarray(encoded, np.float32)


class NumberSetView(View):
    task, sample, examples, processors = "number-set-classification", "set", "*.json", ("NumberSetProcessor",)

    def __init__(self, numbers):
        self.numbers = numbers

    @classmethod
    def read(cls, path, processor):
        return read_with(processor, path, "set of numbers")

    @classmethod
    def of(cls, processor, config, sample):
        return cls(processor.read(sample))

    @classmethod
    def fits(cls, config):
        return config.input_type == "number-set"

    @classmethod
    def example(cls, config, count, length=None):
        return {"numbers": torch.randn(count, length or 5, generator=torch.Generator().manual_seed(count))}

    @property
    def count(self):
        return len(self.numbers)

    def draw(self, axes):
        axes.plot(self.numbers, "o")

    def paint(self, axes, weights, lowest=0.0):
        axes.scatter(np.arange(self.count), self.numbers, c=weights.ravel(), vmin=lowest)

    def overlay(self, weights):
        figure = Figure(figsize=(4, 2))
        self.paint(figure.subplots(), weights)
        return as_image(figure)


class NumberSetClassification(RaggedTask):
    name, samples = "number-set-classification", "sets of numbers"
    model_class, processor_class = NumberSetClassifier, NumberSetProcessor
    columns, view = (NUMBERS,), NumberSetView

    def build_config(self):
        return build("model", NumberSetConfig, {"d_model": 16, "input_type": "number-set"} | self.recipe.model)

    def build_processor(self):
        return NumberSetProcessor()

    def decoder(self):
        return NumbersDecoder(self.recipe.data)

    def inputs(self, batch):
        values = batch["values"]
        return {"numbers": values, "attention_mask": shown(batch["lengths"], values.shape[1])}, batch["labels"]

    def example(self, size, device):
        arguments = {"numbers": torch.zeros(size, 5, device=device)}
        arguments["attention_mask"] = torch.ones(size, 5, dtype=torch.long, device=device)
        return arguments, self.target.example(size, self.config.num_labels, device)

    def blank(self):
        return np.zeros(1, np.float32)

    def as_read(self, sample):
        return sample

    def write_example(self, folder, name, sample):
        (folder / f"{name}.json").write_text(json.dumps(sample.tolist()), encoding="utf-8")
        return f"{name}.json"


class SetsAndMoreView(MultimodalView):
    kinds = (*MultimodalView.kinds, NumberSetView)


class SetsAndMore(MultimodalClassification):
    kinds = (*MultimodalClassification.kinds, NumberSetClassification)
    model_class, processor_class, view = SetsAndMoreClassifier, SetsAndMoreProcessor, SetsAndMoreView
