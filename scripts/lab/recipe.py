"""A recipe: defaults, then one YAML file, then `key=value` overrides, all checked before anything runs.

The dataclasses below list every key there is, apart from those of `model:` and of the processor, which go verbatim to
`PerceiverStudyConfig` and to the processor of the task, and those of `augmentation:`, which the task has.
"""

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from huggingface_hub.errors import StrictDataclassError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import PreTrainedConfig

from lab.changes import FREE, verdict
from lab.errors import UserError, one_line
from lab.layers import CONFIGURATION_FOLDER, forget, read_file, texts_in
from lab.places import place
from modeling_perceiver_study import PerceiverStudyConfig

DEFAULT_RECIPE = CONFIGURATION_FOLDER / "digits.yaml"


@dataclasses.dataclass
class Data:
    """Samples, and how they are split."""

    name: str | None = None  # `digits`, or the name of a dataset on the Hub
    path: str | None = None  # a local folder; wins over the name
    title: str | None = None  # what reports and cards call the data; null is its name
    train_split: str = "train"
    test_split: str | None = "test"  # read once, after training; null while choosing between recipes: never
    label_column: str | None = None  # null is the only column of class labels; or `data.columns.label`
    text_column: str | None = None  # null is the only column of texts; or `data.columns.text`
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)  # such as image: photo, label: [width, height]
    # Rows of any split with a value in a column, such as {speaker: theo}, are for testing, all others for training.
    hold_out: dict[str, Any] = dataclasses.field(default_factory=dict)
    validate_on: dict[str, Any] = dataclasses.field(default_factory=dict)  # likewise, instead of validation_samples
    validation_samples: int = 1000  # carved from the train split, stratified; 0 trains on all and keeps the last epoch
    train_samples: int | None = None  # train on so many of the remaining images, stratified; null is all
    split_seed: int = 0  # not `seed`, so that runs with several seeds share their splits
    max_memory_gb: float = 8.0  # decoded images beyond this are memory-mapped from `cache_dir`
    cache_dir: str | None = None  # null is a folder inside the cache of `datasets`
    withhold: list[str] = dataclasses.field(default_factory=list)  # modalities that samples have and no model is shown
    on_error: str = "raise"  # at a broken image or a label out of range; `skip` leaves them out and says how many
    streaming: bool = False  # read training images from shards as they are needed; needs train_samples
    workers: int = 0  # processes that read and decode samples ahead, where those are not in memory; 0 is threads
    shuffle_buffer: int = 10000  # samples, still encoded, from which a streaming process draws

    @property
    def validates(self) -> bool:
        """Whether samples are left out of training to choose the best epoch by."""
        return self.validation_samples > 0 or bool(self.validate_on)

    @property
    def called(self) -> str:
        """What to call the data where a path may be told."""
        return self.title or self.path or self.name


@dataclasses.dataclass
class Optimization:
    """Linear warm-up and cosine decay to zero."""

    epochs: int = 10
    batch_size: int = 128  # images per optimiser step, over all processes and accumulated parts
    gradient_accumulation_steps: int = 1  # parts that each batch is cut into
    optimizer: str = "adamw"  # or muon, for the matrices between layers; AdamW then has the rest
    learning_rate: float = 1e-3
    weight_decay: float = 0.05  # on the weights of linear layers alone
    warmup: float = 0.05  # share of all steps
    max_gradient_norm: float | None = 1.0  # null does not clip
    freeze: list[str] = dataclasses.field(default_factory=list)  # patterns of names of weights that stay, `perceiver.*`
    layer_decay: float | None = None  # each layer learns at so many times the rate of the one after it; null is 1
    label_smoothing: float = 0.0
    class_weights: Any = None  # `balanced`, or a number for each class, that its samples count in the loss; null is 1
    ema_decay: float | None = None  # judge and keep a moving average of the weights, such as 0.999; null keeps them
    mixed_precision: str = "no"  # auto is bf16 where that is fast and no elsewhere, or fp16; weights stay float32
    matmul_precision: str = "highest"  # of float32 products, highest, high or medium: see docs/training.md
    compile: bool = False  # with torch.compile
    gradient_checkpointing: bool = False  # less memory for a second forward pass
    find_parts: bool = False  # more accumulation steps until a part fits into memory; the step stays that of the batch
    deterministic: bool = False  # refuse operations whose result varies from run to run
    cpu_threads: int | None = None  # without a GPU, per process; null shares out all cores


