"""The image processor: against Pillow and numpy, with what consumes its output, and in a fresh process."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    PerceiverImageProcessorPil,
    ViTImageProcessorPil,
    default_data_collator,
    logging,
    pipeline,
)
from transformers.models.auto import image_processing_auto
from transformers.testing_utils import CaptureLogger

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForImageClassification,
    PerceiverStudyImageProcessor,
)
from modeling_perceiver_study.position import fourier_axis_features


def noise(*shape, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def smooth(height, width):
    """A picture in which resampling overshoots nowhere, so that 8-bit and float arithmetic may be compared."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([40 + 150 * rows, 40 + 150 * columns, 200 - 75 * rows - 75 * columns], axis=-1).astype(np.uint8)


def reference(image, size=32, crop=32, resample=Image.Resampling.BICUBIC):
    """An RGB or L image as the class docstring says, in Pillow and numpy alone."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(size * width / short), int(size * height / short)), resample)
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    pixels = np.array(image.crop((left, top, left + crop, top + crop)), dtype=np.float64) / 255
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return (pixels - 0.5) / 0.5


def pixel_values(image, **kwargs):
    (pixels,) = PerceiverStudyImageProcessor(**kwargs)(image)["pixel_values"]
    return pixels.numpy()


def assert_close(actual, expected):
    # float32 against float64 for numbers up to 1: a rounding for each of rescaling, subtraction and division.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-7)


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


def test_arguments_of_a_call_win_over_those_of_the_processor():
    processor, image = PerceiverStudyImageProcessor(), Image.fromarray(noise(40, 60, 3))
    called = processor(image, size=20, crop_size=16, num_frequency_bands=3, return_tensors="np")
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


# What goes in


def test_pillow_modes():
    rgb = Image.fromarray(noise(40, 50, 3))
    for mode in ("L", "1", "CMYK", "YCbCr", "HSV", "RGBX", "P"):
        image = rgb.convert(mode)
        assert_close(pixel_values(image), reference(image.convert("RGB")))
        assert_close(pixel_values(image, num_channels=1), reference(image.convert("RGB").convert("L")))


def on_white(image):
    """By another road than the processor's: Pillow's own compositing, exact where alpha is 0 or 255."""
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


@pytest.mark.parametrize("values", [noise(32, 32).astype(np.int32) * 4, noise(32, 32).astype(np.float32) / 4])
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
        (noise(32, 32, 3), {"num_channels": 1}, "mean must have 1 elements .* got 3"),
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


@pytest.mark.parametrize("image", [7, None, {"image": 1}])
def test_what_is_no_image(image):
    with pytest.raises(TypeError, match=type(image).__name__):
        PerceiverStudyImageProcessor()(image)


# What consumes the output


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = PerceiverStudyConfig(num_latents=8, d_latents=16, num_self_attends_per_block=1)
    return PerceiverStudyForImageClassification(config).eval()


IMAGES = [Image.fromarray(noise(40, 50, 3, seed=seed)) for seed in range(3)]


@torch.no_grad()
def test_model_takes_the_output_as_it_is(model):
    output = PerceiverStudyImageProcessor()(IMAGES)
    logits = model(**output).logits
    assert logits.shape == (3, 2)
    # The processor's positions are, bit for bit, those that the model makes for itself.
    assert torch.equal(model(output["pixel_values"]).logits, logits)
    assert torch.equal(model(output["pixel_values"], output["position_features"][:1]).logits, logits)


@pytest.mark.parametrize("return_tensors", ["pt", "np", None])
def test_collators_stack_samples(return_tensors):
    processor = PerceiverStudyImageProcessor()
    outputs = [processor(image, return_tensors=return_tensors) for image in IMAGES]
    batch = default_data_collator([{name: value[0] for name, value in output.items()} for output in outputs])
    expected = processor(IMAGES)
    assert batch.keys() == expected.keys()
    for name, value in batch.items():
        assert torch.equal(value, expected[name])


def test_datasets_transform(model):
    datasets = pytest.importorskip("datasets")
    processor = PerceiverStudyImageProcessor()
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"image": IMAGES, "labels": [0, 1, 0]}, features=features)

    def transform(batch):
        return {**processor(batch["image"]), "labels": batch["labels"]}

    dataset = dataset.with_transform(transform)
    assert dataset[1]["position_features"].shape == (64, 33)
    (batch,) = torch.utils.data.DataLoader(dataset, batch_size=3, collate_fn=default_data_collator)
    assert torch.equal(batch["position_features"], processor(IMAGES)["position_features"])
    assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_pipeline(model, batch_size):
    processor = PerceiverStudyImageProcessor()
    classify = pipeline("image-classification", model=model, image_processor=processor)
    answers = classify(IMAGES, batch_size=batch_size, top_k=2)
    with torch.no_grad():
        expected = model(**processor(IMAGES)).logits.softmax(dim=-1)
    for answer, probabilities in zip(answers, expected, strict=True):
        scores = {label["label"]: label["score"] for label in answer}
        actual = [scores[name] for name in model.config.id2label.values()]
        # Different batch sizes may add up in different orders, in float32.
        np.testing.assert_allclose(actual, probabilities, rtol=0, atol=1e-6)


# Saving and loading


CHANGED = {
    "size": {"height": 9, "width": 11},
    "crop_size": {"height": 8, "width": 10},
    "do_center_crop": False,
    "image_mean": [0.1, 0.2, 0.3, 0.4, 0.5],
    "image_std": 0.25,
    "num_channels": 5,
    "num_frequency_bands": 3,
    "max_frequencies": [2, 3.5],
    "concat_positions": False,
    "resample": Image.Resampling.NEAREST,
    "return_tensors": "np",
}


@pytest.mark.parametrize("kwargs", [{}, CHANGED, {"do_fourier_encode": False, "do_rescale": None}])
def test_saving_loses_nothing(tmp_path, kwargs):
    processor = PerceiverStudyImageProcessor(**kwargs)
    processor.save_pretrained(tmp_path)
    loaded = PerceiverStudyImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    for name in PerceiverStudyImageProcessor.valid_kwargs.__annotations__:
        assert getattr(loaded, name) == getattr(processor, name), name


def test_saved_folder_is_complete(tmp_path):
    PerceiverStudyImageProcessor().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "PerceiverStudyImageProcessor"
    expected = {"AutoImageProcessor": "image_processing_perceiver_study.PerceiverStudyImageProcessor"}
    assert saved["auto_map"] == expected
    code = {"image_processing_perceiver_study.py", "position.py"}
    assert {path.name for path in tmp_path.iterdir()} == {"preprocessor_config.json", *code}


@pytest.mark.parametrize("available", [False, True])
@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_auto_class_knows_the_imported_package(tmp_path, monkeypatch, available, trust_remote_code):
    monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda: available)
    PerceiverStudyImageProcessor(num_frequency_bands=3).save_pretrained(tmp_path)
    with CaptureLogger(logging.get_logger("transformers")) as log:
        loaded = AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=trust_remote_code)
    assert type(loaded) is PerceiverStudyImageProcessor
    assert loaded.num_frequency_bands == 3
    assert log.out == ""


FRESH = """
    import sys
    sys.modules["modeling_perceiver_study"] = None  # any import of the package fails
    {torchvision}
    import numpy as np
    from transformers import AutoImageProcessor
    from transformers.utils import is_torchvision_available

    assert is_torchvision_available() is {available}
    folder, images, outputs = sys.argv[1:]
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(processor).__name__ == "PerceiverStudyImageProcessor", type(processor)
    processor.save_pretrained(folder + "/again")
    again = AutoImageProcessor.from_pretrained(folder + "/again", trust_remote_code=True)
    assert again.to_dict() == processor.to_dict()
    images = np.load(images)
    np.savez(outputs, **again([images[name] for name in sorted(images)], return_tensors="np"))
