"""What takes the image processor's output, and the processor itself from a saved folder, in a fresh process too."""

import json
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, default_data_collator, logging, pipeline
from transformers.models.auto import image_processing_auto
from transformers.testing_utils import CaptureLogger

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForImageClassification,
    PerceiverStudyImageProcessor,
)
from tests.fresh_processes import python
from tests.pictures import noise

pytestmark = pytest.mark.slow

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
    code = {"image_processing_perceiver_study.py", "image_reading.py", "fetching.py", "position.py", "scalars.py"}
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
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    result = python("-W", "error", "-c", script, *paths, folder=tmp_path, environment=environment)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # no warning either
    actual, expected = np.load(tmp_path / "outputs.npz"), processor(list(images.values()))
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value.numpy())
