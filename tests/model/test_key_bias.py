"""The bias of the keys has no influence: it is kept, for weights to carry over, and not trained."""

import copy

import pytest
import torch
from transformers import AutoModel

from lab.training.optimization import parameter_groups
from modeling_perceiver_study import PerceiverStudyForImageClassification
from modeling_perceiver_study.attention import MultiHeadAttention
from modeling_perceiver_study.paths import PATHS
from tests.models import mask, pixels, small_model


def biases(model) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if name.endswith("k_proj.bias")}


def assert_frozen(model):
    attentions = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    assert len(biases(model)) == len(attentions) > 0
    for name, weight in model.named_parameters():
        assert weight.requires_grad == (name not in biases(model)), name


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("masked", [False, True])
def test_it_has_no_influence(path, masked):
    """In cross-attends, self-attends and the decoder, and where a mask hides a whole sample."""
    model = small_model(decoder_type="query", cross_attend_path=path).double()
    images = pixels(model.config, dtype=torch.float64)
    points = mask(model.config) if masked else None
    if masked:
        points[1] = 0
    expected = model(images, attention_mask=points).logits
    with torch.no_grad():
        for bias in biases(model).values():
            bias.normal_(std=3.0)
    torch.testing.assert_close(model(images, attention_mask=points).logits, expected, rtol=0, atol=1e-10)


def test_it_stays_frozen_however_a_model_comes_about(tmp_path):
    model = small_model(decoder_type="query")
    assert_frozen(model)
    assert_frozen(copy.deepcopy(model))
    model.save_pretrained(tmp_path)
    assert_frozen(PerceiverStudyForImageClassification.from_pretrained(tmp_path))
    assert_frozen(PerceiverStudyForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16))
    loaded, report = PerceiverStudyForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert_frozen(loaded)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert_frozen(AutoModel.from_pretrained(tmp_path))
    assert_frozen(AutoModel.from_pretrained(tmp_path, trust_remote_code=True))
    model.load_state_dict(loaded.state_dict(), assign=True)
    assert_frozen(model)
    # For fine-tuning: first the head alone, then all.
    assert not any(weight.requires_grad for weight in model.requires_grad_(False).parameters())
    assert_frozen(model.requires_grad_(True))


@pytest.mark.parametrize("path", PATHS)
def test_optimisers_leave_it_as_it_was_loaded(path):
    model = small_model(cross_attend_path=path)
    before = copy.deepcopy(biases(model))
    trained = {id(weight) for group in parameter_groups(model, 0.1) for weight in group["params"]}
    assert not trained & {id(bias) for bias in biases(model).values()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(pixels(model.config), labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()
    for name, bias in biases(model).items():
        assert torch.equal(bias, before[name])
        assert bias.grad is None
    used = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert used == {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_quantized_layer_has_no_bias_to_freeze():
    """There `bias` is a method."""
    model = torch.ao.quantization.quantize_dynamic(small_model(), {torch.nn.Linear})
    model.requires_grad_(False)
    assert not any(weight.requires_grad for weight in model.parameters())
