"""The Perceiver for classification, as a model repository for transformers."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from .configuration_perceiver_study import PerceiverStudyConfig
from .image_processing_perceiver_study import PerceiverStudyImageProcessor
from .modeling_perceiver_study import (
    PerceiverStudyForImageClassification,
    PerceiverStudyModel,
    PerceiverStudyPreTrainedModel,
)

# With the package imported, the Auto classes know its model type without trust_remote_code.
AutoConfig.register(PerceiverStudyConfig.model_type, PerceiverStudyConfig)
AutoModel.register(PerceiverStudyConfig, PerceiverStudyModel)
AutoModelForImageClassification.register(PerceiverStudyConfig, PerceiverStudyForImageClassification)
AutoImageProcessor.register(PerceiverStudyConfig, PerceiverStudyImageProcessor)

__all__ = [
    "PerceiverStudyConfig",
    "PerceiverStudyForImageClassification",
    "PerceiverStudyImageProcessor",
    "PerceiverStudyModel",
    "PerceiverStudyPreTrainedModel",
]
