"""What the Hub's inference widget does with a checkpoint, through transformers' pipelines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ImageClassificationPipeline,
    pipeline,
)

from tests.checkpoints import save_checkpoint
from tests.small_data import CLASSES, coloured_images

pytestmark = pytest.mark.slow

RELEASED = Path(__file__).parents[2] / "model_cards"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "checkpoint"
    return folder, save_checkpoint(folder)


@pytest.fixture(scope="module")
def classify(checkpoint):
    return pipeline("image-classification", model=str(checkpoint[0]), trust_remote_code=True)


@pytest.fixture(scope="module")
def images():
    return coloured_images(5, seed=3, size=12)[0]


@pytest.fixture(scope="module")
def expected(checkpoint, images):
    """Probabilities by name, for each image."""
    folder, model = checkpoint
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        probabilities = model(**processor(images)).logits.softmax(dim=-1)
    return [dict(zip(CLASSES, row, strict=True)) for row in probabilities.tolist()]


def assert_same(found, expected, tolerance=1e-6):
    for entries, probabilities in zip(found, expected, strict=True):
        assert [entry["score"] for entry in entries] == sorted((e["score"] for e in entries), reverse=True)
        for entry in entries:
            assert entry["score"] == pytest.approx(probabilities[entry["label"]], abs=tolerance)


def test_images(classify, images, expected):
    assert_same([classify(image) for image in images], expected)


def test_paths(classify, images, expected, tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    assert_same(classify(paths), expected)
    assert_same([classify(paths[0])], expected[:1])


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches(classify, images, expected, batch_size):
    assert_same(classify(images, batch_size=batch_size), expected)


def test_a_generator(classify, images, expected):
    found = classify((image for image in images), batch_size=2)
    assert_same(list(found), expected)


def test_top_k(classify, images, expected):
    for k in (1, 2, 3):
        found = classify(images, top_k=k)
        assert {len(entries) for entries in found} == {k}
        assert_same(found, expected)


def test_a_size_of_its_own(classify, images):
    assert classify(images[0].resize((31, 17)))[0]["label"] in CLASSES


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(checkpoint, images, expected, dtype):
    classify = pipeline("image-classification", model=str(checkpoint[0]), trust_remote_code=True, dtype=dtype)
    assert classify.model.dtype == dtype
    assert_same(classify(images, batch_size=2), expected, tolerance=0.03 if dtype == torch.bfloat16 else 0.005)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_stay_exact_in_half_precision(images, dtype):
    """transformers' pipeline casts the processor's features like pixels; the released model still has its own."""
    classify = pipeline(
        "image-classification",
        model=str(RELEASED / "perceiver-cifar10"),
        trust_remote_code=True,
        dtype=dtype,
        pipeline_class=ImageClassificationPipeline,
    )
    inputs = classify.image_processor(images)
    with torch.no_grad():
        logits = classify.model(inputs["pixel_values"].to(dtype), inputs["position_features"]).logits
    names = classify.model.config.id2label.values()
    expected = [dict(zip(names, row, strict=True)) for row in logits.float().softmax(dim=-1).tolist()]
    assert_same(classify(images, batch_size=len(images), top_k=10), expected)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForImageClassification])
def test_device_map(checkpoint, auto_class):
    folder, model = checkpoint
    loaded = auto_class.from_pretrained(folder, trust_remote_code=True, device_map="auto").eval()
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        found = loaded(pixels.to(loaded.device))[0].cpu()
        expected = (model if auto_class is AutoModelForImageClassification else model.perceiver)(pixels)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_device_map_in_a_pipeline(checkpoint, images, expected):
    classify = pipeline("image-classification", model=str(checkpoint[0]), trust_remote_code=True, device_map="auto")
    assert_same(classify(images), expected, tolerance=1e-4)


def test_features(checkpoint, images):
    folder, model = checkpoint
    extract = pipeline("image-feature-extraction", model=str(folder), trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        latents = model.perceiver(**processor(images)).last_hidden_state
    for found, of_image in zip(extract(images), latents, strict=True):
        torch.testing.assert_close(torch.tensor(found), of_image[None], rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_an_array_of_several_pictures(checkpoint, images, task):
    run = pipeline(task, model=str(checkpoint[0]), trust_remote_code=True)
    assert run(np.stack([np.asarray(image) for image in images])) == run(list(images))
