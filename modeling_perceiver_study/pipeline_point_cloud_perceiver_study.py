"""A pipeline for clouds of points, for which transformers has none, and what it shares with others of that kind.

`PerceiverStudyConfig.custom_pipelines` names it, so that `pipeline("point-cloud-classification", model=FOLDER,
trust_remote_code=True)` takes it.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from transformers import Pipeline

from .point_cloud_processing_perceiver_study import is_row
from .scalars import as_list

_ACTIVATIONS = ("softmax", "sigmoid", "none")


def listed(inputs: Any = None, axes: int | None = None) -> Any:
    """What a pipeline is given, with a column of a table or an array of several samples as the list that it is.

    transformers takes one for a single sample, such as two recordings for one with two channels.

    Args:
        axes: of an array or a tensor that is one sample; one with an axis more holds several. None has none of those.

    Raises:
        ValueError: there are no samples.
    """
    if axes is not None and getattr(inputs, "ndim", 0) == axes + 1:
        inputs = list(inputs)
    inputs = list(inputs) if isinstance(inputs, tuple) else as_list(inputs)
    if isinstance(inputs, list) and not inputs:
        raise ValueError(f"inputs={inputs!r}: expected at least one sample.")
    return inputs


def only_one(made: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a processor made of one item of a pipeline, which answers each item once.

    Raises:
        ValueError: the item was several samples, or none.
    """
    require_one(len(next(iter(made.values()))))
    return made


def require_one(count: int):
    """Raise a ValueError unless an item of a pipeline is one sample."""
    if count != 1:
        raise ValueError(f"An item of inputs holds {count} samples: expected one, as in [sample, sample].")


class Answers:
    """What all pipelines of classifiers share: how many answers they give, and how scores come from logits.

    It stands before the class of transformers that knows the kind of sample, whose own answers differ by kind.

    Attributes:
        reading: names of what else may be given, arguments of `preprocess`.
    """

    reading: tuple[str, ...] = ()

    def __call__(self, *args, **kwargs):
        """See the class of transformers. Raises a ValueError where the model answers several tasks."""
        if tasks := self.model.config.tasks:
            raise ValueError(
                f"The model answers several tasks, {', '.join(tasks)}, and a pipeline one: make it of "
                f"model.for_task({next(iter(tasks))!r}), or of another task."
            )
        return super().__call__(*args, **kwargs)

    def _sanitize_parameters(self, **given) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What is given and nothing else, since a call overrides with it what the pipeline was made with.

        Raises:
            ValueError: an argument is unknown, or has another value than `HeadPipeline.__call__` says.
        """
        given.pop("local_files_only", None)  # which pipeline() has done by then
        answering = ("top_k", "function_to_apply")
        for name in given:
            if name not in (*answering, *self.reading):
                raise ValueError(f"{name}: expected {', '.join((*answering, *self.reading))}.")
        answers = {name: given[name] for name in answering if name in given}
        top_k, function = answers.get("top_k"), answers.get("function_to_apply")
        if top_k is not None and (not isinstance(top_k, Integral) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"top_k={top_k!r}: expected None or a whole number of at least 1.")
        if function is not None:
            name = str(getattr(function, "value", function)).lower()  # as transformers reads it of images
            if name not in _ACTIVATIONS:
                expected = ", ".join(map(repr, _ACTIVATIONS))
                raise ValueError(f"function_to_apply={function!r}: expected one of {expected}.")
            answers["function_to_apply"] = name
        return {name: given[name] for name in self.reading if given.get(name) is not None}, {}, answers

    def postprocess(self, outputs, top_k: int | None = 5, function_to_apply: str | None = None) -> list[dict]:
        config = self.model.config
        if function_to_apply is None:
            by_problem = {"regression": "none", "multi_label_classification": "sigmoid"}
            otherwise = "sigmoid" if config.num_labels == 1 else "softmax"  # which is 1 of a single one, whatever it is
            function_to_apply = by_problem.get(config.problem_type, otherwise)
        logits = outputs.logits[0].float()
        scores = {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid(), "none": logits}[function_to_apply]
        best = scores.topk(len(scores) if top_k is None else min(top_k, len(scores)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{"label": config.id2label[label], "score": score} for score, label in pairs]


class HeadPipeline(Answers, Pipeline):
    """Classes of samples of a kind that transformers knows no head for.

    transformers loads the model of a pipeline with one of its own Auto classes, so the bare model that `AutoModel`
    gives gets the rest of the classifier from the same files.

    Raises:
        ValueError: a bare model was loaded from nowhere, or from where there is no classifier.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, *args, **kwargs):
        if not hasattr(model, "classifier"):
            model = _load(self.head(), model)
        super().__init__(model, *args, **kwargs)

    @staticmethod
    def head() -> type:
        """The classifier; a function, as its file imports this one."""
        raise NotImplementedError

    def __call__(self, inputs, **kwargs):
        """Answers for each sample, the likeliest first: dicts of `label` and `score`.

        Args:
            inputs: a sample as the processor takes it, or a list of such.
            kwargs: `top_k`, how many answers, 5 if left out and all with None; `function_to_apply`, `"softmax"`,
                `"sigmoid"` or `"none"`, by `config.problem_type` if left out or None, and of a single class never
                `"softmax"`; `batch_size` and others of transformers.
        """
        return super().__call__(listed(inputs), **kwargs)

    def _forward(self, model_inputs):
        return self.model(**model_inputs)


class PerceiverStudyPointCloudClassificationPipeline(HeadPipeline):
    """Classes of clouds of points: what the processor takes, one cloud or a list of them.

    A cloud is an array, a tensor or a list of rows `(m, A + C)`, or a file in any form; several are a list or a batch.
    """

    _load_feature_extractor = True

    @staticmethod
    def head() -> type:
        from .modeling_perceiver_study import PerceiverStudyForPointCloudClassification

        return PerceiverStudyForPointCloudClassification

    def __call__(self, inputs, **kwargs):
        inputs = listed(inputs, axes=2)
        if isinstance(inputs, list) and is_row(inputs[0]):
            return super().__call__([inputs], **kwargs)[0]
        return super().__call__(inputs, **kwargs)

    def preprocess(self, cloud: Any) -> Mapping[str, Any]:
        """One cloud. Coordinates stay in float32, whatever the model's dtype is."""
        return only_one(self.feature_extractor(cloud, return_tensors="pt"))


def _load(kind: type, model):
    """The classifier whose latents this bare model makes; what else it needs comes from where the model was loaded."""
    if not model.name_or_path:
        raise ValueError(
            f"The model is a bare {type(model).__name__}: it has no classifier, and was loaded from no folder that "
            f"could have one. Expected a {kind.__name__}."
        )
    arguments = {
        "config": model.config,
        "dtype": model.dtype,
        "revision": getattr(model.config, "_commit_hash", None) or "main",
        "output_loading_info": True,
        **model.loaded_with,
        "local_files_only": True,  # they came with the bare model, maybe with a token that is not known here
    }
    if parted := bool(getattr(model, "hf_device_map", None)):  # parts of it lie elsewhere, where only loading puts them
        arguments["device_map"] = "auto"
    classifier, found = kind.from_pretrained(model.name_or_path, **arguments)
    if found["missing_keys"]:
        raise ValueError(
            f"{model.name_or_path} holds a model without {', '.join(sorted(found['missing_keys']))}: expected a "
            f"{kind.__name__}."
        )
    if not parted:
        classifier = classifier.to(model.device)
        setattr(classifier, classifier.base_model_prefix, model)
    return classifier


__all__ = ["PerceiverStudyPointCloudClassificationPipeline"]
