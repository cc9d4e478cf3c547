"""The Perceiver for images, sound, video, points and text, alone or together, for transformers."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForVideoClassification,
    AutoTokenizer,
)

from .configuration_perceiver_study import PerceiverStudyConfig
from .elastic import classify_early
from .feature_extraction_perceiver_study import PerceiverStudyFeatureExtractor
from .image_processing_perceiver_study import PerceiverStudyImageProcessor
from .modeling_perceiver_study import (
    PerceiverStudyForAudioClassification,
    PerceiverStudyForImageClassification,
    PerceiverStudyForMaskedLM,
    PerceiverStudyForMultimodalClassification,
    PerceiverStudyForPointCloudClassification,
    PerceiverStudyForSequenceClassification,
    PerceiverStudyForTokenClassification,
    PerceiverStudyForVideoClassification,
    PerceiverStudyModel,
    PerceiverStudyPreTrainedModel,
)
from .pipeline_audio_perceiver_study import PerceiverStudyAudioClassificationPipeline
from .pipeline_multimodal_perceiver_study import PerceiverStudyMultimodalClassificationPipeline
from .pipeline_perceiver_study import (
    PerceiverStudyImageClassificationPipeline,
    PerceiverStudyImageFeatureExtractionPipeline,
)
from .pipeline_point_cloud_perceiver_study import PerceiverStudyPointCloudClassificationPipeline
from .pipeline_video_perceiver_study import PerceiverStudyVideoClassificationPipeline
from .point_cloud_processing_perceiver_study import PerceiverStudyPointCloudProcessor
from .processing_perceiver_study import PerceiverStudyProcessor
from .tokenization_perceiver_study import PerceiverStudyTokenizer
from .video_processing_perceiver_study import PerceiverStudyVideoProcessor

# With the package imported, the Auto classes know its model type without trust_remote_code.
AutoConfig.register(PerceiverStudyConfig.model_type, PerceiverStudyConfig)
AutoModel.register(PerceiverStudyConfig, PerceiverStudyModel)
AutoModelForImageClassification.register(PerceiverStudyConfig, PerceiverStudyForImageClassification)
AutoModelForAudioClassification.register(PerceiverStudyConfig, PerceiverStudyForAudioClassification)
AutoModelForSequenceClassification.register(PerceiverStudyConfig, PerceiverStudyForSequenceClassification)
AutoModelForTokenClassification.register(PerceiverStudyConfig, PerceiverStudyForTokenClassification)
AutoModelForMaskedLM.register(PerceiverStudyConfig, PerceiverStudyForMaskedLM)
AutoTokenizer.register(PerceiverStudyConfig, tokenizer_class=PerceiverStudyTokenizer)
AutoModelForVideoClassification.register(PerceiverStudyConfig, PerceiverStudyForVideoClassification)
AutoFeatureExtractor.register(PerceiverStudyConfig, PerceiverStudyFeatureExtractor)
# One class under both names: where torchvision is installed it is asked for by that name.
AutoImageProcessor.register(
    PerceiverStudyConfig,
    image_processor_classes={"pil": PerceiverStudyImageProcessor, "torchvision": PerceiverStudyImageProcessor},
)

__all__ = [
    "PerceiverStudyAudioClassificationPipeline",
    "PerceiverStudyConfig",
    "PerceiverStudyFeatureExtractor",
    "PerceiverStudyForAudioClassification",
    "PerceiverStudyForImageClassification",
    "PerceiverStudyForMaskedLM",
    "PerceiverStudyForMultimodalClassification",
    "PerceiverStudyForPointCloudClassification",
    "PerceiverStudyForSequenceClassification",
    "PerceiverStudyForTokenClassification",
    "PerceiverStudyForVideoClassification",
    "PerceiverStudyImageClassificationPipeline",
    "PerceiverStudyImageFeatureExtractionPipeline",
    "PerceiverStudyImageProcessor",
    "PerceiverStudyModel",
    "PerceiverStudyMultimodalClassificationPipeline",
    "PerceiverStudyPointCloudClassificationPipeline",
    "PerceiverStudyPointCloudProcessor",
    "PerceiverStudyPreTrainedModel",
    "PerceiverStudyProcessor",
    "PerceiverStudyTokenizer",
    "PerceiverStudyVideoClassificationPipeline",
    "PerceiverStudyVideoProcessor",
    "classify_early",
]
