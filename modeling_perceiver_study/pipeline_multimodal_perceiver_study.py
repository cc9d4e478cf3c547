"""A pipeline for samples of several modalities, for which transformers has none.

`PerceiverStudyConfig.custom_pipelines` names it, so that `pipeline("multimodal-classification", model=FOLDER,
trust_remote_code=True)` takes it.
"""

from typing import Any

from .pipeline_point_cloud_perceiver_study import HeadPipeline, require_one


class PerceiverStudyMultimodalClassificationPipeline(HeadPipeline):
    """Classes of samples of several modalities: what the processor takes, one sample or a list of them.

    A sample is a dict of modalities by name, any of which may be missing; or a file that has all, such as a video with
    sound.
    """

    _load_processor = True

    @staticmethod
    def head() -> type:
        from .modeling_perceiver_study import PerceiverStudyForMultimodalClassification

        return PerceiverStudyForMultimodalClassification

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.feature_extractor = self.processor  # without which transformers makes no batches

    def preprocess(self, sample: Any) -> dict[str, Any]:
        """One sample as it is: transformers joins no samples of which one lacks a modality."""
        samples = list(sample) if isinstance(sample, (list, tuple)) else [sample]
        require_one(len(samples))
        return {"sample": samples}

    def _forward(self, model_inputs: dict[str, Any]):
        """In float32, whatever the model's dtype is."""
        samples = [
            sample for found in model_inputs["sample"] for sample in (found if isinstance(found, list) else [found])
        ]
        return self.model(**self.processor(samples, return_tensors="pt").to(self.device))


__all__ = ["PerceiverStudyMultimodalClassificationPipeline"]
