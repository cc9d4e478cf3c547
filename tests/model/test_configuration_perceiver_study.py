import re

import numpy as np
import pytest
import torch

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForImageClassification

IMAGENET = {
    "num_latents": 512,
    "d_latents": 1024,
    "num_cross_attends": 8,
    "num_blocks": 8,
    "num_self_attends_per_block": 6,
    "self_attention_widening_factor": 1,
    "cross_attention_widening_factor": 1,
    "num_frequency_bands": 64,
    "image_size": 224,
    "num_labels": 1000,
}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("num_latents", {"num_latents": 0}),
        ("num_latents", {"num_latents": 2.0}),
        ("d_latents", {"d_latents": -8}),
        ("num_blocks", {"num_blocks": True}),
        ("num_self_attends_per_block", {"num_self_attends_per_block": -1}),
        ("num_cross_attends", {"num_cross_attends": 3, "num_blocks": 2}),
        ("num_cross_attends", {"num_cross_attends": 0}),
        ("num_self_attention_heads", {"num_self_attention_heads": 7}),
        ("num_cross_attention_heads", {"num_cross_attention_heads": 2}),  # the inputs have 69 channels
        ("num_cross_attention_heads", {"num_cross_attention_heads": 4, "qk_channels": 64, "v_channels": 6}),
        ("qk_channels", {"qk_channels": 0}),
        ("cross_attention_shape_for_attention", {"cross_attention_shape_for_attention": "qkv"}),
        ("image_size", {"image_size": [32, 32, 3]}),
        ("image_size", {"image_size": [[32, 32]]}),
        ("image_size", {"image_size": 0}),
        ("image_size", {"image_size": 32, "num_axes": 3, "max_frequencies": [4, 4]}),
        ("num_channels", {"num_channels": 0}),
        ("num_frequency_bands", {"num_frequency_bands": 0}),
        ("max_frequencies", {"max_frequencies": [16.0]}),
        ("max_frequencies", {"max_frequencies": -1}),
        ("position_encoding_type", {"position_encoding_type": "rotary"}),
        ("decoder_type", {"decoder_type": "max"}),
        ("hidden_act", {"hidden_act": "no such thing"}),
        ("attention_probs_dropout_prob", {"attention_probs_dropout_prob": 1.0}),
        ("classifier_dropout", {"classifier_dropout": 1}),
        ("classifier_dropout", {"classifier_dropout": -0.1}),
        ("classifier_dropout", {"classifier_dropout": None}),
        ("layer_norm_eps", {"layer_norm_eps": 0}),
        ("share_block_weights", {"share_block_weights": "yes"}),
    ],
)
def test_bad_values_are_errors_that_name_field_and_value(field, fields):
    if field == "image_size" and "max_frequencies" in fields:
        field = "max_frequencies"
    with pytest.raises(
        ValueError, match=re.escape(f"{field}={fields.get(field, PerceiverStudyConfig().num_blocks)!r}")
    ):
        PerceiverStudyConfig(**fields)


def test_defaults_are_the_contract():
    config = PerceiverStudyConfig()
    assert (config.num_latents, config.d_latents) == (128, 256)
    assert config.num_input_channels == 3 + 2 * (2 * 16 + 1)
    assert config.axis_max_frequencies == [16.0, 16.0]  # Nyquist for 32 pixels
    assert config.num_hidden_layers == 5
    assert config.hidden_size == 256


def test_widths_follow_transformers():
    assert PerceiverStudyConfig().cross_attend_widths == (69, 69)
    assert PerceiverStudyConfig(cross_attention_shape_for_attention="q").cross_attend_widths == (256, 256)
    config = PerceiverStudyConfig(qk_channels=64, v_channels=128)
    assert config.cross_attend_widths == config.self_attend_widths == (64, 128)


def test_grids_of_any_rank():
    audio = PerceiverStudyConfig(num_axes=1, image_size=4096, num_channels=1)
    assert audio.num_input_channels == 1 + 33
    video = PerceiverStudyConfig(num_axes=3, image_size=[8, 32, 16], max_frequencies=[2.0, 16.0, 8.0])
    assert (video.grid, video.num_position_channels) == ([8, 32, 16], 3 * 33)


def test_save_and_load_keep_every_field(tmp_path):
    config = PerceiverStudyConfig(image_size=(24, 48), max_frequencies=[4.0, 8.0], decoder_type="query", num_labels=7)
    config.save_pretrained(tmp_path)
    loaded = PerceiverStudyConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == {**config.to_dict(), "image_size": [24, 48]}


def count_parameters(**fields) -> int:
    with torch.device("meta"):
        return PerceiverStudyForImageClassification(PerceiverStudyConfig(**fields)).num_parameters()


# A cross-attend of the ImageNet model: norms 2 * 1024 + 2 * 261 + 2 * 1024, query 1025 * 261... with biases
#   (1024 + 1) * 261 + 2 * (261 + 1) * 261 + (261 + 1) * 1024 + 2 * (1024 + 1) * 1024 + 4618 = 2,776,395
# and a self-attend: 6 * (1024 + 1) * 1024 + 4 * 1024 = 6,301,696. Latents 512 * 1024, classifier 1025 * 1000.
CROSS, SELF, LATENTS, CLASSIFIER = 2_776_395, 6_301_696, 524_288, 1_025_000


