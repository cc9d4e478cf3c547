"""What the image processor takes: PIL images of every mode, files, arrays and tensors, alone and in batches."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_perceiver_study import PerceiverStudyImageProcessor
from tests.pictures import assert_close, noise, pixel_values, reference, smooth


def test_pillow_modes():
    rgb = Image.fromarray(noise(40, 50, 3))
    for mode in ("L", "1", "CMYK", "YCbCr", "HSV", "RGBX", "P"):
        image = rgb.convert(mode)
        assert_close(pixel_values(image), reference(image.convert("RGB")))
        assert_close(pixel_values(image, num_channels=1), reference(image.convert("RGB").convert("L")))


def on_white(image):
    """By another path than the processor's: Pillow's own compositing, exact where alpha is 0 or 255."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def transparent_images():
    binary = np.where(noise(40, 50, high=2), 255, 0).astype(np.uint8)
    yield "RGBA", Image.fromarray(np.dstack([noise(40, 50, 3), binary]))
    yield "LA", Image.fromarray(np.dstack([noise(40, 50), binary]))
    palette = Image.fromarray(noise(40, 50, 3)).quantize(16)
    palette.info["transparency"] = bytes([0, 255] * 8)
    yield "P with bytes", palette
    palette = Image.fromarray(noise(40, 50, 3)).quantize(16)
    palette.info["transparency"] = 3
    yield "P with an index", palette
    yield "PA", Image.fromarray(np.dstack([noise(40, 50, 3), binary])).quantize(16).convert("PA")
    grey = Image.fromarray(noise(40, 50, high=4))
    grey.info["transparency"] = 2
    yield "L with a colour", grey


@pytest.mark.parametrize("image", [pytest.param(image, id=name) for name, image in transparent_images()])
def test_transparency_is_laid_on_white(image):
    assert_close(pixel_values(image), reference(on_white(image)))
    assert_close(pixel_values(image, num_channels=1), reference(on_white(image).convert("L")))


def test_half_transparency():
    rgba = np.dstack([noise(32, 32, 3), noise(32, 32, seed=1)]).astype(np.float64)
    alpha = rgba[..., 3:] / 255
    expected = np.floor(rgba[..., :3] * alpha + 255 * (1 - alpha) + 0.5).transpose(2, 0, 1) / 255 * 2 - 1
    image = rgba.astype(np.uint8)
    for given in (Image.fromarray(image), image, torch.from_numpy(image), image.astype(np.int64)):
        assert_close(pixel_values(given), expected)
    # In other arrays white is what becomes 1.
    exact = (rgba[..., :3] * alpha + 255 * (1 - alpha)).transpose(2, 0, 1) / 255 * 2 - 1
    assert_close(pixel_values(rgba * 4, rescale_factor=1 / 1020), exact)
    assert_close(pixel_values(rgba / 255, do_rescale=False), exact)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_are_kept(mode):
    values = np.random.default_rng(0).integers(0, 65536, (32, 32), dtype=np.uint16)
    image = Image.frombytes(mode, (32, 32), values.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    expected = np.broadcast_to(values / 65535 * 2 - 1, (3, 32, 32))
    assert_close(pixel_values(image), expected)
    assert_close(pixel_values(image, num_channels=1), expected[:1])


@pytest.mark.parametrize("values", [noise(32, 32).astype(np.int32), noise(32, 32).astype(np.float32) / 4])
def test_wide_modes_are_kept(values):
    image = Image.fromarray(values)
    assert image.mode in ("I", "F")
    np.testing.assert_array_equal(pixel_values(image), pixel_values(values))
    assert_close(pixel_values(image, rescale_factor=1 / 1020)[0], values / 1020 * 2 - 1)


def every_kind(array):
    """The same `(H, W, C)` image of 8 bits in other clothes."""
    first = np.ascontiguousarray(array.transpose(2, 0, 1))
    yield "PIL", Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    for name, data in (("last", array), ("first", first)):
        yield f"numpy {name}", data
        for dtype in (np.int16, np.int64, np.uint16, np.float16, np.float32, np.float64):
            yield f"numpy {name} {dtype.__name__}", data.astype(dtype)
        tensor = torch.from_numpy(data)
        for dtype in (torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64):
            yield f"torch {name} {dtype}", tensor.to(dtype)
        yield f"torch {name} with gradient", tensor.float().requires_grad_()
    yield "numpy reversed", first[:, ::-1].copy()[:, ::-1]
    if array.shape[-1] == 1:
        yield "numpy (H, W)", array[..., 0]
        yield "torch (H, W)", torch.from_numpy(array[..., 0])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_kinds_of_images_agree(channels, num_channels):
    array = noise(32, 32, channels)
    expected = pixel_values(Image.fromarray(array[..., 0] if channels == 1 else array), num_channels=num_channels)
    assert expected.shape == (num_channels, 32, 32)
    for name, image in every_kind(array):
        actual = pixel_values(image, num_channels=num_channels)
        # Grey and transparent colours are rounded to whole numbers in 8 bits only.
        atol = 0.51 / 255 / 0.5 if "float" in name or "gradient" in name else 0
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=name)


