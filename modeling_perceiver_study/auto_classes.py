"""As what a saved folder loads: Auto classes by the model's input, and pipelines by the model."""

AUTO_MAP = {
    "AutoConfig": "configuration_perceiver_study.PerceiverStudyConfig",
    "AutoModel": "modeling_perceiver_study.PerceiverStudyModel",
}
# Of a folder whose model takes this argument alone. Bytes have several heads, each of which adds itself when it is saved.
AUTO_MAP_OF_INPUTS = {
    "pixel_values": {
        "AutoModelForImageClassification": "modeling_perceiver_study.PerceiverStudyForImageClassification",
    },
    "input_values": {
        "AutoModelForAudioClassification": "modeling_perceiver_study.PerceiverStudyForAudioClassification",
    },
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
}