@dataclasses.dataclass
class Checkpoint:
    """What `--resume` continues from."""

    every_steps: int = 500  # 0 writes none
    keep_last: int = 2


@dataclasses.dataclass
class Logging:
    """What is written down while training."""

    every_steps: int = 50
    log_with: str | None = "auto"  # a tracker known to accelerate, such as wandb; auto is tensorboard where installed
    project: str = "perceiver-study"  # what trackers call a set of runs
    run_name: str | None = None  # what they call this one; null leaves it to them


@dataclasses.dataclass
class Recipe:
    """Everything that decides a training run."""

    task: str = "image-classification"  # lab/tasks has all
    output_dir: str = "output"
    seed: int = 0
    pretrained: str | None = None  # a folder or a name on the Hub to start from; `model:` then only says what differs
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_processor: dict[str, Any] = dataclasses.field(default_factory=dict)  # of pictures
    feature_extractor: dict[str, Any] = dataclasses.field(default_factory=dict)  # of sound and points
    tokenizer: dict[str, Any] = dataclasses.field(default_factory=dict)  # of texts
    data: Data = dataclasses.field(default_factory=Data)
    augmentation: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    logging: Logging = dataclasses.field(default_factory=Logging)


_SECTIONS = [field.name for field in dataclasses.fields(Recipe) if field.default_factory is not dataclasses.MISSING]

_TEXT = (str, str | None)
_NULL = ("null", "Null", "NULL", "~")  # as YAML has it

Section = TypeVar("Section")
Range = tuple[float, float | None]

# (lowest, highest) allowed value of a key; the second is None where there is no upper end.
_RANGES: dict[str, Range] = {
    "seed": (0, 2**32 - 1),  # as numpy has it
    "data.validation_samples": (0, None),
    "data.train_samples": (1, None),
    "data.split_seed": (0, None),
    "data.max_memory_gb": (0, None),
    "data.workers": (0, None),
    "data.shuffle_buffer": (1, None),
    "optimization.epochs": (1, None),
    "optimization.batch_size": (1, None),
    "optimization.gradient_accumulation_steps": (1, None),
    "optimization.learning_rate": (0, None),
    "optimization.weight_decay": (0, None),
    "optimization.warmup": (0, 1),
    "optimization.max_gradient_norm": (0, None),
    "optimization.layer_decay": (0, 1),
    "optimization.label_smoothing": (0, 1),
    "optimization.ema_decay": (0, 1),
    "optimization.cpu_threads": (1, None),
    "checkpoint.every_steps": (0, None),
    "checkpoint.keep_last": (1, None),
    "logging.every_steps": (1, None),
}
# Keys that say where something is.
_PLACES = ("output_dir", "pretrained", "data.path", "data.cache_dir")

PROCESSOR_SECTIONS = ("image_processor", "feature_extractor", "tokenizer")
# Sections whose keys a task knows.
_OF_TASKS = tuple(f"{section}." for section in (*PROCESSOR_SECTIONS, "augmentation"))

_CHOICES = {
    "optimization.optimizer": ("adamw", "muon"),
    "optimization.mixed_precision": ("auto", "no", "bf16", "fp16"),
    "optimization.matmul_precision": ("highest", "high", "medium"),
    "data.on_error": ("raise", "skip"),
}


