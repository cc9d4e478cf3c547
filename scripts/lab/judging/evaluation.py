"""What scoring a checkpoint needs: the model itself, its classes matched with those of the data, and its scores."""

from collections import Counter

import numpy as np

from lab.errors import UserError, one_line
from lab.judging.predictions import Predictions
from lab.judging.scores import calibrate
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForImageClassification,
    PerceiverStudyImageProcessor,
)


def all_scores(predictions: Predictions) -> dict[str, float]:
    """Accuracy, top-k accuracy, cross-entropy and calibration error.

    Raises:
        UserError: the model gave what is no number.
    """
    broken = ~np.isfinite(predictions.loss)
    if broken.any():
        raise UserError(
            f"{broken.sum()} of {len(broken)} images have logits that are no finite numbers: try another --dtype, "
            "such as bfloat16 or float32"
        )
    right = predictions.top[:, 0] == predictions.labels
    error = calibrate(predictions.confidence, right).error
    return {**predictions.scores(), "expected_calibration_error": error}


def load_model(
    checkpoint: str, dtype: str
) -> tuple[PerceiverStudyForImageClassification, PerceiverStudyImageProcessor]:
    """The model, from safetensors alone, and its image processor.

    Raises:
        UserError: they cannot be loaded, are of another kind, or some weights are missing.
    """
    try:
        kind = PerceiverStudyConfig.get_config_dict(checkpoint)[0].get("model_type")
        if kind != PerceiverStudyConfig.model_type:
            raise UserError(f"{checkpoint} holds a {kind} model; expected {PerceiverStudyConfig.model_type}")
        processor = PerceiverStudyImageProcessor.from_pretrained(checkpoint)
        model, found = PerceiverStudyForImageClassification.from_pretrained(
            checkpoint, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}") from None
    if found["missing_keys"]:
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise UserError(
            f"{checkpoint} is no whole classifier: {len(found['missing_keys'])} weights are missing ({missing})"
        )
    return model, processor


def match_labels(of_data: list[str], of_model: list[str], by_number: bool) -> np.ndarray:
    """`(len(of_data),)` int64: the model's number for each class of the data, found by name where both have names.

    Raises:
        UserError: the data has a class that the model has not.
    """
    numbered = [str(number) for number in range(len(of_data))]
    unnamed = [f"LABEL_{number}" for number in range(len(of_model))]
    if by_number or of_data in (of_model, numbered) or of_model == unnamed:
        if len(of_data) > len(of_model):
            raise UserError(f"the data has {len(of_data)} classes, but the model knows {len(of_model)}")
        return np.arange(len(of_data))
    times = Counter(of_model)
    known = {name: number for number, name in enumerate(of_model) if times[name] == 1}
    unknown = [name for name in of_data if name not in known]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} and {len(unknown) - 1} more classes of the data are not among those of the model "
            f"({', '.join(of_model[:3])}, ...): choose other --data, or --match_by_number if only the names differ"
        )
    return np.array([known[name] for name in of_data])