def test_kinds_of_images_agree_after_resizing():
    array = smooth(50, 70)
    expected = pixel_values(Image.fromarray(array))
    for name, image in every_kind(array):
        # Pillow rounds 8-bit images after each of its two passes, float images never.
        np.testing.assert_allclose(pixel_values(image), expected, rtol=0, atol=1.01 / 255 / 0.5, err_msg=name)


def test_grey_images_stay_exactly_grey():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain = {"num_channels": 1, "do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
    for image in (values, Image.fromarray(values), Image.fromarray(values).convert("RGB")):
        np.testing.assert_array_equal(pixel_values(image, **plain)[0], values)


def test_lists_batches_and_nesting():
    arrays = [noise(40, 50, 3, seed=seed) for seed in range(4)]
    processor = PerceiverStudyImageProcessor()
    expected = torch.cat([processor(array)["pixel_values"] for array in arrays])
    first, second, third, fourth = arrays
    batches = [
        arrays,
        tuple(arrays),
        np.stack(arrays),
        torch.from_numpy(np.stack(arrays)).movedim(-1, 1),
        [np.stack(arrays[:2]), np.stack(arrays[2:])],
        [arrays[:2], arrays[2:]],
        [[first], [[second, third], fourth]],
        [Image.fromarray(first), torch.from_numpy(second), third.transpose(2, 0, 1), fourth],
    ]
    for batch in batches:
        output = processor(batch)
        assert torch.equal(output["pixel_values"], expected)
        assert output["position_features"].shape == (4, 64, 33)
    assert processor([noise(8, 8), noise(8, 9), Image.fromarray(noise(9, 8))])["pixel_values"].shape == (3, 3, 32, 32)


def test_files(tmp_path):
    image = Image.fromarray(noise(40, 50, 3))
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(pixel_values(str(tmp_path / "image.png")), pixel_values(image))


@pytest.mark.parametrize("num_channels", [2, 4, 5])
def test_multispectral_images_are_resized_channel_by_channel(num_channels):
    image = noise(40, 50, num_channels)
    kwargs = {"num_channels": num_channels, "do_convert_rgb": False}
    actual = pixel_values(image, **kwargs)
    for channel in range(num_channels):
        assert_close(actual[channel], reference(Image.fromarray(image[..., channel]))[0])
    np.testing.assert_array_equal(pixel_values(image, num_channels=num_channels), actual)
    np.testing.assert_array_equal(pixel_values(image.transpose(2, 0, 1), **kwargs), actual)
    explicit = PerceiverStudyImageProcessor(do_convert_rgb=False, image_mean=[0.5] * num_channels)
    explicit.image_std = (0.5,) * num_channels
    output = explicit(image, input_data_format="channels_last")["pixel_values"]
    np.testing.assert_array_equal(output[0].numpy(), actual)


def test_values_beyond_8_bits():
    image = np.random.default_rng(0).integers(0, 10_000, (64, 64, 5), dtype=np.uint16)
    actual = pixel_values(image, num_channels=5, rescale_factor=1e-4, resample=Image.Resampling.BOX)
    means = image.astype(np.float64).reshape(32, 2, 32, 2, 5).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert_close(actual, means * 1e-4 * 2 - 1)


def test_layout_can_be_said():
    image = noise(3, 40, 3)
    kwargs = {"do_resize": False, "do_center_crop": False, "do_fourier_encode": False}
    processor = PerceiverStudyImageProcessor(**kwargs)
    assert processor(image, input_data_format="channels_last")["pixel_values"].shape == (1, 3, 3, 40)
    assert processor(image, input_data_format="channels_first")["pixel_values"].shape == (1, 3, 40, 3)
