"""A kind of input of one's own, sets of numbers, alone and beside others: a file beside those of the package.

docs/extending.md explains it, and tests/tasks/test_own_kind.py trains both, and loads them without the package.
"""

import json
from numbers import Number
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature, FeatureExtractionMixin

from .configuration_perceiver_study import PerceiverStudyConfig
from .inputs import InputAdapter, check_given, check_mask, register_input_adapter
from .modeling_perceiver_study import (
    PerceiverStudyClassifier,
    PerceiverStudyForMultimodalClassification,
    PerceiverStudyModel,
)
from .pipeline_multimodal_perceiver_study import PerceiverStudyMultimodalClassificationPipeline
from .pipeline_point_cloud_perceiver_study import HeadPipeline
from .processing_perceiver_study import PerceiverStudyProcessor
from .separable import array_inputs


class NumberSetAdapter(InputAdapter):
    """`(B, M)` numbers in any order: the powers of each, through a linear map."""

    input_name = "numbers"
    config_fields = ("d_model", "num_powers")

    def __init__(self, config):
        super().__init__(config)
        self.embedding = nn.Linear(config.num_powers, config.d_model)

    @classmethod
    def width_of(cls, config):
        return config.d_model

    def length(self, numbers):
        return numbers.shape[1]

    def forward(self, numbers, dtype, attention_mask=None):
        check_given("numbers", numbers)
        mask = check_mask(attention_mask, numbers.shape)
        if mask is not None:  # what is hidden may be NaN
            numbers = numbers.masked_fill(~mask, 0)
        powers = torch.stack([numbers ** (power + 1) for power in range(self.config.num_powers)], dim=-1)
        return array_inputs(self.embedding(powers.to(dtype)), mask)


register_input_adapter("number-set", NumberSetAdapter)


class NumberSetProcessor(FeatureExtractionMixin):
    """A list or array of numbers, or a .json file of one; or a list of such `-> numbers, attention_mask`"""

    model_input_names = ["numbers", "attention_mask"]

    def is_several(self, value):
        if isinstance(value, (list, tuple)):
            return len(value) > 0 and not isinstance(value[0], Number)
        return getattr(value, "ndim", 1) > 1

    def read(self, source):
        if isinstance(source, (str, Path)):
            source = json.loads(Path(source).read_text(encoding="utf-8"))
        return np.asarray(source, np.float32)

    def __call__(self, samples, return_tensors="pt"):
        sets = [self.read(one) for one in (samples if self.is_several(samples) else [samples])]
        longest = max(map(len, sets))
        numbers = np.stack([np.pad(one, (0, longest - len(one))) for one in sets])
        mask = np.stack([np.arange(longest) < len(one) for one in sets]).astype(np.int64)
        return BatchFeature({"numbers": numbers, "attention_mask": mask}, tensor_type=return_tensors)


# Alone


class NumberSetConfig(PerceiverStudyConfig):
    model_type = "perceiver_study_number_set"  # of its own, or transformers takes the class of this package
    input_type: str = "number-set"
    num_powers: int = 2

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.auto_map |= {"AutoConfig": "number_sets.NumberSetConfig", "AutoModel": "number_sets.NumberSetModel"}

    @property
    def custom_pipelines(self):
        return {
            "number-set-classification": {
                "impl": "number_sets.NumberSetPipeline",
                "pt": "AutoModel",
                "type": "multimodal",
            }
        }


class NumberSetModel(PerceiverStudyModel):
    config_class = NumberSetConfig


class NumberSetClassifier(PerceiverStudyClassifier):
    config_class = NumberSetConfig
    main_input_name = "numbers"
    _auto_class = "AutoModelForNumberSetClassification"  # any name, without which no code is saved

    def forward(self, numbers=None, attention_mask=None, labels=None, **kwargs):
        return self.classify(labels, numbers=numbers, attention_mask=attention_mask, **kwargs)


class NumberSetPipeline(HeadPipeline):
    _load_feature_extractor = True

    @staticmethod
    def head():
        return NumberSetClassifier

    def preprocess(self, sample):
        return self.feature_extractor(sample, return_tensors="pt")


# Beside others


class SetsAndMoreConfig(NumberSetConfig):
    model_type = "perceiver_study_number_sets_and_more"
    input_type: str = "grid"  # of a modality that does not say

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.auto_map |= {"AutoConfig": "number_sets.SetsAndMoreConfig", "AutoModel": "number_sets.SetsAndMoreModel"}

    @property
    def custom_pipelines(self):
        return {
            "multimodal-classification": {
                "impl": "number_sets.SetsAndMorePipeline",
                "pt": "AutoModel",
                "type": "multimodal",
            }
        }


class SetsAndMoreModel(PerceiverStudyModel):
    config_class = SetsAndMoreConfig


class SetsAndMoreClassifier(PerceiverStudyForMultimodalClassification):
    config_class = SetsAndMoreConfig


class SetsAndMoreProcessor(PerceiverStudyProcessor):
    kinds = (*PerceiverStudyProcessor.kinds, NumberSetProcessor)


class SetsAndMorePipeline(PerceiverStudyMultimodalClassificationPipeline):
    @staticmethod
    def head():
        return SetsAndMoreClassifier


for config in (NumberSetConfig, SetsAndMoreConfig):
    config.register_for_auto_class()
NumberSetProcessor.register_for_auto_class("AutoFeatureExtractor")
SetsAndMoreProcessor.register_for_auto_class("AutoProcessor")
