"""Translation between models here and transformers' Perceiver for images: configurations, weights, processors."""

from huggingface_hub.errors import StrictDataclassError
from transformers import PerceiverConfig, PerceiverImageProcessorPil

from lab.errors import UserError
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyImageProcessor

# What is built into transformers' classes, as fields of ours.
_FIXED = {
    "num_axes": 2,
    "num_channels": 3,
    "num_cross_attends": 1,
    "decoder_type": "query",
    "layer_norm_eps": 1e-5,  # the default of torch, since their layers ignore config.layer_norm_eps
}
ARCHITECTURES = {
    "PerceiverForImageClassificationFourier": {
        **_FIXED,
        "stem_type": "none",
        "position_encoding_type": "fourier",
        "num_frequency_bands": 64,
        "max_frequencies": 112.0,
        "concat_positions": True,
    },
    "PerceiverForImageClassificationLearned": {
        **_FIXED,
        "stem_type": "linear",
        "stem_channels": 256,
        "position_encoding_type": "learned",
        "learned_position_channels": 256,
        "project_learned_positions": True,
    },
    "PerceiverForImageClassificationConvProcessing": {
        **_FIXED,
        "stem_type": "conv",
        "stem_channels": 64,
        "position_encoding_type": "fourier",
        "num_frequency_bands": 64,
        "max_frequencies": 28.0,
        "concat_positions": True,
    },
}
# Fields of the same name and meaning in both configurations.
SHARED_FIELDS = (
    "num_latents",
    "d_latents",
    "num_blocks",
    "num_self_attends_per_block",
    "num_self_attention_heads",
    "num_cross_attention_heads",
    "qk_channels",
    "v_channels",
    "cross_attention_shape_for_attention",
    "self_attention_widening_factor",
    "cross_attention_widening_factor",
    "use_query_residual",
    "hidden_act",
    "attention_probs_dropout_prob",
    "initializer_range",
    "id2label",
    "label2id",
    "problem_type",
)

# Arrays, modules and whole layers: our name, theirs.
_NAMES = {
    "perceiver.inputs.stem.linear": "perceiver.input_preprocessor.convnet_1x1",
    "perceiver.inputs.stem.conv": "perceiver.input_preprocessor.convnet.conv",
    "perceiver.inputs.stem.batchnorm": "perceiver.input_preprocessor.convnet.batchnorm",
    "perceiver.inputs.learned_positions.weight": "perceiver.input_preprocessor.position_embeddings.position_embeddings",
    "perceiver.inputs.learned_positions.projection": "perceiver.input_preprocessor.positions_projection",
    "perceiver.latents.weight": "perceiver.embeddings.latents",
    "perceiver.cross_attends.0": "perceiver.encoder.cross_attention",
    "perceiver.blocks.0": "perceiver.encoder.self_attends",
    "decoder.query.weight": "perceiver.decoder.decoder.output_position_encodings.position_embeddings",
    "decoder.layer": "perceiver.decoder.decoder.decoding_cross_attention",
    "classifier": "perceiver.decoder.decoder.final_layer",
}
# Inside a layer: our name, theirs. The last norm is `layernorm` in both.
_NAMES_IN_LAYERS = {
    ".attention.layernorm.": ".attention.self.layernorm1.",
    ".attention.layernorm_inputs.": ".attention.self.layernorm2.",
    ".attention.q_proj.": ".attention.self.query.",
    ".attention.k_proj.": ".attention.self.key.",
    ".attention.v_proj.": ".attention.self.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".mlp.fc1.": ".mlp.dense1.",
    ".mlp.fc2.": ".mlp.dense2.",
}

