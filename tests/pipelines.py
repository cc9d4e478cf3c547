"""Small pipelines of every kind that this package has, made of objects, and samples for them."""

import numpy as np
import torch

import modeling_perceiver_study as package
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyFeatureExtractor,
    PerceiverStudyImageProcessor,
    PerceiverStudyPointCloudProcessor,
    PerceiverStudyProcessor,
    PerceiverStudyVideoProcessor,
)
from modeling_perceiver_study.pipeline_audio_perceiver_study import PerceiverStudyAudioClassificationPipeline
from modeling_perceiver_study.pipeline_multimodal_perceiver_study import PerceiverStudyMultimodalClassificationPipeline
from modeling_perceiver_study.pipeline_perceiver_study import (
    PerceiverStudyImageClassificationPipeline,
    PerceiverStudyImageFeatureExtractionPipeline,
)
from modeling_perceiver_study.pipeline_point_cloud_perceiver_study import (
    PerceiverStudyPointCloudClassificationPipeline,
)
from modeling_perceiver_study.pipeline_video_perceiver_study import PerceiverStudyVideoClassificationPipeline
from tests.clips import random_clip

SMALL = {"num_latents": 4, "d_latents": 16, "num_self_attention_heads": 2, "num_cross_attention_heads": 1}
VIDEO = {"num_axes": 3, "channel_axis": 2, "image_size": [6, 8, 8], "patch_size": [2, 4, 4], "num_frequency_bands": 2}
IMAGE = {"image_size": 8, "num_frequency_bands": 2}
SOUND = {"input_name": "input_values", "num_axes": 1, "num_channels": 1, "image_size": 20, "num_frequency_bands": 2}
POINTS = {"input_type": "points", "num_axes": 3, "num_channels": 0, "max_frequencies": 3, "num_frequency_bands": 2}


def _processors() -> dict:
    return {
        "image": PerceiverStudyImageProcessor(size={"height": 8, "width": 8}, do_fourier_encode=False),
        "sound": PerceiverStudyFeatureExtractor(sampling_rate=1000),
        "points": PerceiverStudyPointCloudProcessor(),
        "video": PerceiverStudyVideoProcessor(size={"height": 8, "width": 8}, num_frames=6),
    }


# The class of the pipeline, that of the model, fields of its config, and the name of its processor.
PIPELINES = {
    "image": (PerceiverStudyImageClassificationPipeline, "ForImageClassification", IMAGE, "image_processor"),
    "latents": (PerceiverStudyImageFeatureExtractionPipeline, "Model", IMAGE, "image_processor"),
    "sound": (PerceiverStudyAudioClassificationPipeline, "ForAudioClassification", SOUND, "feature_extractor"),
    "points": (
        PerceiverStudyPointCloudClassificationPipeline,
        "ForPointCloudClassification",
        POINTS,
        "feature_extractor",
    ),
    "video": (PerceiverStudyVideoClassificationPipeline, "ForVideoClassification", VIDEO, "image_processor"),
    "several": (
        PerceiverStudyMultimodalClassificationPipeline,
        "ForMultimodalClassification",
        {"modalities": {"image": IMAGE, "points": POINTS, "sound": SOUND}},
        "processor",
    ),
}
CLASSIFIERS = [kind for kind in PIPELINES if kind != "latents"]

SAMPLES = {
    "image": [np.full((8, 8, 3), number, dtype=np.uint8) for number in (0, 99)],
    "latents": [np.full((8, 8, 3), number, dtype=np.uint8) for number in (0, 99)],
    "sound": [np.linspace(-1, 1, 30), np.linspace(1, 0, 30)],
    "points": [np.eye(3), np.tri(3)],
    "video": [random_clip(), random_clip(seed=1)],
    "several": [{"sound": np.linspace(-1, 1, 30)}, {"points": np.tri(3), "sound": np.linspace(1, 0, 30)}],
}


def model_for(kind: str, **fields):
    """In evaluation mode; heads of eight classes where nothing else is said."""
    torch.manual_seed(0)
    classes = {} if {"num_labels", "tasks"} & fields.keys() else {"num_labels": 8}
    config = PerceiverStudyConfig(**PIPELINES[kind][2], **SMALL, initializer_range=0.3, **classes, **fields)
    return getattr(package, f"PerceiverStudy{PIPELINES[kind][1]}")(config).eval()


def pipeline_of(kind: str, model=None, **options):
    """A pipeline of this model, or of a small one."""
    processors = _processors()
    parts = {name: processors[name] for name in ("image", "points", "sound")}
    processors |= {"latents": processors["image"], "several": PerceiverStudyProcessor(parts)}
    pipeline_class, _, _, name = PIPELINES[kind]
    return pipeline_class(model=model or model_for(kind), **{name: processors[kind]}, device="cpu", **options)
