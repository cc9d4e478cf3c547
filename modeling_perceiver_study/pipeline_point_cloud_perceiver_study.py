"""A pipeline for clouds of points, for which transformers has none.

`PerceiverStudyConfig.custom_pipelines` names it, so that `pipeline("point-cloud-classification", model=FOLDER,
trust_remote_code=True)` takes it.
"""

import numpy as np
from transformers import BatchFeature, Pipeline

_ACTIVATIONS = ("softmax", "sigmoid", "none")


class PerceiverStudyPointCloudClassificationPipeline(Pipeline):
    """Classes of clouds of points: what the processor takes, one cloud or a list of them.

    transformers loads the model of a pipeline with one of its own Auto classes, and has none for clouds with a head.
    The bare model that `AutoModel` gives is therefore replaced by the classifier from the same folder and revision.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    def __init__(self, model, *args, **kwargs):
        if not hasattr(model, "classifier"):
            model = _with_head(model)
        super().__init__(model, *args, **kwargs)

    def __call__(self, inputs, **kwargs):
        """Answers for each cloud, the likeliest first: dicts of `label` and `score`.

        Args:
            inputs: a cloud `(m, A + C)` as an array, a tensor, a path or bytes of a file; or a list or a batch of such.
            kwargs: `top_k`, how many answers, 5 if left out and all with None; `function_to_apply`, `"softmax"`,
                `"sigmoid"` or `"none"`, by `config.problem_type` if left out; `batch_size` and others of transformers.
        """
        if hasattr(inputs, "ndim") and inputs.ndim == 3:
            inputs = list(inputs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, top_k: int | None = 5, function_to_apply: str | None = None, **kwargs):
        if kwargs:
            raise ValueError(f"{next(iter(kwargs))}: expected top_k or function_to_apply.")
        if function_to_apply not in (None, *_ACTIVATIONS):
            raise ValueError(
                f"function_to_apply={function_to_apply!r}: expected one of {', '.join(map(repr, _ACTIVATIONS))}."
            )
        return {}, {}, {"top_k": top_k, "function_to_apply": function_to_apply}

    def preprocess(self, cloud) -> BatchFeature:
        """One cloud. Coordinates stay in float32, whatever the model's dtype is."""
        if isinstance(cloud, (list, tuple)):
            cloud = np.asarray(cloud)
        return self.feature_extractor(cloud, return_tensors="pt")

    def _forward(self, model_inputs):
        return self.model(**model_inputs)

    def postprocess(self, outputs, top_k: int | None = 5, function_to_apply: str | None = None) -> list[dict]:
        config = self.model.config
        if function_to_apply is None:
            by_problem = {"regression": "none", "multi_label_classification": "sigmoid"}
            function_to_apply = by_problem.get(config.problem_type, "softmax")
        logits = outputs.logits[0].float()
        scores = {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid(), "none": logits}[function_to_apply]
        best = scores.topk(len(scores) if top_k is None else min(top_k, len(scores)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{"label": config.id2label[label], "score": score} for score, label in pairs]


def _with_head(model):
    """The classifier from where a bare model was loaded, as it was loaded."""
    from .modeling_perceiver_study import PerceiverStudyForPointCloudClassification

    arguments = {"dtype": model.dtype, "revision": getattr(model.config, "_commit_hash", None) or "main"}
    if getattr(model, "hf_device_map", None):
        arguments["device_map"] = "auto"
    return PerceiverStudyForPointCloudClassification.from_pretrained(model.name_or_path, **arguments)


__all__ = ["PerceiverStudyPointCloudClassificationPipeline"]
