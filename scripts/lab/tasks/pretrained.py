"""The checkpoint that a recipe starts from (its key `pretrained`), and what of it comes along.

Settings come first, since the task is made from them: the architecture and those of the processor, which the recipe may
override. Weights come when the model is built. Weights of the head that do not fit are made anew, and learned positions
of another grid are resampled. Anything else that does not fit is an error.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging
from transformers.utils.hub import cached_file, extract_commit_hash

from lab.checkpoint_names import check_checkpoint
from lab.errors import UserError, one_line
from lab.recipe import Recipe, architecture_keys
from modeling_perceiver_study import PerceiverStudyConfig
from modeling_perceiver_study.grid import LearnedPositions

PRETRAINED = "pretrained.json"  # in the folder of a run: what it started from, so that `--resume` needs no checkpoint
_MOST_NAMED = 5
_FEWER = ("training_latents", "training_blocks")


@dataclasses.dataclass
class Pretrained:
    """A checkpoint to start from.

    Attributes:
        name: a folder or a name on the Hub, as the recipe has it.
        revision: the commit on the Hub; None for a folder.
        architecture: what a configuration needs to build the same layers, with frequencies as the numbers that the
            weights were trained with, whatever the image size.
        label_names: in the order of its logits.
        processor: settings of its processor.
        made_anew: names of the weights that training starts with fresh; known once `load` was called.
        resampled: names of tables of learned positions for another grid than the checkpoint's; likewise.
    """

    name: str
    revision: str | None
    architecture: dict[str, Any]
    label_names: list[str]
    processor: dict[str, Any]
    made_anew: list[str] = dataclasses.field(default_factory=list)
    resampled: list[str] = dataclasses.field(default_factory=list)

    @property
    def config(self) -> PerceiverStudyConfig:
        """The architecture as a configuration."""
        return PerceiverStudyConfig(**self.architecture)

    @property
    def origin(self) -> dict[str, Any]:
        """What the metrics of a run say of it."""
        return {name: getattr(self, name) for name in ("name", "revision", "made_anew", "resampled")}

    def to_json(self) -> str:
        """JSON for the file `PRETRAINED`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def describe(self, config: PreTrainedConfig) -> str:
        """One line on what comes along to a model of this configuration, and what does not."""
        parts = [f"starting from {self.name}"]
        for what, names in (("made anew", self.made_anew), ("resampled", self.resampled)):
            if names:
                parts.append(f"{what}: {', '.join(names)}")
        if changed := self._changes(config):
            parts.append(f"other than in the checkpoint: {changed}")
        if fewer := [f"model.{name}={getattr(config, name)}" for name in _FEWER if getattr(config, name, None)]:
            parts.append(f"in training steps {' and '.join(fewer)}; null computes all")
        return "; ".join(parts)

    def load(self, model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
        """The model of a configuration with the weights of the checkpoint, in float32.

        Raises:
            UserError: they cannot be read from safetensors, or others than those of the head do not fit.
        """
        model, report = self._read(model_class, config=config)
        mismatched = {name: shapes for name, *shapes in report["mismatched_keys"]}
        tables = [
            name
            for name, (old, new) in mismatched.items()
            if isinstance(_module(model, name), LearnedPositions) and old[1:] == new[1:]
        ]
        if tables:
            self._resample(tables, model)
        reasons = {
            name: f"{tuple(old)} in the checkpoint, {tuple(new)} here" for name, (old, new) in mismatched.items()
        }
        reasons |= dict.fromkeys(report["missing_keys"], "not in the checkpoint")
        reasons |= dict.fromkeys(report["unexpected_keys"], "not in this model")
        inner = dict(model.base_model.named_children())
        prefix = f"{model.base_model_prefix}."
        unfit = {
            name: reason
            for name, reason in sorted(reasons.items())
            if name.removeprefix(prefix).partition(".")[0] in inner and name not in tables
        }
        if unfit:
            raise UserError(self._explain(unfit, config))
        self.made_anew = sorted((mismatched.keys() | report["missing_keys"]) - set(tables))
        self.resampled = sorted(tables)
        # They lie in the file, at addresses with which products round otherwise than after a resume.
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return model

    def _read(self, model_class: type[PreTrainedModel], **arguments) -> tuple[PreTrainedModel, dict]:
        with _named_errors(self.name), _quiet():
            return model_class.from_pretrained(
                self.name,
                revision=self.revision or "main",
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **arguments,
            )

    def _resample(self, tables: list[str], model: PreTrainedModel):
        old, _ = self._read(type(model))  # with its own grid
        for name in tables:
            positions, wanted = _module(old, name), _module(model, name)
            positions.projection = None  # the table, not what is made of it
            with torch.no_grad(), _named_errors(self.name):
                wanted.weight.copy_(positions(wanted.grid)[0])

    def _changes(self, config: PreTrainedConfig) -> str:
        here = config.to_dict()
        changed = [
            f"model.{key}={here[key]} (the checkpoint has {value})"
            for key, value in json.loads(json.dumps(self.architecture)).items()
            if json.loads(json.dumps(here.get(key))) != value
        ]
        return ", ".join(changed)

    def _explain(self, unfit: dict[str, str], config: PreTrainedConfig) -> str:
        named = [f"{name} ({reason})" for name, reason in list(unfit.items())[:_MOST_NAMED]]
        more = f" and {len(unfit) - len(named)} more" if len(unfit) > len(named) else ""
        changed = self._changes(config)
        why = f"The recipe says {changed}: leave out what the weights do not fit" if changed else "It is not whole"
        return f"pretrained={self.name}: weights do not fit the model: {', '.join(named)}{more}. {why}"


def open_pretrained(
    recipe: Recipe,
    processor_class: type,
    resume: bool = False,
    config_class: type[PerceiverStudyConfig] = PerceiverStudyConfig,
) -> Pretrained | None:
    """What the recipe starts from, without its weights; None where that is nothing.

    Args:
        resume: settings are those that the run in `output_dir` began with, if there is one.

    Raises:
        UserError: the checkpoint cannot be read, or holds another kind of model.
    """
    if recipe.pretrained is None:
        return None
    kept = Path(recipe.output_dir) / PRETRAINED
    if resume and kept.exists():
        found = Pretrained(**json.loads(kept.read_text(encoding="utf-8")))
        if found.name == recipe.pretrained:
            return found
    name = recipe.pretrained
    with _named_errors(name), _quiet():
        check_checkpoint(name)
        file = cached_file(name, "config.json")
        revision = None if Path(name).is_dir() else extract_commit_hash(file, None)
        pinned = {"revision": revision or "main"}
        settings, _ = PerceiverStudyConfig.get_config_dict(name, **pinned)
        if settings.get("model_type") != config_class.model_type:
            raise UserError(
                f"it holds a {settings.get('model_type')} model; expected {config_class.model_type} "
                "(scripts/convert.py makes one of transformers' Perceivers)"
            )
        config = config_class.from_pretrained(name, **pinned)
        processor = processor_class.from_pretrained(name, **pinned)
    architecture = {key: getattr(config, key) for key in architecture_keys(config_class)}
    if config.problem_type is not None:
        architecture["problem_type"] = config.problem_type
    names = [config.id2label[label] for label in range(config.num_labels)]
    return Pretrained(name, revision, architecture, names, settings_of(processor))


def settings_of(processor: Any) -> dict[str, Any]:
    """What a processor does, as JSON has it; of a tokenizer what a recipe may say of it."""
    if hasattr(processor, "to_json_string"):
        return json.loads(processor.to_json_string())
    return {"model_max_length": processor.model_max_length}  # a tokenizer


def _module(model: PreTrainedModel, weight: str) -> torch.nn.Module:
    return model.get_submodule(weight.rpartition(".")[0])


@contextlib.contextmanager
def _named_errors(name: str):
    try:
        yield
    except (UserError, OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"pretrained={name} cannot be loaded: {one_line(error)}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report of what did not fit: it is said in one line."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
