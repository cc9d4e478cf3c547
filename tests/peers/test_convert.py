"""What `scripts/convert.py` writes, there and back, and what it refuses. Numbers are compared in test_deepmind.py."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PerceiverImageProcessorPil

import convert
from lab.errors import UserError
from lab.peers.deepmind import ARCHITECTURES
from modeling_perceiver_study import PerceiverStudyForImageClassification, PerceiverStudyImageProcessor
from tests.deepmind_models import (
    CONV,
    FOURIER,
    LEARNED,
    TOLERANCES,
    TOY,
    assert_close,
    convert_and_load,
    run_both,
    save,
    their_model,
)
from tests.model.test_loading import CODE
from tests.models import small_model

pytestmark = pytest.mark.slow

# What is written


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A source with labels and a card, and what became of it."""
    folder = tmp_path_factory.mktemp("convert")
    labels = dict(enumerate(["ant", "bee", "cow", "dog", "eel"]))
    fields = {**TOY, "id2label": labels, "label2id": {label: index for index, label in labels.items()}}
    del fields["num_labels"]
    save(their_model(FOURIER, **fields), folder / "theirs")
    card = ModelCardData(license="cc-by-4.0", datasets=["imagenet-1k"], tags=["other"])
    (folder / "theirs" / "README.md").write_text(f"---\n{card.to_yaml()}\n---\n\n# Theirs\n")
    ours, processor = convert_and_load(folder / "theirs", folder / "ours")
    return folder, ours, processor


