"""transformers' image pipelines, with pictures read as in training.

`PerceiverStudyConfig.custom_pipelines` names them, so that `pipeline(task, model=FOLDER, trust_remote_code=True)` takes
them in place of its own. Those make RGB of 8 bits out of every picture, and round what the image processor returns to
the model's dtype.
"""

from collections.abc import Mapping
from typing import Any

from transformers import ImageClassificationPipeline, ImageFeatureExtractionPipeline

from .image_reading import open_image
from .pipeline_point_cloud_perceiver_study import Answers, listed, only_one

_AXES = 3  # of one picture


class PerceiverStudyImageClassificationPipeline(Answers, ImageClassificationPipeline):
    """Classes of images: files by path, URL or bytes, PIL images of any mode, arrays and tensors."""

    reading = ("timeout",)

    def __call__(self, inputs=None, **kwargs):
        inputs = kwargs.pop("images", inputs)  # a name of transformers
        return super().__call__(listed(inputs, _AXES), **kwargs)

    def preprocess(self, image, timeout: float | None = None) -> Mapping[str, Any]:
        return only_one(self.image_processor(open_image(image, timeout), return_tensors="pt"))


class PerceiverStudyImageFeatureExtractionPipeline(ImageFeatureExtractionPipeline):
    """The latents of images: files by path, URL or bytes, PIL images of any mode, arrays and tensors."""

    def __call__(self, inputs=None, **kwargs):
        inputs = kwargs.pop("images", inputs)  # as above
        return super().__call__(listed(inputs, _AXES), **kwargs)

    def preprocess(self, image, timeout: float | None = None, **kwargs) -> Mapping[str, Any]:
        return only_one(self.image_processor(open_image(image, timeout), return_tensors="pt", **kwargs))


__all__ = ["PerceiverStudyImageClassificationPipeline", "PerceiverStudyImageFeatureExtractionPipeline"]