def load_recipe(path: str | Path | None, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Merge the recipe file at `path`, if any, and `overrides` (`"section.key=value"`) into the defaults.

    Values of overrides are YAML, but texts are taken as they are unless they are in quotes, so that paths may contain
    what has a meaning in YAML. `~` in paths is the home folder.

    Raises:
        UserError: no such file, no YAML, an unknown key (names the nearest one), a value of a wrong type or range.
    """
    merged = OmegaConf.structured(Recipe)
    path = None if path is None else place(str(path))
    layers = [] if path is None else [(str(path), read_file(path, _SECTIONS))]
    layers += [(text, _read_override(text)) for text in overrides]
    tasks = [str(layer["task"]) for _, layer in layers if "task" in layer]
    # A task from outside (`module:Class`) may have a configuration of its own, whose fields it checks by itself.
    unchecked = (*_OF_TASKS, "model.") if tasks and ":" in tasks[-1] else _OF_TASKS
    known = _known_keys()
    for source, layer in layers:
        for key in _flat_keys(layer):
            if key not in known and not key.startswith(unchecked):
                raise UserError(f"unknown key {key!r} in {source}; the nearest is {_nearest(key, known)!r}")
        if any("${" in text for text in texts_in(layer)):
            raise UserError(
                f"{source} has ${{ in a text, which stands for something else in recipes: write it otherwise"
            )
        try:
            if source in overrides:
                forget(merged, source.partition("=")[0], layer)
            merged.merge_with(layer)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            reason = "expected a list, such as [a, b]" if "is not a ListConfig" in reason else reason
            raise UserError(f"{error.full_key or 'a section'} in {source}: {reason}") from None
    try:
        recipe = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    # An unquoted `no` is YAML for False.
    if recipe.optimization.mixed_precision == "False":
        recipe.optimization.mixed_precision = "no"
    _expand_places(recipe)
    _check_values(recipe)
    return recipe


def parse_command_line(description: str, arguments: list[str] | None = None) -> tuple[Recipe, argparse.Namespace]:
    """The recipe that the command line asks for, and its flags `resume`, `accept_changes`, `push_to_hub`, `private`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", default=DEFAULT_RECIPE, metavar="PATH", help="recipe (default: digits)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in output_dir")
    parser.add_argument("--accept_changes", action="store_true", help="resume although the recipe is another")
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="publish at the end, as scripts/publish.py does")
    parser.add_argument("--private", action="store_true", help="with --push_to_hub: let nobody else see it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as optimization.epochs=5")
    options = parser.parse_intermixed_args(arguments)
    return load_recipe(options.config, options.overrides), options


def recipe_to_yaml(recipe: Recipe) -> str:
    """YAML that `load_recipe` turns into an equal recipe."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted keys and their values."""
    flat = {}
    for name, value in dataclasses.asdict(recipe).items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def differences(old: Recipe, new: Recipe) -> dict[str, str]:
    """Lines such as `seed: 0 -> 1` by key, for every key that changes what is trained."""
    before, after = effective(old), effective(new)
    return {
        key: f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in before | after
        if before.get(key) != after.get(key)
    }


def effective(recipe: Recipe) -> dict[str, Any]:
    """What `flatten` gives, less the keys that do not change what is trained."""
    return {key: value for key, value in flatten(recipe).items() if verdict(key) != FREE}


def chosen(settings: dict[str, Any]) -> dict[str, Any]:
    """What differs from the defaults in what `effective` gave, which a new key with a default leaves as it was."""
    usual = effective(Recipe())
    return {key: value for key, value in settings.items() if key not in usual or value != usual[key]}


def build(section: str, kind: type, settings: dict[str, Any]) -> Any:
    """`kind(**settings)`, where what it refuses is a `UserError` that names the section."""
    try:
        return kind(**settings)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise UserError(f"section {section}: {one_line(error)}") from None


def typed(section: str, kind: type[Section], settings: dict[str, Any], ranges: dict[str, Range]) -> Section:
    """The settings of a section as a dataclass, checked like the sections that every recipe has."""
    require_keys(section, settings, [field.name for field in dataclasses.fields(kind)])
    try:
        values = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), settings))
    except OmegaConfBaseException as error:
        raise UserError(f"{section}.{error.full_key}: {str(error).splitlines()[0]}") from None
    for name, allowed in ranges.items():
        _check_range(f"{section}.{name}", getattr(values, name), allowed)
    return values


def require_keys(section: str, settings: dict[str, Any], known: Sequence[str]):
    """Raises a `UserError` for a key that a task does not know in one of its sections."""
    own = [f"{section}.{key}" for key in known]
    for key in settings:
        if key not in known:
            name = f"{section}.{key}"
            raise UserError(f"unknown key {name!r}; the nearest is {_nearest(name, [*own, *_known_keys()])!r}")


