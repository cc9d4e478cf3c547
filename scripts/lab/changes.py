"""Which keys of a recipe may change between two parts of one run: the only place that says so.

Every key is in the table; tests/lab/test_changes.py sees to that. A run is resumed with another value of a key that is
`FREE` without a word, since what is trained stays as it is; of one that is `ACCEPTED` with `--accept_changes`; and of
any other not at all, for the reason that stands there.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

PLACES = ("data.name", "data.path")  # where data lie; the samples themselves are compared
FREE = "free"
ACCEPTED = "accepted"

_OTHER_MODEL = "the weights that the run has are those of another model"
_OTHER_SAMPLES = "it decides which samples are learned and judged, so scores of epochs would not compare"
_OTHER_READING = "the best weights so far were chosen by what it made of the samples"
_OTHER_ORDER = "it decides in which order samples come, so an epoch would have some twice and others not at all"
_OTHER_GROUPS = "the state of the optimiser is that of other groups of weights"

# Keys and their verdicts; `*` is any key of a section, and the first line that fits a key counts.
_VERDICTS = {
    "task": _OTHER_MODEL,
    "output_dir": FREE,
    "seed": _OTHER_ORDER,
    "pretrained": "the run has left that checkpoint behind",
    "model.attention_probs_dropout_prob": ACCEPTED,
    "model.classifier_dropout": ACCEPTED,
    "model.cross_attend_path": ACCEPTED,  # the same numbers
    "model.modality_dropout": ACCEPTED,
    "model.training_blocks": ACCEPTED,
    "model.training_latents": ACCEPTED,
    "model.initializer_range": "it is for fresh weights, and the run has its own",
    "model.local_start_*": "it is for fresh weights, and the run has its own",
    "model.*": _OTHER_MODEL,
    "feature_extractor.*": _OTHER_READING,
    "image_processor.*": _OTHER_READING,
    "tokenizer.*": _OTHER_READING,
    # The samples themselves are compared when they have been read.
    "data.name": ACCEPTED,
    "data.path": ACCEPTED,
    "data.title": FREE,
    "data.train_split": _OTHER_SAMPLES,
    "data.test_split": ACCEPTED,  # read once, at the end
    "data.label_column": _OTHER_SAMPLES,
    "data.text_column": _OTHER_SAMPLES,
    "data.columns": _OTHER_SAMPLES,
    "data.hold_out": _OTHER_SAMPLES,
    "data.validate_on": _OTHER_SAMPLES,
    "data.withhold": _OTHER_SAMPLES,
    "data.validation_samples": _OTHER_SAMPLES,
    "data.train_samples": _OTHER_SAMPLES,
    "data.split_seed": _OTHER_SAMPLES,
    "data.max_memory_gb": FREE,
    "data.cache_dir": FREE,
    "data.on_error": ACCEPTED,
    "data.streaming": _OTHER_ORDER,
    "data.workers": FREE,
    "data.shuffle_buffer": _OTHER_ORDER,
    "augmentation.*": ACCEPTED,
    "optimization.epochs": ACCEPTED,
    "optimization.batch_size": ACCEPTED,
    "optimization.gradient_accumulation_steps": ACCEPTED,
    "optimization.optimizer": "the state of one optimiser is of no use to the other",
    "optimization.learning_rate": ACCEPTED,
    "optimization.weight_decay": ACCEPTED,
    "optimization.warmup": ACCEPTED,
    "optimization.max_gradient_norm": ACCEPTED,
    "optimization.freeze": _OTHER_GROUPS,
    "optimization.layer_decay": _OTHER_GROUPS,
    "optimization.label_smoothing": ACCEPTED,
    "optimization.class_weights": ACCEPTED,
    "optimization.ema_decay": ACCEPTED,
    "optimization.mixed_precision": ACCEPTED,
    "optimization.matmul_precision": ACCEPTED,
    "optimization.compile": ACCEPTED,
    "optimization.gradient_checkpointing": ACCEPTED,
    "optimization.find_parts": FREE,
    "optimization.deterministic": ACCEPTED,
    "optimization.cpu_threads": FREE,
    "checkpoint.*": FREE,
    "logging.*": FREE,
}
# Of some tasks, before these.
_VERDICTS_OF = {
    "masked-lm": {
        "augmentation.*": "it decides which bytes of the validation texts are asked for, so scores would not compare"
    }
}
_UNKNOWN = "nothing is known of what that would do"


def verdict(key: str, task: str | None = None) -> str:
    """`FREE`, `ACCEPTED`, or why a run of a task cannot be resumed with another value of a dotted key."""
    verdicts = [*_VERDICTS_OF.get(task, {}).items(), *_VERDICTS.items()]
    return next((verdict for pattern, verdict in verdicts if fnmatchcase(key, pattern)), _UNKNOWN)


def refusals(keys: Iterable[str], task: str | None = None) -> list[str]:
    """Such as `seed (it decides ...)`, for those of some changed keys that must not change in a run of a task."""
    verdicts = {key: verdict(key, task) for key in keys}
    return [f"{key} ({reason})" for key, reason in verdicts.items() if reason not in (FREE, ACCEPTED)]
