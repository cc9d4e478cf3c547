"""What training sees is what evaluation, the commands and the pipelines see, for pictures of every kind."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import predict
import score
import train
from lab.augment.images import Normalization
from lab.data.decoded_images import Decoder
from lab.data.images import open_image, seen_pixels
from lab.judging.checkpoints import load_classifier
from lab.judging.evaluation import open_checkpoint
from lab.looking.maps import draw_attention_maps
from lab.recipe import DEFAULT_RECIPE, load_recipe
from tests.checkpoints import save_checkpoint
from tests.pictures import encoded, every_picture, noise
from tests.small_data import CLASSES, TINY_RUN, fresh_accelerate

pytestmark = pytest.mark.slow

# Of the size that the model takes, and of another.
PICTURES = {
    f"{name}, {height} x {width}": picture
    for height, width in ((8, 8), (10, 13))
    for name, picture in every_picture(height, width).items()
}


@pytest.fixture(scope="module", params=["colour", "grey"])
def classify(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading") / "checkpoint"
    grey = ["model.num_channels=1", "image_processor.image_mean=[0.5]", "image_processor.image_std=[0.25]"]
    save_checkpoint(folder, *(grey if request.param == "grey" else []))
    return load_classifier(str(folder)).pipeline


@pytest.mark.parametrize("name", PICTURES)
def test_training_sees_what_a_pipeline_sees(classify, name, tmp_path):
    content, image = PICTURES[name]
    processor, settings = classify.image_processor, load_recipe(DEFAULT_RECIPE, TINY_RUN).data
    decoder = Decoder(settings, classify.model.config, processor)
    pixels = decoder.decode_one(image if content is None else {"bytes": content, "path": None})
    trained_on = Normalization(processor)(torch.from_numpy(pixels.copy())[None])
    given = [image]
    if content is not None:
        (tmp_path / "picture").write_bytes(content)
        given += [str(tmp_path / "picture"), open_image(tmp_path / "picture")]
        from_path = decoder.decode_one({"bytes": None, "path": str(tmp_path / "picture")})
        assert np.array_equal(from_path, pixels)
    # Training keeps 8 bits. Only pictures that have more may differ, by half a level, in units of image_std.
    wide = image.mode.startswith(("I", "F"))
    tolerance = (0.5 / 255 if wide else 0) / min(processor.image_std) + 1e-6
    for source in given:
        (seen,) = predicted_on(classify, source)
        torch.testing.assert_close(seen, trained_on, rtol=0, atol=tolerance)
        shown = open_image(tmp_path / "picture") if isinstance(source, str) else source
        assert np.array_equal(seen_pixels(processor, shown), pixels)


def predicted_on(classify, *images):
    """The pixel values that the model of a pipeline gets."""
    seen = []
    hook = classify.model.register_forward_pre_hook(
        lambda model, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    try:
        for image in images:
            classify(image)
    finally:
        hook.remove()
    return seen


def icons(kind, count, seed):
    """Pictures of which the class is a bright third, visible only in what RGB of 8 bits loses."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        shade = rng.integers(0, 60, (12, 12)).astype(np.uint8)
        shade[:, 4 * (index % 3) : 4 * (index % 3) + 4] += 180
        if kind == "transparent PNG":
            yield "png", encoded(Image.fromarray(np.dstack([np.zeros((12, 12, 3), np.uint8), shade])), "png")
        elif kind == "16-bit PNG":
            yield "png", encoded(Image.fromarray(shade * np.uint16(200) + np.uint16(300)), "png")
        else:
            yield "pgm", b"P5 12 12 65535\n" + (shade * np.uint16(200) + np.uint16(300)).astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["transparent PNG", "16-bit PNG", "16-bit PGM"])
def test_what_is_learned_is_predicted(kind, tmp_path, monkeypatch, capsys):
    """Train, evaluate and predict: the same accuracy, and the same probabilities picture by picture."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for seed, (split, count) in enumerate({"train": 60, "test": 18}.items()):
        for index, (ending, content) in enumerate(icons(kind, count, seed)):
            path = tmp_path / "data" / split / CLASSES[index % 3] / f"{index:02d}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    run = tmp_path / "run"
    overrides = [f"data.path={tmp_path / 'data'}", f"output_dir={run}", "data.validation_samples=6"]
    fresh_accelerate()
    train.main([*TINY_RUN, *overrides, "optimization.epochs=12", "optimization.learning_rate=0.02"])
    fresh_accelerate()
    score.main([str(run), "--output", str(tmp_path / "scores")])
    accuracy = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["accuracy"]
    assert accuracy > 0.8

    files = sorted((tmp_path / "data" / "test").rglob(f"*.{ending}"))
    capsys.readouterr()
    predict.main([str(run), *map(str, files), "--top_k", "1"])
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1::2]]
    assert np.mean([name == file.parent.name for name, file in zip(named, files, strict=True)]) == accuracy

    task, model = open_checkpoint(str(run), load_recipe(run / "recipe.yaml"), "auto")
    inputs, _ = task.inputs(task.load_split("test").__getitems__(np.arange(len(files))))
    with torch.no_grad():
        logits = model(**inputs).logits
    classify = load_classifier(str(run)).pipeline
    evaluated = logits.softmax(dim=-1).max(dim=-1).values.sort().values
    predicted = torch.tensor([answer[0]["score"] for answer in classify([str(file) for file in files])]).sort().values
    # Half a level of 255 in 16-bit pictures, which evaluation keeps in 8 bits.
    torch.testing.assert_close(predicted, evaluated, rtol=0, atol=1e-6 if kind == "transparent PNG" else 0.02)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so when it opens a JPEG file
def test_malformed_exif_costs_no_answer(classify, tmp_path, capsys):
    """Neither that for the picture that has it nor those for others, in training, prediction, maps and on the page."""
    names = []
    for kind in ("png", "webp", "jpeg"):
        for exif in (b"garbage", b"Exif\0\0II*\0garbage"):
            names.append(tmp_path / f"{len(names)}.{kind}")
            names[-1].write_bytes(encoded(Image.fromarray(noise(8, 8, 3)), kind, exif=exif))
    folder = tmp_path / "checkpoint"
    classify.model.save_pretrained(folder)
    classify.image_processor.save_pretrained(folder)
    predict.main([str(folder), *map(str, names), "--top_k", "1"])
    assert capsys.readouterr().out.splitlines()[::2] == [str(name) for name in names]
    settings = load_recipe(DEFAULT_RECIPE, TINY_RUN).data
    decoder = Decoder(settings, classify.model.config, classify.image_processor)
    for name in names:
        pixels = decoder.decode_one({"bytes": name.read_bytes(), "path": None})
        assert np.array_equal(pixels, seen_pixels(classify.image_processor, open_image(name)))
        draw_attention_maps(classify.model, classify.image_processor, open_image(name), ["first"], latents=[1])
