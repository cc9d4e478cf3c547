"""`crop_first`: the image processor in the order of transformers' Perceiver, to the last bit."""

import numpy as np
import pytest
from PIL import Image
from transformers import PerceiverImageProcessorPil

from modeling_perceiver_study import PerceiverStudyImageProcessor

NOISE = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)


@pytest.mark.parametrize("height, width", [(24, 24), (50, 40), (40, 50), (27, 31), (224, 17), (301, 500), (2, 3)])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"size": {"height": 20, "width": 30}, "crop_size": {"height": 36, "width": 36}},
        {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}},
        {"resample": Image.Resampling.BILINEAR},
        {"do_center_crop": False},
        {"do_resize": False},
    ],
)
def test_same_numbers_as_perceiver_from_transformers(height, width, kwargs):
    size = {"size": {"height": 28, "width": 28}, "crop_size": {"height": 32, "width": 32}, **kwargs}
    image = Image.fromarray(NOISE[:height, :width])
    theirs = PerceiverImageProcessorPil(**size)
    expected = theirs(image, return_tensors="np")["pixel_values"]
    ours = PerceiverStudyImageProcessor(
        **size, crop_first=True, image_mean=list(theirs.image_mean), image_std=list(theirs.image_std)
    )
    actual = ours(image, return_tensors="np")["pixel_values"]
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def test_leaves_at_least_a_pixel():
    image = Image.fromarray(NOISE[:1, :5, 0])
    size = {"height": 28, "width": 28}
    processor = PerceiverStudyImageProcessor(size=size, crop_size={"height": 32, "width": 32}, crop_first=True)
    (pixels,) = processor(image)["pixel_values"]
    # float32 for numbers up to 1: a rounding for each of rescaling, subtraction and division.
    np.testing.assert_allclose(pixels.numpy(), np.full((3, 28, 28), NOISE[0, 2, 0] / 255 * 2 - 1), rtol=0, atol=3e-7)
