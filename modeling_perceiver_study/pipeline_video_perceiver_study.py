"""transformers' pipeline for clips, with clips read as in training.

`PerceiverStudyConfig.custom_pipelines` names it, so that `pipeline("video-classification", model=FOLDER,
trust_remote_code=True)` takes it in place of transformers' own. That one needs torchvision for a video processor,
insists on a fixed number of frames, and rounds what the processor returns to the model's dtype.
"""

from typing import Any

from transformers import BatchFeature, Pipeline, VideoClassificationPipeline

from .pipeline_point_cloud_perceiver_study import Answers, listed, only_one, require_one
from .scalars import is_count
from .video_reading import is_several_clips


class PerceiverStudyVideoClassificationPipeline(Answers, VideoClassificationPipeline):
    """Classes of clips: paths, URLs, bytes of files, lists of frames, arrays and tensors; or lists of such.

    `num_frames` and `frame_sampling_rate` may be given as in transformers: so many frames, evenly spaced over the clip,
    or each `frame_sampling_rate`-th from the first on.
    """

    _load_image_processor = True
    _load_video_processor = False
    reading = ("num_frames", "frame_sampling_rate")

    def __init__(self, *args, **kwargs):
        Pipeline.__init__(self, *args, **kwargs)

    def __call__(self, inputs: Any, **kwargs):
        inputs = listed(inputs)
        if isinstance(inputs, list) and not is_several_clips(inputs):
            inputs = [inputs]
            return super().__call__(inputs, **kwargs)[0]
        if getattr(inputs, "ndim", 0) == 5:
            inputs = list(inputs)
        return super().__call__(inputs, **kwargs)

    def preprocess(self, video: Any, num_frames: int | None = None, frame_sampling_rate: int = 1) -> BatchFeature:
        settings = {}
        if not is_count(frame_sampling_rate):
            raise ValueError(f"frame_sampling_rate={frame_sampling_rate!r}: expected a whole number of at least 1.")
        if frame_sampling_rate != 1:
            if not is_count(num_frames):
                raise ValueError(
                    f"num_frames={num_frames!r}: expected a whole number of at least 1, as "
                    f"frame_sampling_rate={frame_sampling_rate} says how far apart they are, and not how many."
                )
            settings = {"frame_indices": [number * frame_sampling_rate for number in range(num_frames)]}
        elif num_frames is not None:
            settings = {"num_frames": num_frames, "do_sample_frames": True, "long_clips": "spread"}
        if is_several_clips(video):
            require_one(len(video))
            video = video[0]
        # Of an array the processor knows by itself that it is one clip, and not the only frame of one.
        made = self.image_processor(video if hasattr(video, "ndim") else [video], return_tensors="pt", **settings)
        only_one(made)
        # By the name of pixels transformers would join them into a batch as pictures, which are not padded.
        return BatchFeature({"frames": made["pixel_values"], "attention_mask": made["attention_mask"]})

    def _forward(self, model_inputs: BatchFeature):
        return self.model(pixel_values=model_inputs["frames"], attention_mask=model_inputs["attention_mask"])


__all__ = ["PerceiverStudyVideoClassificationPipeline"]
