"""One reading of a picture, whether it comes as a file, a PIL image or through a pipeline, and in whatever mode."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from transformers import AutoModelForImageClassification, pipeline

from modeling_perceiver_study import (
    PerceiverStudyImageClassificationPipeline,
    PerceiverStudyImageFeatureExtractionPipeline,
    PerceiverStudyImageProcessor,
    PerceiverStudyProcessor,
    PerceiverStudyTokenizer,
)
from modeling_perceiver_study.image_reading import open_image, upright
from tests.checkpoints import save_checkpoint
from tests.file_server import serving
from tests.pictures import encoded, every_picture, noise, opened, pixel_values

pytestmark = pytest.mark.slow

PICTURES = every_picture()
RAW = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
TASKS = ["image-classification", "image-feature-extraction"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading") / "checkpoint"
    save_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def pipelines(checkpoint):
    return {task: pipeline(task, model=str(checkpoint), trust_remote_code=True) for task in TASKS}


def seen_by_model(run, *inputs):
    """The pixel values that reach the model of a pipeline."""
    seen = []
    handle = run.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    try:
        for given in inputs:
            run(given)
    finally:
        handle.remove()
    return [kwargs["pixel_values"] for kwargs in seen]


# What a picture is


def whole_numbers(image, **kwargs):
    return np.rint(pixel_values(image, **RAW, **kwargs)).astype(int)


def on_white(colours, alpha):
    """By hand: `(H, W)` or `(H, W, 3)` and `(H, W)` to `(3, H, W)`."""
    colours = np.atleast_3d(colours).astype(float)
    share = alpha[..., None] / 255
    laid = np.floor(colours * share + 255 * (1 - share) + 0.5)
    return np.broadcast_to(laid, (*alpha.shape, 3)).transpose(2, 0, 1)


RGB, GREY, ALPHA = noise(10, 8, 3), noise(10, 8, seed=1), noise(10, 8, seed=2)
OPAQUE = np.full_like(GREY, 255)
BY_HAND = {
    "L with a colour": on_white(GREY & 3, np.where(GREY & 3 == 2, 0, 255)),
    "LA": on_white(GREY, ALPHA),
    "RGB with a colour": on_white(RGB, np.where((RGB[0, 0] == RGB).all(axis=-1), 0, 255)),
    "RGBA": on_white(RGB, ALPHA),
    "RGBX": on_white(RGB, OPAQUE),
    **dict.fromkeys(
        ["L", "I;16", "I;16B", "I;16L", "I;16N", "I of PGM", "I of TIFF, 16 bits", "I of TIFF, 8 bits", "F"],
        on_white(GREY, OPAQUE),
    ),
    "I;16 with a colour": on_white(np.where(GREY[0, 0] == GREY, 255, GREY), OPAQUE),
    "I of a dark PGM": on_white(np.zeros_like(GREY), OPAQUE),
    "F beyond 0 to 255": on_white((GREY.astype(float) * 2 - 100).clip(0, 255), OPAQUE),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_pictures_are_what_they_are_by_hand(name):
    content, image = PICTURES[name]
    np.testing.assert_array_equal(whole_numbers(image), BY_HAND[name])
    if content is not None:
        np.testing.assert_array_equal(whole_numbers(opened(content)), BY_HAND[name])


def test_there_is_a_picture_of_every_mode_of_pillow():
    modes = {image.mode for _, image in PICTURES.values()}
    assert modes >= {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
    assert modes >= {"I", "I;16", "I;16B", "I;16L", "I;16N", "F"}


@pytest.mark.parametrize("name", ["La", "RGBa"])
def test_premultiplied_colours(name):
    plain = {"La": "LA", "RGBa": "RGBA"}[name]
    np.testing.assert_allclose(whole_numbers(PICTURES[name][1]), whole_numbers(PICTURES[plain][1]), atol=1)


@pytest.mark.parametrize("name", ["1", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_opaque_pictures_of_8_bits_are_those_of_transformers(name):
    image = PICTURES[name][1]
    np.testing.assert_array_equal(whole_numbers(image), np.array(image.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["I;16", "I of PGM"])
@pytest.mark.parametrize("kwargs", [{}, {"do_convert_rgb": False}])
def test_sixteen_bits_in_one_channel(name, kwargs):
    np.testing.assert_array_equal(whole_numbers(PICTURES[name][1], num_channels=1, **kwargs), GREY[None])


# One reading everywhere


def sources(name, folder):
    """The same picture as all that may stand for it."""
    content, image = PICTURES[name]
    yield image
    if content is not None:
        path = folder / "picture"
        path.write_bytes(content)
        yield from (str(path), path, base64.b64encode(content).decode())
        yield f"data:image/x;base64,{base64.b64encode(content).decode()}"
        yield opened(content)
        yield from (content, bytearray(content), memoryview(content), io.BytesIO(content))
        yield from ({"bytes": content, "path": None}, {"bytes": None, "path": str(path)}, {"path": path})


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("task", TASKS)
def test_pipelines_see_what_the_processor_makes(pipelines, tmp_path, name, task):
    run = pipelines[task]
    given = list(sources(name, tmp_path))
    expected = run.image_processor(PICTURES[name][1])["pixel_values"]
    for source, seen in zip(given, seen_by_model(run, *given), strict=True):
        assert torch.equal(seen, expected)
        assert torch.equal(run.image_processor(source)["pixel_values"], expected)


@pytest.mark.parametrize("task", [*TASKS, "several"])
def test_a_folder_by_its_tilde(pipelines, tmp_path, monkeypatch, task):
    content, image = PICTURES["RGBA"]
    (tmp_path / "picture.png").write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in ("~/picture.png", Path("~/picture.png"), {"path": "~/picture.png"}):
        if task == "several":
            several = PerceiverStudyProcessor({"image": PerceiverStudyImageProcessor()})
            (seen,) = several({"image": source})["pixel_values"]
            assert torch.equal(seen, several({"image": image})["pixel_values"][0])
        else:
            (seen,) = seen_by_model(pipelines[task], source)
            assert torch.equal(seen, pipelines[task].image_processor(image)["pixel_values"])


@pytest.mark.parametrize("name", ["RGB", "I;16"])
def test_files_among_several_modalities(tmp_path, name):
    """As the value of a modality, and as a sample that has all of them."""
    several = PerceiverStudyProcessor({"image": PerceiverStudyImageProcessor(), "text": PerceiverStudyTokenizer()})
    expected = several({"image": PICTURES[name][1]})
    for source in sources(name, tmp_path):
        for found in (several({"image": source}), several([{"image": source}, {"text": "a"}])):
            assert torch.equal(found["pixel_values"][:1], expected["pixel_values"])
        if not isinstance(source, (dict, Image.Image)) and not str(source).startswith(("data:", "iVBOR")):
            assert torch.equal(several(source)["pixel_values"], expected["pixel_values"])
    with serving(tmp_path) as server:
        for sample in (f"{server}/picture", {"image": f"{server}/picture"}, {"image": {"path": f"{server}/picture"}}):
            assert torch.equal(several(sample)["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize("wrong", [{"bytes": None, "path": None}, {"picture": b""}, {"image": 1}])
def test_a_dict_without_a_file(wrong):
    with pytest.raises(ValueError, match=r"a dict with .*: expected `bytes` or `path`"):
        PerceiverStudyImageProcessor()(wrong)


@pytest.mark.parametrize("task", TASKS)
def test_pipelines_take_arrays_and_tensors(pipelines, task):
    rgba = noise(10, 9, 4)
    expected = pipelines[task].image_processor(Image.fromarray(rgba))["pixel_values"]
    for seen in seen_by_model(pipelines[task], rgba, torch.from_numpy(rgba)):
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("task", TASKS)
def test_pipelines_do_not_round_to_the_dtype_of_the_model(checkpoint, task):
    run = pipeline(task, model=str(checkpoint), trust_remote_code=True, dtype=torch.bfloat16)
    seen = []
    run.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    run(Image.fromarray(RGB))
    expected = run.image_processor(Image.fromarray(RGB))
    assert seen[0].keys() >= expected.keys()
    assert all(torch.equal(seen[0][name], value) for name, value in expected.items())


def test_pipelines_of_objects_can_be_ours(checkpoint):
    """transformers looks for the pipelines of a folder only where it is given that folder."""
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    processor = PerceiverStudyImageProcessor.from_pretrained(checkpoint)
    for task, ours in zip(
        TASKS, [PerceiverStudyImageClassificationPipeline, PerceiverStudyImageFeatureExtractionPipeline], strict=True
    ):
        run = pipeline(task, model=model, image_processor=processor, pipeline_class=ours)
        image = PICTURES["RGBA"][1]
        assert torch.equal(seen_by_model(run, image)[0], processor(image)["pixel_values"])


def test_a_pipeline_leaves_the_configuration_as_it_was(pipelines, tmp_path):
    """transformers puts classes into what `custom_pipelines` returns; they cannot be saved as JSON."""
    pipelines[TASKS[0]].save_pretrained(tmp_path)
    pipelines[TASKS[0]].save_pretrained(tmp_path)
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text()
    again = pipeline(TASKS[0], model=str(tmp_path), trust_remote_code=True)
    assert type(again).__name__ == "PerceiverStudyImageClassificationPipeline"


def test_a_url(pipelines, tmp_path):
    content, image = PICTURES["RGBA"]
    (tmp_path / "picture.png").write_bytes(content)
    run = pipelines["image-classification"]
    with serving(tmp_path) as server:
        url = f"{server}/picture.png"
        (seen,) = seen_by_model(run, url)
        assert torch.equal(run.image_processor(url)["pixel_values"], seen)
        assert run(url, timeout=9)
    assert torch.equal(seen, run.image_processor(image)["pixel_values"])


@pytest.mark.parametrize("source", ["absent.png", "http:/x", "data:image/png;base64,!"])
def test_a_string_that_is_no_picture(source):
    with pytest.raises((ValueError, OSError), match=r"absent.png|http:/x|cannot identify"):
        PerceiverStudyImageProcessor()(source)


# EXIF


def with_orientation(orientation, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if kind == "webp" else {}
    return opened(encoded(Image.fromarray(noise(6, 9, 3)), kind, exif=exif, **options))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp", "jpeg", "tiff"])
def test_pictures_are_turned_upright_once(pipelines, orientation, kind):
    image = with_orientation(orientation, kind)
    expected = np.array(ImageOps.exif_transpose(image)).transpose(2, 0, 1)
    np.testing.assert_array_equal(whole_numbers(image), expected)
    np.testing.assert_array_equal(whole_numbers(upright(upright(image))), expected)
    np.testing.assert_array_equal(whole_numbers(ImageOps.exif_transpose(image)), expected)
    run = pipelines["image-classification"]
    assert torch.equal(seen_by_model(run, image)[0], run.image_processor(image)["pixel_values"])


def test_turning_keeps_transparency_and_16_bits():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    palette = Image.fromarray(noise(6, 9, 3)).quantize(4)
    for image, options in ((palette, {"transparency": 1}), (Image.fromarray(noise(6, 9) * np.uint16(257)), {})):
        turned, plain = (opened(encoded(image, "png", **options, **more)) for more in ({"exif": exif}, {}))
        np.testing.assert_array_equal(whole_numbers(turned), np.rot90(whole_numbers(plain), -1, axes=(1, 2)))
    dark = opened(PICTURES["I of a dark PGM"][0])
    dark.getexif()[ExifTags.Base.Orientation] = 6
    assert upright(dark).size == (10, 8)
    assert not whole_numbers(dark).any()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so when it opens a JPEG file
@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0II*\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03"])
def test_malformed_exif_is_ignored(pipelines, kind, exif):
    image = Image.fromarray(noise(6, 9, 3))
    broken, plain = (encoded(image, kind, **options) for options in ({"exif": exif}, {}))
    np.testing.assert_array_equal(whole_numbers(opened(broken)), whole_numbers(opened(plain)))
    assert pipelines["image-classification"](opened(broken))


def test_opening_leaves_other_things_as_they_are():
    array = noise(3, 4)
    assert open_image(array) is array


@pytest.mark.parametrize("as_text", [True, False])
def test_what_is_no_image_is_named(tmp_path, as_text):
    path = tmp_path / "notes.txt"
    path.write_text("no picture")
    with pytest.raises(UnidentifiedImageError, match="notes"):
        open_image(str(path) if as_text else path)


@pytest.mark.parametrize("source", ["", "/tmp"])
def test_text_that_could_be_base64_is_named(source):
    with pytest.raises(UnidentifiedImageError, match=f"'{source}'"):
        open_image(source)
