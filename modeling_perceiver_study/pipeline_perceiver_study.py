"""transformers' image pipelines, with pictures read as in training.

`PerceiverStudyConfig.custom_pipelines` names them, so that `pipeline(task, model=FOLDER, trust_remote_code=True)` takes
them in place of its own. Those make RGB of 8 bits out of every picture, and round what the image processor returns to
the model's dtype.
"""

from transformers import BatchFeature, ImageClassificationPipeline, ImageFeatureExtractionPipeline

from .image_reading import open_image
from .pipeline_point_cloud_perceiver_study import Answers, listed

_AXES = 3  # of one picture


class PerceiverStudyImageClassificationPipeline(Answers, ImageClassificationPipeline):
    """Classes of images: paths, URLs, PIL images of any mode, arrays and tensors."""

    reading = ("timeout",)

    def __call__(self, inputs=None, **kwargs):
        return super().__call__(listed(inputs, _AXES), **kwargs)

    def preprocess(self, image, timeout: float | None = None) -> BatchFeature:
        return self.image_processor(open_image(image, timeout), return_tensors="pt")


class PerceiverStudyImageFeatureExtractionPipeline(ImageFeatureExtractionPipeline):
    """The latents of images: paths, URLs, PIL images of any mode, arrays and tensors."""

    def __call__(self, *args, **kwargs):
        return super().__call__(*(listed(inputs, _AXES) for inputs in args[:1]), *args[1:], **kwargs)

    def preprocess(self, image, timeout: float | None = None, **kwargs) -> BatchFeature:
        return self.image_processor(open_image(image, timeout), return_tensors="pt", **kwargs)


__all__ = ["PerceiverStudyImageClassificationPipeline", "PerceiverStudyImageFeatureExtractionPipeline"]
