"""What tasks on texts share: their model, their tokenizer, and ids of bytes as a model takes them."""

import dataclasses
from typing import Any

import numpy as np
import torch

from lab.errors import UserError
from lab.looking.text_view import TextView
from lab.recipe import Recipe, build, require_keys
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyTokenizer

TOKENIZER_KEYS = ("model_max_length",)


def bytes_config(recipe: Recipe) -> PerceiverStudyConfig:
    """The configuration that a recipe describes, of a model that takes bytes."""
    config = build("model", PerceiverStudyConfig, {"input_type": "bytes"} | recipe.model)
    if config.input_type != "bytes":
        raise UserError(f"model.input_type={config.input_type}: expected bytes, or a task for that kind of input")
    return config


def build_tokenizer(
    recipe: Recipe, config: PerceiverStudyConfig, more_keys: tuple[str, ...] = ()
) -> PerceiverStudyTokenizer:
    """The tokenizer: cuts texts to what the model takes, or to less where the recipe says so."""
    require_keys("tokenizer", recipe.tokenizer, (*TOKENIZER_KEYS, *more_keys))
    most = config.max_position_embeddings
    length = recipe.tokenizer.get("model_max_length", most)
    if not isinstance(length, int) or isinstance(length, bool) or not 3 <= length <= most:
        raise UserError(
            f"tokenizer.model_max_length={length}: expected 3 to {most}, as model.max_position_embeddings={most}"
        )
    return PerceiverStudyTokenizer(model_max_length=length)


def byte_elements(config: PerceiverStudyConfig) -> str:
    """What latents look at, for model cards."""
    sizes = ", ".join(str(abs(size)) for size in config.ngram_sizes or ())
    return f"bytes, each with embeddings of the runs of {sizes} bytes beside it," if sizes else "bytes"


def inherit_tokenizer(recipe: Recipe, found: dict[str, Any]) -> Recipe:
    """The recipe, with settings of a checkpoint's tokenizer where it says nothing."""
    settings = {key: found[key] for key in TOKENIZER_KEYS if key in found}
    if "max_position_embeddings" in recipe.model:
        settings["model_max_length"] = min(settings["model_max_length"], recipe.model["max_position_embeddings"])
    return dataclasses.replace(recipe, tokenizer=settings | recipe.tokenizer)


def as_text(sample: np.ndarray, tokenizer: PerceiverStudyTokenizer) -> str:
    """`(l,) ->` the text of a sample, cut between characters to what the model takes, as a file is."""
    return TextView.take({TextView.sample: tokenizer.decode(sample.tolist())}, tokenizer)


def with_special_tokens(
    values: torch.Tensor, lengths: torch.Tensor, tokenizer: PerceiverStudyTokenizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(b, L), (b,) -> (b, M), (b,)`: ids as the tokenizer gives them, `[CLS]`, as much as fits, and `[SEP]`."""
    lengths = lengths.clamp(max=tokenizer.model_max_length - 2)
    longest = int(lengths.max())
    ids = torch.full((len(values), longest + 2), tokenizer.pad_token_id, dtype=torch.long, device=values.device)
    ids[:, 1 : longest + 1] = values[:, :longest]
    places = torch.arange(longest + 2, device=values.device)
    ids[places > lengths[:, None]] = tokenizer.pad_token_id
    ids[:, 0] = tokenizer.cls_token_id
    ids.scatter_(1, lengths[:, None] + 1, tokenizer.sep_token_id)
    return ids, lengths + 2
