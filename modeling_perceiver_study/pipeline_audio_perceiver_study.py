"""transformers' pipeline for sound, with recordings read as in training.

`PerceiverStudyConfig.custom_pipelines` names it, so that `pipeline("audio-classification", model=FOLDER,
trust_remote_code=True)` takes it in place of transformers' own. That one needs the `ffmpeg` program and torchaudio,
takes one channel only, and rounds what the feature extractor returns to the model's dtype.
"""

from collections.abc import Iterator, Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
from transformers import AudioClassificationPipeline
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pipelines.base import ChunkPipeline

from .pipeline_point_cloud_perceiver_study import Answers, listed, require_one


class PerceiverStudyAudioClassificationPipeline(Answers, ChunkPipeline, AudioClassificationPipeline):
    """Classes of recordings: paths, URLs, bytes of files, arrays, and dicts of `datasets` at any rate.

    A recording that is longer than the feature extractor's `max_length` is cut into windows, and its answer is the mean
    of theirs, in which each counts as `PerceiverStudyFeatureExtractor.windows` says: pauses hardly, loud parts most.

    An array or a tensor with an axis more than `(channels, L)` holds several recordings. With two axes it is one with
    several channels for a model of several; for a model of one it may be either, and is refused: give recordings as a
    list, and one with several channels in a list, or in a dict of `datasets`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"top_k": None, **kwargs})  # all answers, as transformers gives of recordings

    def __call__(self, inputs: Any, **kwargs):
        if isinstance(inputs, (list, tuple)) and len(inputs) > 0 and isinstance(inputs[0], Number):
            inputs = np.asarray(inputs)  # one recording, as the feature extractor takes it
        if self.feature_extractor.feature_size == 1 and getattr(inputs, "ndim", 0) == 2 and len(inputs) != 1:
            raise ValueError(
                f"inputs have shape {tuple(inputs.shape)}, which may be recordings or the channels of one: expected "
                "list(inputs) for recordings, [inputs] for the channels of one."
            )
        return super().__call__(listed(inputs, axes=2), **kwargs)

    def preprocess(self, recording: Any) -> Iterator[dict[str, Any]]:
        extractor = self.feature_extractor
        if extractor.is_several(recording):
            require_one(len(recording))
        windows, shares = extractor.windows(torch.from_numpy(extractor.read(recording)))
        for number, (window, share) in enumerate(zip(windows, shares.tolist(), strict=True), start=1):
            features = self._turned(extractor(window[None], return_tensors="pt"))
            yield {"is_last": number == len(windows), "share": share, **features}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        kept = {name: model_inputs.pop(name) for name in ("is_last", "share")}
        return {**kept, "logits": self.model(**self._turned(model_inputs)).logits}

    def _turned(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Several channels behind time, or back: transformers pads the axis behind that of the batch."""
        if self.feature_extractor.feature_size == 1:
            return {**features}
        return {**features, "input_values": features["input_values"].transpose(1, 2)}

    def postprocess(self, model_outputs: list[dict[str, Any]], **settings) -> list[dict[str, Any]]:
        logits = sum(output["share"] * output["logits"].float() for output in model_outputs)
        return super().postprocess(SequenceClassifierOutput(logits=logits), **settings)


__all__ = ["PerceiverStudyAudioClassificationPipeline"]