_PROCESSOR_FIELDS = (
    "do_resize",
    "resample",
    "do_center_crop",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


def their_name(name: str) -> str:
    """Return the name that a weight of our classifier has in transformers' state dict."""
    for ours, theirs in _NAMES.items():
        if name == ours or name.startswith(ours + "."):
            name = theirs + name.removeprefix(ours)
            break
    return names_in_layers(name)


def names_in_layers(name: str) -> str:
    """The same for the part of a name that lies inside a layer."""
    for ours, theirs in _NAMES_IN_LAYERS.items():
        name = name.replace(ours, theirs)
    return name


def our_config(theirs: PerceiverConfig, architecture: str, image_size: list[int]) -> PerceiverStudyConfig:
    """Return our configuration for a configuration of transformers.

    Args:
        architecture: a key of `ARCHITECTURES`.
        image_size: `[H, W]` that the processor makes. With learned positions the size in the configuration is used.

    Raises:
        UserError: transformers accepts the configuration, but its model could not run.
    """
    if ARCHITECTURES[architecture]["position_encoding_type"] == "learned":
        image_size = [theirs.image_size] * 2
    try:
        ours = PerceiverStudyConfig(
            image_size=image_size,
            **ARCHITECTURES[architecture],
            **{name: getattr(theirs, name) for name in SHARED_FIELDS},
        )
    except (ValueError, StrictDataclassError) as error:
        raise UserError(f"the configuration does not fit: {error}") from None
    _require_their_shape(ours, architecture)
    return ours


def their_config(ours: PerceiverStudyConfig) -> PerceiverConfig:
    """Return the configuration of transformers for ours, with the class that it belongs to in `architectures`.

    Raises:
        UserError: none of transformers' classes fits; the message lists all obstacles.
    """
    by_inputs = {(fixed["stem_type"], fixed["position_encoding_type"]): name for name, fixed in ARCHITECTURES.items()}
    architecture = by_inputs.get((ours.stem_type, ours.position_encoding_type))
    if architecture is None:
        raise UserError(
            f"transformers has no Perceiver with stem_type={ours.stem_type!r} and position_encoding_type="
            f"{ours.position_encoding_type!r} for images; it has {', '.join(ARCHITECTURES)}"
        )
    _require_their_shape(ours, architecture)
    size = ours.image_size if isinstance(ours.image_size, int) else ours.image_size[0]
    shared = {name: getattr(ours, name) for name in SHARED_FIELDS}
    return PerceiverConfig(architectures=[architecture], image_size=size, **shared)


def our_processor(theirs: PerceiverImageProcessorPil, config: PerceiverStudyConfig) -> PerceiverStudyImageProcessor:
    """Return an image processor that gives the same pixels, and Fourier features if the model can use them."""
    return PerceiverStudyImageProcessor(
        **{name: getattr(theirs, name) for name in _PROCESSOR_FIELDS},
        size=dict(theirs.size),
        crop_size=dict(theirs.crop_size),
        crop_first=True,
        do_fourier_encode=config.stem_type
        == "none",  # the model itself has learned positions, and those of the grid after a stem
        num_frequency_bands=config.num_frequency_bands,
        max_frequencies=config.max_frequencies,
        concat_positions=config.concat_positions,
    )


def their_processor(ours: PerceiverStudyImageProcessor) -> tuple[PerceiverImageProcessorPil, str | None]:
    """Return the nearest image processor of transformers, and a note on what differs, or None.

    Raises:
        UserError: transformers has none that is near.
    """
    if ours.do_pad:
        raise UserError("the image processor has do_pad=True: transformers' Perceiver does not pad")
    size, crop_size, note = dict(ours.size), dict(ours.crop_size), None
    if ours.do_center_crop and not ours.crop_first:
        if not ours.do_resize or set(size) != {"shortest_edge"}:
            raise UserError(
                f"the image processor crops to {crop_size} after resizing to {size if ours.do_resize else 'nothing'}: "
                "transformers' Perceiver crops first, and can follow only where size is a shortest_edge"
            )
        # A crop of C after resizing the shorter edge to S is the part C / S of that edge, resized to C.
        edge = size["shortest_edge"]
        size, crop_size = crop_size, {"height": edge, "width": edge}
        note = "transformers' image processor crops before it resizes, so pixels differ a little from those here"
    elif ours.do_resize and set(size) != {"height", "width"}:
        raise UserError(f"the image processor resizes to {size}: transformers' Perceiver needs a height and a width")
    fields = {name: getattr(ours, name) for name in (*_PROCESSOR_FIELDS, "do_convert_rgb")}  # or it took RGB alone
    return PerceiverImageProcessorPil(**fields, size=size, crop_size=crop_size), note


def _require_their_shape(ours: PerceiverStudyConfig, architecture: str):
    obstacles = []
    for name, fixed in ARCHITECTURES[architecture].items():
        value = getattr(ours, name)
        if name == "max_frequencies":
            value, fixed = ours.axis_max_frequencies, [fixed, fixed]
        if value != fixed:
            obstacles.append(f"{name}={value!r}, expected {fixed!r}")
    if ours.d_latents % ours.num_cross_attention_heads:
        obstacles.append(
            f"num_cross_attention_heads={ours.num_cross_attention_heads}, expected a divisor of d_latents="
            f"{ours.d_latents}"
        )
    if ours.position_encoding_type == "learned" and len(set(ours.grid)) > 1:
        obstacles.append(f"image_size={ours.image_size!r}, expected a square")
    require_shape_of_any(ours, architecture, obstacles)


def require_shape_of_any(ours: PerceiverStudyConfig, architecture: str, obstacles: list[str]):
    """Raise an error that lists these obstacles and those to any Perceiver of transformers, if there is one.

    Raises:
        UserError: see above.
    """
    obstacles = list(obstacles)
    if ours.tasks is not None:
        obstacles.append(f"tasks={ours.tasks}, expected None: for_task gives a model of one")
    if not ours.share_block_weights and ours.num_blocks > 1:
        obstacles.append("share_block_weights=False, expected True")
    width = ours.self_attend_widths[1]
    if width != ours.d_latents:
        obstacles.append(f"values of {width} channels in self-attends, expected d_latents={ours.d_latents}")
    if obstacles:
        raise UserError("\n  ".join([f"the model does not fit into transformers' {architecture}:", *obstacles]))
