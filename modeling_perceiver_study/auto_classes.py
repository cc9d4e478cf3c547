"""As what a saved folder loads: Auto classes by the model's input, and pipelines by the model."""

AUTO_MAP = {
    "AutoConfig": "configuration_perceiver_study.PerceiverStudyConfig",
    "AutoModel": "modeling_perceiver_study.PerceiverStudyModel",
}
VIDEO = "pixel_values of frames"  # three axes, the channels behind the first
# Of a folder that holds this model, and of any that takes bytes alone.
AUTO_MAP_OF_MODELS = {
    f"PerceiverStudyFor{head}": {f"AutoModelFor{head}": f"modeling_perceiver_study.PerceiverStudyFor{head}"}
    for head in ("SequenceClassification", "TokenClassification", "MaskedLM")
}
# Of a folder whose model takes this argument alone.
AUTO_MAP_OF_INPUTS = {
    "pixel_values": {
        "AutoModelForImageClassification": "modeling_perceiver_study.PerceiverStudyForImageClassification",
    },
    "input_values": {
        "AutoModelForAudioClassification": "modeling_perceiver_study.PerceiverStudyForAudioClassification",
    },
    VIDEO: {
        "AutoModelForVideoClassification": "modeling_perceiver_study.PerceiverStudyForVideoClassification",
    },
    "input_ids": {name: code for names in AUTO_MAP_OF_MODELS.values() for name, code in names.items()},
}
# By the model: tasks, file and class of each pipeline, the Auto class that loads its model, and the type of its input.
PIPELINES = {
    "PerceiverStudyForAudioClassification": {
        "audio-classification": (
            "pipeline_audio_perceiver_study.PerceiverStudyAudioClassificationPipeline",
            "AutoModelForAudioClassification",
            "audio",
        ),
    },
    "PerceiverStudyForImageClassification": {
        "image-classification": (
            "pipeline_perceiver_study.PerceiverStudyImageClassificationPipeline",
            "AutoModelForImageClassification",
            "image",
        ),
        "image-feature-extraction": (
            "pipeline_perceiver_study.PerceiverStudyImageFeatureExtractionPipeline",
            "AutoModel",
            "image",
        ),
    },
    "PerceiverStudyForPointCloudClassification": {
        "point-cloud-classification": (
            "pipeline_point_cloud_perceiver_study.PerceiverStudyPointCloudClassificationPipeline",
            "AutoModel",  # without the head, which the pipeline loads: transformers has no Auto class for it
            "multimodal",
        ),
    },
    "PerceiverStudyForVideoClassification": {
        "video-classification": (
            "pipeline_video_perceiver_study.PerceiverStudyVideoClassificationPipeline",
            "AutoModelForVideoClassification",
            "video",
        ),
    },
    "PerceiverStudyForMultimodalClassification": {
        "multimodal-classification": (
            "pipeline_multimodal_perceiver_study.PerceiverStudyMultimodalClassificationPipeline",
            "AutoModel",  # as above
            "multimodal",
        ),
    },
}
