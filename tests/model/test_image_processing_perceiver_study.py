"""The image processor: its numbers against Pillow and numpy, its arguments, position features and errors."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PerceiverImageProcessorPil, ViTImageProcessorPil

from modeling_perceiver_study import PerceiverStudyImageProcessor
from modeling_perceiver_study.position import fourier_axis_features
from tests.pictures import assert_close, noise, pixel_values, reference

# What comes out


@pytest.mark.parametrize("height, width", [(32, 32), (50, 70), (70, 50), (33, 200), (8, 9), (1, 1)])
def test_numbers_are_those_of_pillow(height, width):
    image = Image.fromarray(noise(height, width, 3))
    output = PerceiverStudyImageProcessor()(image)
    assert list(output) == PerceiverStudyImageProcessor.model_input_names
    assert output["pixel_values"].shape == (1, 3, 32, 32)
    assert output["pixel_values"].dtype == output["position_features"].dtype == torch.float32
    assert_close(output["pixel_values"][0].numpy(), reference(image))


def test_same_numbers_as_vit_from_transformers():
    image = Image.fromarray(noise(50, 70, 3))
    size = {"height": 24, "width": 40}
    ours = pixel_values(image, size=size, do_center_crop=False, resample=Image.Resampling.BILINEAR)
    (theirs,) = ViTImageProcessorPil(size=size)(image, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("height, width", [(50, 70), (70, 50), (256, 256), (3, 4)])
def test_cropping_first_gives_the_same_numbers_as_perceiver_from_transformers(height, width):
    image = Image.fromarray(noise(height, width, 3))
    sizes = {"size": {"height": 28, "width": 28}, "crop_size": {"height": 32, "width": 32}}
    ours = pixel_values(image, crop_first=True, **sizes)
    processor = PerceiverImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, **sizes)
    np.testing.assert_array_equal(ours, processor(image, return_tensors="np")["pixel_values"][0])


def test_every_step_can_be_left_out_and_parametrised():
    image = Image.fromarray(noise(40, 60, 3))
    plain = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
    raw = np.array(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixel_values(image, **plain), raw)
    resized = np.array(image.resize((20, 10), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    changed = plain | {"do_resize": True, "size": {"height": 10, "width": 20}}
    np.testing.assert_array_equal(pixel_values(image, **changed), resized)
    changed = plain | {"do_center_crop": True, "crop_size": {"height": 10, "width": 20}}
    np.testing.assert_array_equal(pixel_values(image, **changed), raw[:, 15:25, 20:40])
    np.testing.assert_array_equal(pixel_values(image, **plain | {"do_rescale": True, "rescale_factor": 0.5}), raw / 2)
    changed = plain | {"do_normalize": True, "image_mean": [1.0, 2.0, 4.0], "image_std": [1.0, 2.0, 0.5]}
    normalised = (raw - np.array([1, 2, 4])[:, None, None]) / np.array([1, 2, 0.5])[:, None, None]
    np.testing.assert_array_equal(pixel_values(image, **changed), normalised)
    shortest = [
        pixel_values(image, **plain | {"do_resize": True, "size": size}) for size in (30, {"shortest_edge": 30})
    ]
    assert shortest[0].shape == (3, 30, 45)
    np.testing.assert_array_equal(*shortest)
    longest = pixel_values(image, **plain | {"do_resize": True, "size": {"shortest_edge": 30, "longest_edge": 33}})
    assert longest.shape == (3, 22, 33)
    size = {"shortest_edge": 30, "longest_edge": 64}
    line = np.zeros((1, 1000, 3), np.uint8)
    assert pixel_values(line, **plain | {"do_resize": True, "size": size}).shape == (3, 1, 64)


def test_an_image_of_a_single_grey_pixel():
    """Whose channels are first and last."""
    processor = PerceiverStudyImageProcessor(size=1, crop_size=1, num_channels=1, do_normalize=False)
    for image in (np.full((1, 1, 1), 51, np.uint8), np.full((1, 1), 51, np.uint8)):
        assert processor(image)["pixel_values"].tolist() == [[[[pytest.approx(0.2)]]]]


def test_arguments_of_a_call_win_over_those_of_the_processor():
    processor, image = PerceiverStudyImageProcessor(), Image.fromarray(noise(40, 60, 3))
    # None is the Nyquist frequency of what is produced here; without it that of the processor's own size stays.
    called = processor(image, size=20, crop_size=16, num_frequency_bands=3, max_frequencies=None, return_tensors="np")
    built = PerceiverStudyImageProcessor(size=20, crop_size=16, num_frequency_bands=3)(image)
    for name in called:
        np.testing.assert_array_equal(called[name], built[name].numpy())
    assert processor(image)["pixel_values"].shape == (1, 3, 32, 32)


def test_input_is_neither_changed_nor_aliased():
    array = noise(32, 32, 3).astype(np.float32)
    before = array.copy()
    plain = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
    for kwargs in ({}, plain):
        (output,) = PerceiverStudyImageProcessor(**kwargs)(array, return_tensors=None)["pixel_values"]
        output[:] = -1
    np.testing.assert_array_equal(array, before)


# Positions


@pytest.mark.parametrize("max_frequencies, highest", [(None, [12.0, 20.0]), (7, [7, 7]), ([3, 40.5], [3, 40.5])])
@pytest.mark.parametrize("concat_positions", [True, False])
def test_position_features_are_those_of_position_py(max_frequencies, highest, concat_positions):
    size = {"height": 24, "width": 40}
    kwargs = {"num_frequency_bands": 5, "max_frequencies": max_frequencies, "concat_positions": concat_positions}
    processor = PerceiverStudyImageProcessor(size=size, do_center_crop=False, **kwargs)
    actual = processor([noise(50, 70, 3)] * 2)["position_features"]
    rows, columns = fourier_axis_features([24, 40], 5, highest, concat_positions)
    assert actual.shape == (2, 64, 10 + concat_positions)
    for sample in actual:
        assert torch.equal(sample[:24], rows)
        assert torch.equal(sample[24:], columns)


def test_positions_can_be_left_to_the_model():
    assert list(PerceiverStudyImageProcessor(do_fourier_encode=False)(noise(40, 50, 3))) == ["pixel_values"]


def test_images_of_different_sizes():
    images = [noise(40, 50, 3), noise(30, 20, 3)]
    processor = PerceiverStudyImageProcessor(do_resize=False, do_center_crop=False)
    output = processor(images, return_tensors=None)
    assert [pixels.shape for pixels in output["pixel_values"]] == [(3, 40, 50), (3, 30, 20)]
    for pixels, features in zip(output["pixel_values"], output["position_features"], strict=True):
        grid = pixels.shape[1:]
        expected = torch.cat(fourier_axis_features(grid, 16, [size / 2 for size in grid]))
        np.testing.assert_array_equal(features, expected.numpy())
    for return_tensors in ("pt", "np"):
        with pytest.raises(ValueError, match="pixel_values"):
            processor(images, return_tensors=return_tensors)


# Errors


@pytest.mark.parametrize(
    "image, kwargs, message",
    [
        (noise(32, 32, 5), {}, r"\(32, 32, 5\).*num_channels=3.*input_data_format"),
        (noise(32, 32, 5), {"input_data_format": "channels_last"}, r"5 channels, but num_channels=3"),
        (noise(2, 32, 32), {"input_data_format": "channels_first"}, r"2 channels, but num_channels=3"),
        (
            noise(2, 32, 32),
            {"input_data_format": "channels_first", "num_channels": 1},
            "2 channels, but num_channels=1",
        ),
        (noise(32, 32, 3), {"num_channels": 5, "input_data_format": "channels_last"}, "3 channels, but num_channels=5"),
        (Image.fromarray(noise(32, 32, 3)), {"num_channels": 4}, "3 channels, but num_channels=4"),
        (noise(32, 32, 3), {"num_channels": 1}, r"image_mean=\(0.5, 0.5, 0.5\): expected .* each of the 1 channels"),
        (noise(32, 32, 3), {"input_data_format": "sideways"}, "sideways"),
        (noise(32), {}, r"\(32,\)"),
        (noise(1, 1, 1, 32, 32), {}, r"\(1, 1, 1, 32, 32\)"),
        (noise(0, 32, 3), {}, r"\(3, 0, 32\)"),
        ([], {}, "at least one image"),
        ([[], []], {}, "at least one image"),
        (noise(32, 32, 3), {"max_frequencies": [1.0, 2.0, 3.0]}, r"max_frequencies=\(1.0, 2.0, 3.0\)"),
        (noise(32, 32, 3), {"max_frequencies": 0.0}, r"max_frequencies=0.0"),
        (noise(32, 32, 3), {"num_frequency_bands": 0}, "num_frequency_bands=0"),
        (noise(32, 32, 3), {"num_channels": -1}, "num_channels=-1"),
        (noise(32, 32, 3), {"size": {"longest_edge": 9}}, "'longest_edge': 9"),
        (noise(32, 32, 3), {"crop_first": True}, "'shortest_edge': 32.*crop_first"),
        (noise(32, 32, 3), {"size": {"tall": 9}}, "size.*tall"),
    ],
)
def test_errors_name_the_value(image, kwargs, message):
    with pytest.raises(ValueError, match=message):
        PerceiverStudyImageProcessor()(image, **kwargs)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"max_frequencies": [1.0]}, r"max_frequencies=\(1.0,\)"),
        ({"max_frequencies": "nyquist"}, "max_frequencies='nyquist'"),
        ({"max_frequencies": [4, -4]}, r"max_frequencies=\(4, -4\)"),
        ({"num_frequency_bands": 2.5}, "num_frequency_bands=2.5"),
        ({"num_channels": True}, "num_channels=True"),
        ({"do_rescale": True, "rescale_factor": None}, "rescale_factor"),
    ],
)
def test_errors_at_construction(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PerceiverStudyImageProcessor(**kwargs)


@pytest.mark.parametrize("image", [7, None, {1}])
def test_what_is_no_image(image):
    with pytest.raises(TypeError, match=type(image).__name__):
        PerceiverStudyImageProcessor()(image)