def architecture_keys(kind: type[PerceiverStudyConfig] = PerceiverStudyConfig) -> list[str]:
    """The fields of the model's configuration that are its own and not of all models."""
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return [field.name for field in dataclasses.fields(kind) if field.name not in inherited]


def _read_override(text: str) -> dict:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"cannot understand {text!r}; overrides look like optimization.epochs=5")
    if not value.strip():  # such as that of a variable of the shell that is not set
        raise UserError(f"{key}= has no value: give one, or {key}=null for none")
    section, dot, name = key.rpartition(".")
    if key in _text_keys() and not value.startswith(('"', "'")) and value not in _NULL:
        return {section: {name: value}} if dot else {name: value}
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([text]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"cannot understand {text!r}: {one_line(error)}") from None


def _text_keys() -> set[str]:
    """Dotted keys whose values are texts."""
    keys = set()
    for field in dataclasses.fields(Recipe):
        section = field.default_factory
        inner = dataclasses.fields(section) if dataclasses.is_dataclass(section) else []
        keys |= {f"{field.name}.{key.name}" for key in inner if key.type in _TEXT}
        keys |= {field.name} if field.type in _TEXT else set()
    return keys


def _expand_places(recipe: Recipe):
    for key in _PLACES:
        section, _, name = key.rpartition(".")
        owner = getattr(recipe, section) if section else recipe
        if (text := getattr(owner, name)) == "":  # which would be the folder that the command was started in
            raise UserError(f"{key} is an empty text: expected a path, or null")
        if text is not None:
            setattr(owner, name, str(place(text)))


def _known_keys() -> list[str]:
    """Every dotted key, those of the free sections included."""
    free = {"model": ["num_labels", "problem_type", *architecture_keys()]}
    keys = []
    for field in dataclasses.fields(Recipe):
        keys.append(field.name)
        section = field.default_factory
        names = [inner.name for inner in dataclasses.fields(section)] if dataclasses.is_dataclass(section) else []
        keys += [f"{field.name}.{name}" for name in [*names, *free.get(field.name, ())]]
    return keys


def _flat_keys(layer: dict) -> list[str]:
    """Dotted keys down to two levels, all that a recipe has; deeper values belong to a free section."""
    keys = []
    for key, value in layer.items():
        keys += [f"{key}.{inner}" for inner in value] if isinstance(value, dict) and value else [str(key)]
    return keys


def _nearest(key: str, known: list[str]) -> str:
    # A forgotten section is as likely as a slip of the finger, so last parts are compared as well.
    def likeness(candidate: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return max(whole, last), whole

    return max(known, key=likeness)


def _check_range(key: str, value: float | None, allowed: Range):
    low, high = allowed
    if value is not None and not (value >= low and (high is None or value <= high)):
        expected = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{key}={value}: expected a number {expected}")


def _check_values(recipe: Recipe):
    flat = flatten(recipe)
    for key, allowed in _RANGES.items():
        _check_range(key, flat[key], allowed)
    for key, choices in _CHOICES.items():
        if flat[key] not in choices:
            raise UserError(f"{key}={flat[key]}: expected one of {', '.join(choices)}")
    settings = recipe.optimization
    if not recipe.data.validates and (recipe.data.streaming or recipe.data.test_split is None):
        raise UserError("data.validation_samples=0 needs a data.test_split to judge by, and data.streaming=false")
    if settings.batch_size % settings.gradient_accumulation_steps:
        raise UserError(
            f"optimization.gradient_accumulation_steps={settings.gradient_accumulation_steps} does not divide "
            f"optimization.batch_size={settings.batch_size}; choose one that does"
        )
    if recipe.data.path and "::" in str(Path(recipe.data.path).resolve()):
        raise UserError(
            f"data.path={recipe.data.path}: `datasets` takes what follows `::` for the path of an archive; rename the "
            "folder"
        )
    if not recipe.data.name and not recipe.data.path:
        raise UserError("no data: give data.name (digits, or a name on the Hub) or data.path (a local folder)")
