"""Translation between models here and transformers' Perceivers for text: configurations, weights, tokenizers."""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PerceiverConfig, PerceiverTokenizer

from lab.errors import UserError
from lab.peers.deepmind import SHARED_FIELDS, names_in_layers, require_shape_of_any
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForMaskedLM,
    PerceiverStudyForSequenceClassification,
    PerceiverStudyTokenizer,
)

MODELS = {
    "PerceiverForMaskedLM": PerceiverStudyForMaskedLM,
    "PerceiverForSequenceClassification": PerceiverStudyForSequenceClassification,
}
# What is built into transformers' classes, as fields of ours.
_FIXED = {
    "input_type": "bytes",
    "num_cross_attends": 1,
    "ngram_sizes": None,
    "layer_norm_eps": 1e-5,  # the default of torch, since their layers ignore config.layer_norm_eps
}
_FIXED_OF = {
    "PerceiverForMaskedLM": {"masked_lm_queries": "positions"},
    "PerceiverForSequenceClassification": {"decoder_type": "query"},
}
_SHARED = (*SHARED_FIELDS, "vocab_size", "max_position_embeddings", "d_model")
# What tokenizers have in common beside their tokens.
_SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "split_special_tokens",
    "clean_up_tokenization_spaces",
)
_SPECIAL_TOKENS = ("pad_token", "bos_token", "eos_token", "mask_token", "cls_token", "sep_token")

# Arrays, modules and whole layers: our name, theirs.
_NAMES = {
    "perceiver.inputs": "perceiver.input_preprocessor",
    "perceiver.latents.weight": "perceiver.embeddings.latents",
    "perceiver.cross_attends.0": "perceiver.encoder.cross_attention",
    "perceiver.blocks.0": "perceiver.encoder.self_attends",
}
_NAMES_OF = {
    "PerceiverForMaskedLM": {
        "decoder.positions.query.weight": "perceiver.decoder.output_position_encodings.position_embeddings",
        "decoder.positions.layer": "perceiver.decoder.decoding_cross_attention",
        "decoder.bias": "embedding_decoder.bias",
    },
    "PerceiverForSequenceClassification": {
        "decoder.query.weight": "perceiver.decoder.decoder.output_position_encodings.position_embeddings",
        "decoder.layer": "perceiver.decoder.decoder.decoding_cross_attention",
        "classifier": "perceiver.decoder.decoder.final_layer",
    },
}


def their_text_name(architecture: str, name: str) -> str:
    """Return the name that a weight of our model has in the state dict of this class of transformers."""
    for ours, theirs in {**_NAMES, **_NAMES_OF[architecture]}.items():
        if name == ours or name.startswith(ours + "."):
            name = theirs + name.removeprefix(ours)
            break
    return names_in_layers(name)


def our_text_config(theirs: PerceiverConfig, architecture: str) -> PerceiverStudyConfig:
    """Return our configuration for a configuration of transformers.

    Raises:
        UserError: transformers accepts the configuration, but its model could not run.
    """
    try:
        fixed = {**_FIXED, **_FIXED_OF[architecture]}
        ours = PerceiverStudyConfig(**fixed, **{name: getattr(theirs, name) for name in _SHARED})
    except (ValueError, StrictDataclassError) as error:
        raise UserError(f"the configuration does not fit: {error}") from None
    require_shape_of_any(ours, architecture, [])
    return ours


def their_text_config(ours: PerceiverStudyConfig, architecture: str) -> PerceiverConfig:
    """Return the configuration of transformers for ours.

    Raises:
        UserError: this class of transformers does not fit; the message lists all obstacles.
    """
    obstacles = [
        f"{name}={getattr(ours, name)!r}, expected {fixed!r}"
        for name, fixed in {**_FIXED, **_FIXED_OF[architecture]}.items()
        if getattr(ours, name) != fixed
    ]
    require_shape_of_any(ours, architecture, obstacles)
    return PerceiverConfig(architectures=[architecture], **{name: getattr(ours, name) for name in _SHARED})


def our_tokenizer(theirs: PerceiverTokenizer) -> PerceiverStudyTokenizer:
    """Return a tokenizer that gives the same ids. Errors as those of `_tokenizer`."""
    return _tokenizer(PerceiverStudyTokenizer, theirs)


def their_tokenizer(ours: PerceiverStudyTokenizer) -> PerceiverTokenizer:
    """Return the tokenizer of transformers that gives the same ids. Errors as those of `_tokenizer`."""
    return _tokenizer(PerceiverTokenizer, ours)


def _tokenizer(kind: type, given: PerceiverTokenizer | PerceiverStudyTokenizer) -> Any:
    """A tokenizer of one kind with the tokens of another.

    Raises:
        UserError: it cannot have them.
    """
    added = given.added_tokens_decoder
    names = {name: str(added[number]) for number, name in enumerate(_SPECIAL_TOKENS)}
    current = {name: str(getattr(given, name)) for name in _SPECIAL_TOKENS}
    try:
        made = kind(**names, **{name: getattr(given, name) for name in _SETTINGS})
        made.add_tokens([token for number, token in sorted(added.items()) if number >= len(_SPECIAL_TOKENS)])
        for name in _SPECIAL_TOKENS:
            if current[name] != names[name]:
                setattr(made, name, current[name])
    except ValueError as error:
        raise UserError(f"the tokenizer does not fit: {error}") from None
    found = {number: str(token) for number, token in made.added_tokens_decoder.items()}
    if found != {number: str(token) for number, token in added.items()}:
        raise UserError(f"the tokenizer does not fit: its added tokens would be {found}")
    return made