"""
# As much of torchvision as transformers imports with its image processors; using any of it fails.
TORCHVISION = {
    "__init__.py": "__version__ = '99.0'",
    "io.py": "",
    "transforms/__init__.py": (
        "import enum\nInterpolationMode = enum.Enum('InterpolationMode', 'NEAREST_EXACT BOX BILINEAR HAMMING BICUBIC "
        "LANCZOS NEAREST')"
    ),
    "transforms/functional.py": "pil_to_tensor = None",
    "transforms/v2/__init__.py": "",
    "transforms/v2/functional.py": "",
}


@pytest.mark.parametrize("available", [False, True])
def test_fresh_process_gives_the_same_with_and_without_torchvision(tmp_path, available):
    processor = PerceiverStudyImageProcessor(num_frequency_bands=3)
    processor.save_pretrained(tmp_path / "saved")
    images = {"a": noise(40, 50, 3), "b": noise(20, 60), "c": noise(70, 33, 4)}
    np.savez(tmp_path / "images.npz", **images)
    if available:
        for name, text in TORCHVISION.items():
            path = tmp_path / "torchvision" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        torchvision = f"sys.path.insert(0, {str(tmp_path)!r})"
    else:
        torchvision = (
            "import importlib.util; real = importlib.util.find_spec; "
            "importlib.util.find_spec = lambda name, *a: None if name == 'torchvision' else real(name, *a)"
        )
    script = textwrap.dedent(FRESH).format(torchvision=torchvision, available=available)
    paths = [str(tmp_path / name) for name in ("saved", "images.npz", "outputs.npz")]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *paths],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # no warning either
    actual, expected = np.load(tmp_path / "outputs.npz"), processor(list(images.values()))
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value.numpy())
