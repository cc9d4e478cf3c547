"""What the image processor makes of sizes, frequencies, layouts and ranges: as given, or with a word."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyImageProcessor, PerceiverStudyVideoProcessor
from tests.checkpoints import save_checkpoint
from tests.pictures import noise, pixel_values

IMAGE = Image.fromarray(noise(100, 80, 3))

# Sizes


@pytest.mark.parametrize(
    "kwargs, expected",
    [
        ({"size": {"height": 64, "width": 48}}, (64, 48)),
        ({"size": 64}, (64, 64)),
        ({"size": {"shortest_edge": 64}}, (64, 64)),
        ({"size": (64, 48)}, (64, 48)),
        ({"size": {"height": 64, "width": 48}, "crop_size": 24}, (24, 24)),
        ({"size": 64, "crop_size": {"height": 24, "width": 20}}, (24, 20)),
        ({"crop_size": 24}, (24, 24)),
        ({"size": {"height": 64, "width": 48}, "crop_first": True}, (64, 48)),
        ({"size": 64, "do_center_crop": False}, (80, 64)),
    ],
)
@pytest.mark.parametrize("when", ["built", "called", "called after loading", "loaded"])
def test_a_crop_is_as_large_as_the_size_unless_given(tmp_path, kwargs, expected, when):
    if when == "built":
        pixels = PerceiverStudyImageProcessor(**kwargs)(IMAGE)["pixel_values"]
    elif when == "called":
        pixels = PerceiverStudyImageProcessor()(IMAGE, **kwargs)["pixel_values"]
    else:
        PerceiverStudyImageProcessor(size=28).save_pretrained(tmp_path)
        load = AutoImageProcessor.from_pretrained
        if when == "loaded":
            pixels = load(tmp_path, **kwargs)(IMAGE)["pixel_values"]
        else:
            pixels = load(tmp_path)(IMAGE, **kwargs)["pixel_values"]
    assert pixels.shape == (1, 3, *expected)


def test_a_call_does_not_change_the_processor():
    processor = PerceiverStudyImageProcessor()
    processor(IMAGE, size=64)
    assert processor(IMAGE)["pixel_values"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("size", [{"longest_edge": 9}, {"max_height": 9, "max_width": 9}])
def test_sizes_that_fix_no_edge(size):
    with pytest.raises(ValueError, match=r"size=.*9.*expected height and width, or shortest_edge"):
        PerceiverStudyImageProcessor(size=size)


@pytest.mark.parametrize("kind", [PerceiverStudyImageProcessor, PerceiverStudyVideoProcessor])
@pytest.mark.parametrize("std", [0.0, [0.5, 0.0, 0.5], -1.0])
def test_a_deviation_of_nothing(kind, std):
    with pytest.raises(ValueError, match=r"image_std=.*: expected numbers above 0"):
        kind(image_std=std)
    with pytest.raises(ValueError, match=r"image_std=.*: expected numbers above 0"):
        kind()([IMAGE], image_std=std)
    kind(image_std=std, do_normalize=False)


@pytest.mark.parametrize("kind", [PerceiverStudyImageProcessor, PerceiverStudyVideoProcessor])
@pytest.mark.parametrize("name", ["image_mean", "image_std"])
def test_a_number_for_each_channel_or_one_for_all(kind, name):
    frames, message = [IMAGE], rf"{name}=[([]0\.5, 0\.5[])]: expected a number, or one for each of the 3 channels"
    with pytest.raises(ValueError, match=message):
        kind(**{name: [0.5, 0.5]})
    with pytest.raises(ValueError, match=message):
        kind()(frames, **{name: [0.5, 0.5]})
    kind(do_normalize=False, **{name: [0.5, 0.5]})
    expected = kind(**{name: 0.25})(frames)["pixel_values"]
    for one in ([0.25], (0.25,), np.array([0.25])):
        assert getattr(kind(**{name: one}), name) == (0.25, 0.25, 0.25)
        assert kind(**{name: one})(frames)["pixel_values"].equal(expected)
        assert kind()(frames, **{name: one})["pixel_values"].equal(expected)


def test_numbers_for_pictures_that_keep_their_channels():
    picture = np.zeros((40, 40, 2), np.uint8)
    processor = PerceiverStudyImageProcessor(do_convert_rgb=False, image_mean=[0.5, 0.5], image_std=[0.5, 0.5])
    assert processor(picture, input_data_format="channels_last")["pixel_values"].shape == (1, 2, 32, 32)


# Frequencies


@pytest.mark.parametrize(
    "kwargs, expected",
    [
        ({}, (16.0, 16.0)),
        ({"size": {"height": 64, "width": 48}}, (32.0, 24.0)),
        ({"size": 64, "crop_size": {"height": 24, "width": 20}}, (12.0, 10.0)),
        ({"size": {"height": 64, "width": 48}, "do_center_crop": False}, (32.0, 24.0)),
        ({"size": {"height": 64, "width": 48}, "crop_size": 96, "crop_first": True}, (32.0, 24.0)),
        ({"max_frequencies": 5}, 5),
        ({"size": 64, "do_center_crop": False}, None),
        ({"do_resize": False, "do_center_crop": False}, None),
    ],
)
def test_the_processor_saves_resolved_frequencies(tmp_path, kwargs, expected):
    processor = PerceiverStudyImageProcessor(**kwargs)
    assert processor.max_frequencies == expected
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text()).get("max_frequencies")
    assert saved == (list(expected) if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize(
    "kwargs, expected",
    [
        ({}, [16.0, 16.0]),
        ({"image_size": [24, 48]}, [12.0, 24.0]),
        ({"image_size": 224, "stem_type": "conv"}, [27.5, 27.5]),
        ({"max_frequencies": 5.0}, 5.0),
        ({"position_encoding_type": "learned"}, None),
    ],
)
def test_the_configuration_saves_resolved_frequencies(tmp_path, kwargs, expected):
    PerceiverStudyConfig(**kwargs).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["max_frequencies"] == expected
    assert PerceiverStudyConfig.from_pretrained(tmp_path).max_frequencies == expected


def test_another_size_keeps_the_frequencies_of_model_and_processor(tmp_path):
    """A larger image changes no position at the same place, and what the two say of it is the same."""
    save_checkpoint(tmp_path)
    larger = {"image_size": 16}
    for kwargs in ({}, larger):
        model = AutoModelForImageClassification.from_pretrained(tmp_path, **kwargs).eval()
        assert model.config.axis_max_frequencies == [4.0, 4.0]
        called = AutoImageProcessor.from_pretrained(tmp_path)(IMAGE, size=16)
        loaded = AutoImageProcessor.from_pretrained(tmp_path, size=16)(IMAGE)
        for inputs in (called, loaded):
            assert inputs["pixel_values"].shape == (1, 3, 16, 16)
            with torch.no_grad():
                assert torch.equal(model(**inputs).logits, model(inputs["pixel_values"]).logits)


# Layouts


@pytest.mark.parametrize(
    "shape, num_channels, channels_first",
    [
        ((3, 40, 50), 3, True),
        ((40, 50, 3), 3, False),
        ((1, 40, 3), 3, False),  # one pixel high
        ((3, 40, 1), 3, True),  # one pixel wide
        ((4, 40, 3), 3, False),
        ((3, 40, 4), 3, True),
        ((1, 40, 3), 1, True),
        ((3, 40, 1), 1, False),
        ((1, 40, 50), 3, True),
        ((40, 3, 3), 3, False),
        ((3, 3, 40), 3, True),
        ((1, 1, 3), 3, False),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_axis_of_the_channels(shape, num_channels, channels_first, kind):
    array = noise(*shape)
    plain = {"num_channels": num_channels, "do_resize": False, "do_center_crop": False}
    layout = "channels_first" if channels_first else "channels_last"
    expected = pixel_values(kind(array), **plain, input_data_format=layout)
    np.testing.assert_array_equal(pixel_values(kind(array), **plain), expected)
    size = shape[1:] if channels_first else shape[:2]
    assert expected.shape == (num_channels, *size)
    # A batch is read as its images are.
    (batch,) = PerceiverStudyImageProcessor(**plain)(kind(array[None]))["pixel_values"].numpy()
    np.testing.assert_array_equal(batch, expected)


@pytest.mark.parametrize(
    "shape, num_channels", [((3, 40, 3), 3), ((1, 40, 1), 1), ((3, 3, 3), 3), ((1, 40, 4), 3), ((5, 40, 7), 3)]
)
def test_an_axis_that_cannot_be_told_is_asked_for(shape, num_channels):
    with pytest.raises(ValueError, match=rf"{shape[0]}, {shape[1]}, {shape[2]}.*pass input_data_format"):
        PerceiverStudyImageProcessor(num_channels=num_channels)(noise(*shape))


# Ranges


@pytest.fixture
def log(caplog):
    logging.warning_once.cache_clear()  # what another test was told once
    return caplog


FLOATS = noise(32, 32, 3).astype(np.float32) / 255
SCALED = {
    "float32": FLOATS,
    "float64": FLOATS.astype(np.float64),
    "float16": FLOATS.astype(np.float16),
    "tensor": torch.from_numpy(FLOATS),
    "bfloat16": torch.from_numpy(FLOATS).bfloat16(),
    "PIL": Image.fromarray(FLOATS[..., 0]),
}


@pytest.mark.parametrize("name", SCALED)
def test_floats_from_0_to_1_are_warned_of_once(log, name):
    processor = PerceiverStudyImageProcessor()
    for _ in range(3):
        processor([SCALED[name]] * 2)
    assert log.text.count("do_rescale=False") == 1


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_numbers_of_16_bits_are_warned_of_once(log, dtype):
    processor, image = PerceiverStudyImageProcessor(), noise(32, 32, 3).astype(dtype) * 257
    for _ in range(3):
        processor([image] * 2)
    assert log.text.count("Pass rescale_factor=1 / 65535") == 1


@pytest.mark.parametrize(
    "image, kwargs",
    [
        (FLOATS, {"do_rescale": False}),
        (FLOATS, {"rescale_factor": 1.0}),
        (FLOATS * 255, {}),
        (FLOATS * 2 - 1, {}),
        (FLOATS * 0, {}),
        (FLOATS * 65535, {"rescale_factor": 1 / 65535}),
        (FLOATS * 65535, {"do_rescale": False}),
        (noise(32, 32, 3, high=2), {}),
        (noise(32, 32, 3, high=2).astype(np.int64), {}),
        (Image.new("RGB", (32, 32)), {}),
        (Image.new("F", (32, 32)), {}),
    ],
)
def test_nothing_is_said_of_other_images(log, image, kwargs):
    PerceiverStudyImageProcessor()(image, **kwargs)
    assert log.text == ""


@pytest.mark.parametrize("num_channels", [1, 3])
def test_booleans_are_black_and_white(num_channels):
    array = noise(32, 32, high=2).astype(bool)
    expected = pixel_values(Image.fromarray(array), num_channels=num_channels)
    assert set(np.unique(expected)) == {-1, 1}
    for image in (array, torch.from_numpy(array), array[None]):
        np.testing.assert_array_equal(pixel_values(image, num_channels=num_channels), expected)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint16])
def test_what_a_filter_overshoots_is_cut_off_as_in_8_bits(dtype):
    """Hard edges, where Pillow's bicubic filter leaves 0 to 255."""
    array = noise(50, 70, 3, high=2) * np.uint8(255)
    pixels = pixel_values(array.astype(dtype))
    assert pixels.min() == -1 and pixels.max() == 1


def test_padding_leaves_frequencies_to_the_image():
    padded = PerceiverStudyImageProcessor(do_pad=True, pad_size={"height": 40, "width": 40})
    assert padded.max_frequencies is None