def test_the_folder_is_complete(converted):
    folder, ours, _ = converted
    expected = CODE | {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert {path.name for path in (folder / "ours").iterdir()} == expected
    assert ours.config.id2label == dict(enumerate(["ant", "bee", "cow", "dog", "eel"]))
    assert ours.config.label2id["cow"] == 2
    assert {path.name for path in folder.iterdir()} == {"theirs", "ours"}


def test_the_card_credits_the_source(converted):
    folder, _, _ = converted
    card = ModelCard.load(folder / "ours" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.datasets == ["imagenet-1k"]
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.eval_results is None
    assert "`theirs`" in card.text and "cc-by-4.0" in card.text and "not measured" in card.text
    assert str(folder) not in card.content


def test_a_source_without_a_licence(tmp_path):
    save(their_model(FOURIER, **TOY), tmp_path / "theirs")
    convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    card = ModelCard.load(tmp_path / "ours" / "README.md")
    assert card.data.license is None
    assert "names no licence" in card.text


@pytest.mark.parametrize("width, height", [(24, 24), (50, 40), (40, 50), (27, 31), (224, 17), (301, 500)])
def test_the_processor_gives_the_same_pixels(converted, width, height):
    folder, _, processor = converted
    theirs = PerceiverImageProcessorPil.from_pretrained(folder / "theirs")
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    for mode in ("RGB", "L"):
        image = Image.fromarray(noise).convert(mode)
        expected = theirs(image.convert("RGB"), return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(processor(image, return_tensors="np")["pixel_values"], expected)


def test_pickled_weights(converted, tmp_path):
    folder, ours, _ = converted
    shutil.copytree(folder / "theirs", tmp_path / "theirs")
    weights = load_file(tmp_path / "theirs" / "model.safetensors")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "theirs" / "pytorch_model.bin")
    again, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    for name, weight in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_a_name_on_the_hub(converted, tmp_path, monkeypatch):
    """Pickled weights are downloaded only where there are no others; the card names the repository."""
    folder, ours, _ = converted
    asked = []

    def download(name, allow_patterns):
        asked.append((name, "pytorch_model.bin" in allow_patterns))
        kept = [file for pattern in allow_patterns for file in hub.glob(pattern)]
        for file in kept:
            shutil.copy(file, cache)
        return str(cache)

    monkeypatch.setattr(convert, "snapshot_download", download)
    hub, cache = folder / "theirs", tmp_path / "cache"
    cache.mkdir()
    convert_and_load("org/perceiver", tmp_path / "ours")
    assert asked == [("org/perceiver", False)]
    card = ModelCard.load(tmp_path / "ours" / "README.md")
    assert card.data.base_model == "org/perceiver"
    assert "`org/perceiver`" in card.text
    # And the same with pickled weights.
    hub = tmp_path / "hub"
    shutil.copytree(folder / "theirs", hub)
    torch.save(load_file(hub / "model.safetensors"), hub / "pytorch_model.bin")
    (hub / "model.safetensors").unlink()
    (cache / "model.safetensors").unlink()
    again, _ = convert_and_load("org/perceiver", tmp_path / "again")
    assert asked[1:] == [("org/perceiver", False), ("org/perceiver", True)]
    for name, weight in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_a_hub_out_of_reach(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(convert, "snapshot_download", fail)
    with pytest.raises(UserError, match="org/perceiver is not a folder, and cannot be downloaded: no route to host"):
        convert.main(["org/perceiver", str(tmp_path / "dest")])
    assert not list(tmp_path.iterdir())


def test_shards(converted, tmp_path):
    folder, ours, _ = converted
    shutil.copytree(folder / "theirs", tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    theirs = their_model(FOURIER, **TOY)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    again, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    for name, weight in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_copies_of_weights_are_not_read(tmp_path):
    for name, value in (("model.safetensors", 1.0), ("model_old.safetensors", 2.0), ("model.fp16.safetensors", 3.0)):
        save_file({"latents": torch.tensor([value])}, tmp_path / name)
    assert convert.read_weights(tmp_path)["latents"].item() == 1.0


def test_half_precision_stays(tmp_path):
    save(their_model(CONV, **TOY).half(), tmp_path / "theirs")
    ours, _ = convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    assert ours.dtype == torch.float16
    assert ours.perceiver.inputs.stem.batchnorm.num_batches_tracked.dtype == torch.int64


# Back


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_there_and_back_again(architecture, tmp_path):
    save(their_model(architecture, **TOY), tmp_path / "theirs")
    convert_and_load(tmp_path / "theirs", tmp_path / "ours")
    convert.main([str(tmp_path / "ours"), str(tmp_path / "back"), "--reverse"])
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    before, after = (PerceiverImageProcessorPil.from_pretrained(tmp_path / name) for name in ("theirs", "back"))
    assert before.to_dict() | {"do_convert_rgb": True} == after.to_dict()  # as pictures of other modes are taken here


BACK = {
    "image_size": 24,
    "num_frequency_bands": 64,
    "max_frequencies": 112.0,
    "num_cross_attends": 1,
    "decoder_type": "query",
}
LEARNED_INPUTS = {
    "stem_type": "linear",
    "stem_channels": 256,
    "position_encoding_type": "learned",
    "learned_position_channels": 256,
    "project_learned_positions": True,
}


def save_ours(folder, processor=None, **fields):
    model = small_model(**{**BACK, **fields})
    model.save_pretrained(folder)
    processor = processor or {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}}
    PerceiverStudyImageProcessor(num_frequency_bands=64, max_frequencies=112.0, **processor).save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "architecture, fields",
    [
        (FOURIER, {}),
        (FOURIER, {"image_size": [24, 16], "num_blocks": 1, "share_block_weights": False}),
        (LEARNED, {**LEARNED_INPUTS, "max_frequencies": None}),
        (CONV, {"stem_type": "conv", "max_frequencies": 28.0}),
    ],
)
def test_a_checkpoint_of_ours_opens_in_transformers(architecture, fields, tmp_path, capsys):
    ours = save_ours(tmp_path / "ours", **fields)
    convert.main([str(tmp_path / "ours"), str(tmp_path / "theirs"), "--reverse"])
    assert "pixels differ a little" in capsys.readouterr().out
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "theirs").eval()
    assert type(theirs).__name__ == architecture
    pixels = torch.randn(2, 3, *ours.config.grid)
    for dtype in TOLERANCES:
        their_output, our_output = run_both(theirs, ours, pixels, dtype)
        assert_close(our_output.logits, their_output.logits, dtype)
    # Its processor cuts out the same 24 / 28 of an image; that it does so first makes a difference at the border.
    processor = PerceiverImageProcessorPil.from_pretrained(tmp_path / "theirs")
    image = Image.linear_gradient("L").resize((60, 48))
    cut = processor(image, return_tensors="pt")["pixel_values"]
    expected = PerceiverStudyImageProcessor.from_pretrained(tmp_path / "ours")(image)["pixel_values"]
    torch.testing.assert_close(cut, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "fields, messages",
    [
        (
            {"num_cross_attends": 3, "decoder_type": "mean", "max_frequencies": None},
            [
                "num_cross_attends=3, expected 1",
                "decoder_type='mean', expected 'query'",
                "max_frequencies=[12.0, 12.0], expected [112.0, 112.0]",
            ],
        ),
        ({"share_block_weights": False}, ["share_block_weights=False"]),
        ({"num_channels": 1}, ["num_channels=1, expected 3"]),
        ({"num_frequency_bands": 4, "layer_norm_eps": 1e-12}, ["num_frequency_bands=4", "layer_norm_eps=1e-12"]),
        ({"qk_channels": 8}, ["values of 8 channels in self-attends, expected d_latents=16"]),
        ({"num_cross_attention_heads": 3, "cross_attention_shape_for_attention": "kv"}, ["a divisor of d_latents=16"]),
        ({**LEARNED_INPUTS, "image_size": [24, 16]}, ["expected a square"]),
        ({"position_encoding_type": "none"}, ["no Perceiver with stem_type='none' and position_encoding_type='none'"]),
    ],
)
def test_shapes_that_cannot_go_back(fields, messages, tmp_path):
    save_ours(tmp_path / "ours", **fields)
    assert_refused(tmp_path, "ours", messages, "--reverse")


@pytest.mark.parametrize(
    "processor",
    [
        {"size": {"height": 24, "width": 24}},
        {"do_center_crop": False, "size": {"shortest_edge": 24}},
        {"do_pad": True, "pad_size": {"height": 30, "width": 30}},
    ],
)
def test_processors_that_cannot_go_back(processor, tmp_path):
    save_ours(tmp_path / "ours", processor)
    assert_refused(tmp_path, "ours", ["the image processor"], "--reverse")


# Bad sources


def assert_refused(folder, source, messages, *options):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        convert.main([str(folder / source), str(folder / "dest"), *options])
    for message in messages:
        assert message in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def _change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _lose_and_gain(weights):
    del weights["perceiver.embeddings.latents"]
    del weights["perceiver.encoder.self_attends.1.mlp.dense1.bias"]
    weights["extra"] = torch.zeros(1)


def _reshape(weights):
    weights["perceiver.decoder.decoder.final_layer.bias"] = torch.zeros(7)
    weights["perceiver.embeddings.latents"] = torch.zeros(6, 15)


def _pickle_code(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weights": print}, folder / "pytorch_model.bin")


BAD = {
    "language model": (
        lambda folder: _change_config(folder, architectures=["PerceiverForMaskedLM"]),
        ["missing: perceiver.input_preprocessor.embeddings.weight"],
    ),
    "model of moving pictures": (
        lambda folder: _change_config(folder, architectures=["PerceiverForOpticalFlow"]),
        ["PerceiverForOpticalFlow: expected PerceiverForImageClassificationFourier"],
    ),
    "base model": (lambda folder: _change_config(folder, architectures=None), ["architecture none"]),
    "missing and unexpected": (
        lambda folder: _change_weights(folder, _lose_and_gain),
        [
            "missing: perceiver.embeddings.latents",
            "missing: perceiver.encoder.self_attends.1.mlp.dense1.bias",
            "unexpected: extra",
        ],
    ),
    "wrong shapes": (
        lambda folder: _change_weights(folder, _reshape),
        [
            "wrong shape: perceiver.decoder.decoder.final_layer.bias is (7,), expected (5,)",
            "wrong shape: perceiver.embeddings.latents is (6, 15), expected (6, 16)",
        ],
    ),
    "truncated": (lambda folder: _truncate(folder / "model.safetensors"), ["model.safetensors cannot be read"]),
    "code in a pickle": (_pickle_code, ["pytorch_model.bin cannot be read"]),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), ["holds no weights"]),
    "no config": (lambda folder: (folder / "config.json").unlink(), ["holds no config.json"]),
    "torn config": (lambda folder: _truncate(folder / "config.json"), ["config.json cannot be read"]),
    "bad field": (lambda folder: _change_config(folder, num_latents="many"), ["num_latents"]),
    "heads": (lambda folder: _change_config(folder, num_cross_attention_heads=2), ["num_cross_attention_heads=2"]),
    "values": (lambda folder: _change_config(folder, v_channels=8), ["values of 8 channels in self-attends"]),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), ["no preprocessor_config.json"]),
    "other processor": (
        lambda folder: (folder / "preprocessor_config.json").write_text('{"image_processor_type": "ViTFast"}'),
        ["is for ViTFast: expected PerceiverImageProcessor"],
    ),
}