@pytest.mark.parametrize(
    "fields",
    [
        {"num_latents": 8, "d_latents": 32, "qk_channels": 32, "num_self_attends_per_block": 0},
        {"image_size": 8, "patch_size": 2, "max_frequencies": 4.0, "layer_norm_eps": 0.5},
        {"image_size": [8, 16], "training_latents": [2, 4]},
        {"input_type": "bytes", "vocab_size": 300, "ngram_sizes": [3, -2]},
        {"tasks": {"first": 2, "second": 3}, "decoder_type": "query"},
        {"modalities": {"image": {"image_size": 8}, "points": {"input_type": "points", "num_axes": 2}}},
    ],
)
@pytest.mark.parametrize("whole, real", [(np.int64, np.float64), (np.uint8, np.float32), (np.array, torch.tensor)])
def test_numbers_of_other_libraries_are_kept_as_plain_ones(fields, whole, real, tmp_path):
    def given(value):
        if isinstance(value, dict):
            return {name: given(one) for name, one in value.items()}
        if isinstance(value, list):
            return [given(one) for one in value]
        if isinstance(value, str) or (whole is np.uint8 and value in (300, -2)):
            return value
        return real(value) if isinstance(value, float) else whole(value)

    config = PerceiverStudyConfig(**given(fields))
    assert config.to_json_string() == PerceiverStudyConfig(**fields).to_json_string()
    PerceiverStudyConfig().save_pretrained(tmp_path)
    if fields.keys() & {"num_latents", "ngram_sizes"}:
        loaded = PerceiverStudyConfig.from_pretrained(tmp_path, **given(fields))
        assert loaded.to_json_string() == PerceiverStudyConfig.from_pretrained(tmp_path, **fields).to_json_string()


@pytest.mark.parametrize("value", [np.True_, np.float64(2), np.int64(0), np.array([2])])
def test_numbers_of_other_libraries_that_do_not_fit(value):
    with pytest.raises(ValueError, match=r"num_latents=.*expected a whole number of at least 1"):
        PerceiverStudyConfig(num_latents=value)


def test_what_follows_from_other_fields_cannot_be_given():
    with pytest.raises(ValueError, match=r"num_hidden_layers=3: num_cross_attends, .* make it, now 5: give these\."):
        PerceiverStudyConfig(num_hidden_layers=3)


def test_parameters_of_the_papers_imagenet_model():
    """Table 7 of the paper: 44.9 million with both kinds of sharing, 326.2 million with neither."""
    shared = count_parameters(**IMAGENET)
    assert shared == 2 * CROSS + 6 * SELF + LATENTS + CLASSIFIER == 44_912_254
    unshared = count_parameters(**IMAGENET, share_cross_attend_weights=False, share_block_weights=False)
    assert unshared == 8 * CROSS + 48 * SELF + LATENTS + CLASSIFIER == 326_241_856


@pytest.mark.parametrize(("num_cross_attends", "millions"), [(4, 12.7), (8, 23.8), (12, 34.9)])
def test_parameters_without_latent_towers(num_cross_attends, millions):
    """Table 5 of the paper."""
    fields = {**IMAGENET, "num_cross_attends": num_cross_attends, "num_blocks": num_cross_attends}
    parameters = count_parameters(**{**fields, "num_self_attends_per_block": 0}, share_cross_attend_weights=False)
    assert parameters == num_cross_attends * CROSS + LATENTS + CLASSIFIER
    assert round(parameters / 1e6, 1) == millions


def test_parameters_of_the_cifar10_study():
    """The study's own figure is 4.00 million, with 64 bands."""
    assert count_parameters(num_labels=10, num_frequency_bands=64) == 3_992_405
    assert count_parameters(num_labels=10) == 3_766_421


ONE = {"image_size": 8}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_type": "bytes", "patch_size": 4}, "patch_size=4 .* None with input_type='bytes'"),
        ({"vocab_size": 99}, "vocab_size=99 .* 262 with input_type='grid'"),
        ({"input_name": "pixel values"}, "input_name='pixel values'"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"patch_size": [2, 2, 2]}, r"patch_size=\[2, 2, 2\] .* one number per axis \(num_axes=2\)"),
        ({"patch_size": 2, "stem_type": "conv"}, "patch_size=2 .* None with stem_type='conv'"),
        ({"channel_axis": 4}, "channel_axis=4 .* 1 to 3"),
        ({"absolute_positions": 1}, "absolute_positions=1"),
        ({"num_channels": 0}, "num_channels=0"),
        ({"input_type": "points", "num_axes": 3, "num_channels": -1}, "num_channels=-1"),
        ({"modalities": {}}, "modalities={} .* a dict of at least one name"),
        ({"modalities": {"one": 3}}, "a dict of at least one name, each with a dict of fields"),
        ({"modalities": {"a b": ONE}}, "another name than 'a b'"),
        ({"modalities": {"keys": ONE}}, "another name than 'keys'"),
        ({"modalities": {"training": ONE}}, "another name than 'training'"),
        ({"modalities": {"one": ONE | {"num_latents": 5}}}, r"modalities\['one'\]: 'num_latents' describes no input"),
        ({"modalities": {"one": {"image_size": 0}}}, r"modalities\['one'\]: image_size=0"),
        ({"modalities": {"one": ONE, "two": ONE}}, r"an input_name for each of \['one', 'two'\], now all"),
        ({"modalities": {"one": ONE}, "image_size": 8}, "image_size=8 .* to be in `modalities`"),
        ({"modalities": {"one": ONE}, "modality_channels": 0}, "modality_channels=0"),
        ({"modalities": {"one": ONE}, "modality_dropout": 1.5}, "modality_dropout=1.5"),
        ({"modalities": {"one": ONE}, "modality_dropout": {"two": 0.5}}, r"some by name of \['one'\]"),
    ],
)  # fmt: skip
def test_fields_of_inputs_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        PerceiverStudyConfig(**fields)
