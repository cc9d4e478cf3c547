"""`resize_token_embeddings`, as users of transformers know it."""

import pytest
import torch

from modeling_perceiver_study import PerceiverStudyForMaskedLM, PerceiverStudyModel
from modeling_perceiver_study.modeling_perceiver_study import PerceiverStudyClassifier
from tests.kinds import arguments_of, fields_of, model_of
from tests.models import small_model


@pytest.fixture(params=[("bytes",), ("image", "bytes")], ids="+".join)
def kinds(request):
    return request.param


def vocab_size(model) -> int:
    config = model.config if model.config.modalities is None else model.config.modality_config("bytes")
    return config.vocab_size


@pytest.mark.parametrize("mean_resizing", [True, False])
@pytest.mark.parametrize("count", [27, 20, 12])
def test_ids_that_stay_keep_their_embeddings(kinds, count, mean_resizing, tmp_path):
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    given["input_ids"] = given["input_ids"] % 12
    with torch.no_grad():
        expected = model(**given)[0]
    embedding = model.resize_token_embeddings(count, mean_resizing=mean_resizing)
    assert embedding.weight.shape == (count, 9) and embedding.weight.dtype == torch.float64
    assert vocab_size(model) == count
    torch.testing.assert_close(model(**given)[0], expected, rtol=0, atol=1e-12)
    given["input_ids"][0, 0] = count - 1
    last = model(**given)[0]
    last.sum().backward()
    assert embedding.weight.grad[count - 1].any()
    with pytest.raises(ValueError, match=f"expected 0 to {count - 1}, as vocab_size={count}"):
        model(**given | {"input_ids": given["input_ids"] * 0 + count})
    model.save_pretrained(tmp_path)
    loaded = PerceiverStudyModel.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(loaded(**given)[0], last, rtol=0, atol=1e-12)


def test_latents_stay_the_input_embeddings(kinds):
    model = model_of(*kinds)
    latents = model.get_input_embeddings()
    model.resize_token_embeddings(30)
    assert model.get_input_embeddings() is latents is model.latents


def test_without_a_number_nothing_changes(kinds):
    model = model_of(*kinds)
    embedding = model.resize_token_embeddings()
    assert embedding.num_embeddings == vocab_size(model) == 20
    assert model.resize_token_embeddings(pad_to_multiple_of=16).num_embeddings == vocab_size(model) == 32


def test_an_optimiser_keeps_what_has_the_right_size():
    fields = {**fields_of("bytes"), "d_model": 8, "image_size": 32, "num_frequency_bands": 16}
    model = small_model(model_class=PerceiverStudyForMaskedLM, **fields)
    before = dict(model.named_parameters())
    model.resize_token_embeddings()
    model.resize_token_embeddings(20)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_a_frozen_vocabulary_stays_frozen(kinds):
    model = model_of(*kinds).requires_grad_(False)
    assert not model.resize_token_embeddings(30).weight.requires_grad


def test_of_a_head():
    unread = {"image_size": 32, "num_frequency_bands": 16}
    model = small_model(model_class=PerceiverStudyClassifier, **unread, **fields_of("bytes"))
    embedding = model.resize_token_embeddings(40)
    assert model.perceiver.inputs.embeddings is embedding
    assert model.config.vocab_size == model.perceiver.config.vocab_size == 40


def test_what_has_no_vocabulary_or_two_is_said():
    with pytest.raises(ValueError, match="with no vocabularies in the model: expected a single input"):
        model_of("image").resize_token_embeddings(30)
    small = {"input_type": "bytes", "vocab_size": 9, "max_position_embeddings": 4, "d_model": 8}
    model = model_of("bytes", "image", modalities={"one": small, "two": small | {"input_name": "others"}})
    with pytest.raises(ValueError, match="with 2 vocabularies"):
        model.resize_token_embeddings(30)
