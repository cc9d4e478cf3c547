"""The code of docs/inputs.md runs, and what it adds is an input like others."""

import re
from pathlib import Path

import pytest
import torch

from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyModel, inputs
from modeling_perceiver_study.input_fields import INPUT_FIELDS
from tests import reference
from tests.models import small_model

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"


@pytest.fixture
def names(monkeypatch):
    """What the page defines; kinds that it registers are forgotten afterwards."""
    monkeypatch.setattr(inputs, "_ADAPTERS", dict(inputs._ADAPTERS))
    torch.manual_seed(0)
    found = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(code, found)
    return found


def test_a_kind_that_the_page_adds(names):
    """Alone and beside a grid, with masks, against the naive byte array; saved and loaded."""
    fields = {"set": {"input_type": "set", "d_model": 6}, "image": {"image_size": [3, 2], "num_frequency_bands": 2}}
    unread = {"image_size": 32, "num_frequency_bands": 16}
    model = small_model(model_class=PerceiverStudyModel, modalities=fields, **unread).double()
    numbers, pixels = torch.randn(3, 5).double(), torch.randn(3, 3, 3, 2).double()
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    given = numbers.masked_fill(mask == 0, torch.nan)
    adapters, padding = model.inputs.adapters, model.inputs.padding
    arrays = {
        "image": reference.byte_array(model.config.modality_config("image"), pixels),
        "set": adapters["set"].embedding(numbers[..., None]),
    }
    arrays = [
        torch.cat([array, padding[name].weight.expand(3, array.shape[1], -1)], dim=-1) for name, array in arrays.items()
    ]
    shown = torch.cat([torch.ones(3, 6, dtype=torch.int64), mask], dim=1)
    expected = reference.latents(model, torch.cat(arrays, dim=1), shown)
    actual = model(numbers=given, pixel_values=pixels, set_attention_mask=mask)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_a_kind_that_nobody_registered():
    message = "input_type='set': expected one of 'array', 'bytes', 'grid', 'points', or a kind that"
    with pytest.raises(ValueError, match=message):
        PerceiverStudyConfig(input_type="set")
    with pytest.raises(ValueError, match=r"modalities\['one'\]: " + message):
        PerceiverStudyConfig(modalities={"one": {"input_type": "set"}})


def test_the_page_names_every_kind():
    for kind in inputs._ADAPTERS:
        assert f"| `{kind}` |" in PAGE.read_text()
    assert INPUT_FIELDS[0] == "input_type" and INPUT_FIELDS[-1] == "ngram_vocab_size"
