"""The Perceiver for images, sound, video and points, alone or together, as a model repository for transformers."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
)

from .configuration_perceiver_study import PerceiverStudyConfig
from .feature_extraction_perceiver_study import PerceiverStudyFeatureExtractor
from .image_processing_perceiver_study import PerceiverStudyImageProcessor
from .modeling_perceiver_study import (
    PerceiverStudyForAudioClassification,
    PerceiverStudyForImageClassification,
    PerceiverStudyForMultimodalClassification,
    PerceiverStudyForPointCloudClassification,
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
from .video_processing_perceiver_study import PerceiverStudyVideoProcessor

# With the package imported, the Auto classes know its model type without trust_remote_code.
AutoConfig.register(PerceiverStudyConfig.model_type, PerceiverStudyConfig)
AutoModel.register(PerceiverStudyConfig, PerceiverStudyModel)
AutoModelForImageClassification.register(PerceiverStudyConfig, PerceiverStudyForImageClassification)
AutoModelForAudioClassification.register(PerceiverStudyConfig, PerceiverStudyForAudioClassification)
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
    "PerceiverStudyForMultimodalClassification",
    "PerceiverStudyForPointCloudClassification",
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
    "PerceiverStudyVideoClassificationPipeline",
    "PerceiverStudyVideoProcessor",
]
