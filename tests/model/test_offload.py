"""Weights that lie elsewhere until a layer is called: accelerate's offloading and device maps, and the meta device."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import nn

from modeling_perceiver_study import (
    PerceiverStudyForImageClassification,
    PerceiverStudyForMaskedLM,
    PerceiverStudyForTokenClassification,
)
from modeling_perceiver_study.decoder import FourierQueries, PerceiverStudyLatents, PerceiverStudyOutputs
from tests.model.test_bytes import ids_of as bytes_ids
from tests.model.test_bytes import model_of as bytes_model
from tests.models import GRIDS, pixels, small_config, small_model


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def grid(request):
    return request.param


def offload(how: str, model: nn.Module, folder) -> nn.Module:
    match how:
        case "cpu_offload":
            return cpu_offload(model, torch.device("cpu"))
        case "disk_offload":
            return disk_offload(model, folder, torch.device("cpu"))
        case "dispatch_model":
            places = {"perceiver.cross_attends.0": "cpu", "perceiver.cross_attends.1": "disk"}
            rest = {"perceiver.inputs": "cpu", "perceiver.latents": "cpu", "perceiver.blocks": "disk"}
            return dispatch_model(model, {**places, **rest, "classifier": "cpu"}, main_device="cpu", offload_dir=folder)


@pytest.mark.parametrize("how", ["cpu_offload", "disk_offload", "dispatch_model"])
def test_offloaded_models(how, grid, tmp_path):
    model = small_model(**grid)
    images = pixels(model.config)
    expected = model(images).logits
    model = offload(how, model, str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match="forward of layernorm_inputs is replaced"):
            model(images, cross_attend_path="separable")


@pytest.mark.parametrize(
    "device_map",
    ["auto", {"": "cpu"}, {"perceiver": "disk", "classifier": "cpu"}, {"perceiver": "cpu", "classifier": "disk"}],
    ids=["auto", "cpu", "disk", "some on disk"],
)
def test_device_maps(device_map, tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "model")
    loaded = PerceiverStudyForImageClassification.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    images = pixels(model.config)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).logits, model(images).logits, rtol=1e-5, atol=1e-5)


def test_no_weights_on_the_meta_device():
    with torch.device("meta"):
        model = PerceiverStudyForImageClassification(small_config())
    images = pixels(model.config).to("meta")
    assert model(images).logits.shape == (3, 5)
    with pytest.raises(ValueError, match="weight of layernorm_inputs is on the meta device"):
        model(images, cross_attend_path="separable")


@pytest.mark.parametrize("how", ["cpu_offload", "disk_offload"])
@pytest.mark.parametrize("queries", ["positions", "inputs"])
def test_offloaded_masked_language_models(how, queries, tmp_path):
    """Embeddings are used twice, the second time as weights of the output."""
    model = bytes_model(PerceiverStudyForMaskedLM, masked_lm_queries=queries)
    ids = bytes_ids()
    expected = model(input_ids=ids).logits
    model = offload(how, model, str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["cpu_offload", "disk_offload"])
def test_fewer_latents_of_an_offloaded_model(how, tmp_path):
    model = small_model()
    images = pixels(model.config)
    expected = model(images, num_latents=4).logits
    model = offload(how, model, str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(model(images, num_latents=4).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_head_that_lies_elsewhere_than_its_decoder(place, tmp_path):
    """Hooks move arguments of the decoder to its device; the head is one, and stays where hooks of its own find it."""
    model = bytes_model(PerceiverStudyForTokenClassification)
    ids = bytes_ids()
    expected = model(input_ids=ids).logits
    device_map = {"perceiver": "cpu", "decoder": "disk" if place == "cpu" else "cpu", "classifier": place}
    model = dispatch_model(model, device_map, offload_dir=str(tmp_path), force_hooks=True)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert model.classifier.weight.is_meta == (place == "disk")


def test_queries_and_heads_of_tasks_that_lie_elsewhere(tmp_path):
    torch.manual_seed(0)
    queries = {"label": PerceiverStudyLatents(1, 8), "pixels": FourierQueries([3, 4], num_frequency_bands=2)}
    outputs = PerceiverStudyOutputs(small_config(), queries, num_labels={"label": 5, "pixels": 3})
    latents = torch.randn(2, 6, 16)
    expected = outputs(latents)
    outputs = dispatch_model(outputs, {"queries": "disk", "decoder": "cpu", "heads": "disk"}, offload_dir=str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(outputs(latents), expected, rtol=1e-5, atol=1e-5)