@pytest.mark.parametrize("spoil, messages", BAD.values(), ids=BAD.keys())
def test_bad_sources(spoil, messages, converted, tmp_path):
    folder, _, _ = converted
    shutil.copytree(folder / "theirs", tmp_path / "theirs")
    spoil(tmp_path / "theirs")
    assert_refused(tmp_path, "theirs", messages)


def test_sources_that_are_not_there(tmp_path):
    assert_refused(tmp_path, "not/there", ["no such folder, and no name on the Hub"])
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path, "empty", ["holds no config.json"])


def test_directions_are_not_mixed_up(converted, tmp_path):
    folder, _, _ = converted
    shutil.copytree(folder, tmp_path / "both")
    assert_refused(tmp_path, "both/theirs", ["expected PerceiverStudyForImageClassification"], "--reverse")
    assert_refused(tmp_path, "both/ours", ["holds architecture PerceiverStudyForImageClassification"])


def test_a_destination_in_use_is_left_alone(converted, tmp_path):
    folder, _, _ = converted
    (tmp_path / "dest").mkdir()
    convert.main([str(folder / "theirs"), str(tmp_path / "dest")])
    before = (tmp_path / "dest" / "config.json").stat()
    assert_refused(tmp_path, folder / "theirs", ["is not an empty folder"])
    assert (tmp_path / "dest" / "config.json").stat() == before


def test_a_failure_while_writing_leaves_nothing(converted, tmp_path, monkeypatch):
    def fail(self, folder):
        (folder / "half").touch()
        raise OSError("no space left")

    folder, _, _ = converted
    monkeypatch.setattr(PerceiverStudyForImageClassification, "save_pretrained", fail)
    assert_refused(tmp_path, folder / "theirs", ["cannot be written (no space left)"])
