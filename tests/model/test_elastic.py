"""Fewer latents and fewer blocks than a model has, by chance in training and as asked at a call."""

import pytest
import torch

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForMaskedLM,
    PerceiverStudyForTokenClassification,
    PerceiverStudyModel,
    classify_early,
)
from tests.models import small_config, small_model

DEEP = {"num_blocks": 4, "num_cross_attends": 2, "share_block_weights": False, "num_latents": 6}


def images(count=5, seed=0):
    torch.manual_seed(seed)
    return torch.randn(count, 3, 8, 8, dtype=torch.float64)


def deep_model(**fields):
    model = small_model(**{**DEEP, "image_size": 8, **fields}).double()
    with torch.no_grad():  # fresh weights hardly tell samples apart
        model.classifier.weight.mul_(3)
    return model


@pytest.mark.parametrize("decoder", ["mean", "query"])
def test_a_call_is_a_smaller_model(decoder):
    """Of the first latents and the first blocks, with the same weights."""
    model = deep_model(decoder_type=decoder)
    smaller = deep_model(decoder_type=decoder, num_latents=3, num_blocks=3)
    weights = model.state_dict()
    weights["perceiver.latents.weight"] = weights["perceiver.latents.weight"][:3]
    smaller.load_state_dict({name: weights[name] for name in smaller.state_dict()})
    output = model(images(), num_latents=3, num_blocks=3, output_hidden_states=True, output_attentions=True)
    expected = smaller(images(), output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-12)
    assert len(output.hidden_states) == len(expected.hidden_states) == smaller.config.num_hidden_layers + 1
    assert [maps.shape for maps in output.cross_attentions] == [maps.shape for maps in expected.cross_attentions]


def test_training_draws_and_evaluation_does_not():
    model = deep_model(training_latents=[2, 4], training_blocks=[1, 3])
    whole = deep_model()
    whole.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(images()).logits, whole(images()).logits, rtol=0, atol=0)
    model.train()
    torch.manual_seed(0)
    shapes, depths, rows = set(), set(), set()

    def remember(_, given, latents):
        shapes.add(latents.shape[1])
        rows.update(given[0].tolist())

    hook = model.perceiver.latents.register_forward_hook(remember)
    given = images()
    for _ in range(60):
        output = model.perceiver(given, output_hidden_states=True)
        assert output.last_hidden_state.shape[1] == output.hidden_states[0].shape[1]
        depths.add(len(output.hidden_states))
    hook.remove()
    assert shapes == {2, 3, 4} and rows == set(range(6)) and len(depths) == 3
    torch.testing.assert_close(
        model(images(), num_latents=6, num_blocks=4).logits, whole(images()).logits, rtol=0, atol=0
    )


def test_a_drawn_step_is_repeated_from_the_same_state():
    model = deep_model(training_latents=3, training_blocks=[1, 4]).train()
    gradients = []
    for _ in range(2):
        torch.manual_seed(5)
        model.zero_grad()
        model(images(), labels=torch.arange(5)).loss.backward()
        gradients.append([None if weight.grad is None else weight.grad.clone() for weight in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is other is None or torch.equal(one, other)
    learnt = model.perceiver.latents.weight.grad.abs().sum(dim=1) > 0
    assert learnt.sum() == 3


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_computes_the_same_latents_again(use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = deep_model(training_latents=3, training_blocks=[2, 4]).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        torch.manual_seed(7)
        model(images().requires_grad_(), labels=torch.arange(5)).loss.backward()
        gradients.append(model.perceiver.latents.weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["num_latents", "num_blocks"])
@pytest.mark.parametrize("value", [0, 7, 2.0, True, "all"])
def test_what_a_model_does_not_have_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value!r}: expected None for all, or a whole number from 1 to"):
        deep_model()(images(), **{name: value})


@pytest.mark.parametrize("field", ["training_latents", "training_blocks"])
@pytest.mark.parametrize("value", [0, 9, [3, 2], [1, 2, 3], [0, 2], 1.5, True, "2"])
def test_ranges_of_the_config_are_checked(field, value):
    with pytest.raises(ValueError, match=f"{field}=.*expected None, or one or two numbers from 1 to"):
        small_config(**{**DEEP, field: value})


def test_they_are_saved_and_loaded(tmp_path):
    deep_model(training_latents=[2, 4], training_blocks=2).save_pretrained(tmp_path)
    config = PerceiverStudyModel.from_pretrained(tmp_path).config
    assert config.training_latents == [2, 4] and config.training_blocks == 2


def test_each_sample_stops_where_it_is_sure():
    model = deep_model()
    exits = [model(images(40), num_blocks=count).logits for count in range(1, 5)]
    sure = torch.stack([logits.softmax(dim=1).amax(dim=1) for logits in exits])
    confidence = sure[:3].quantile(0.6).item()
    logits, blocks = classify_early(model, confidence, pixel_values=images(40))
    reached = sure[:3] >= confidence
    expected = torch.where(reached.any(dim=0), reached.int().argmax(dim=0), 3)
    assert torch.equal(blocks, expected + 1) and len(set(blocks.tolist())) > 2
    for row, index in enumerate(expected):
        torch.testing.assert_close(logits[row], exits[index][row], rtol=0, atol=1e-10)


@pytest.mark.parametrize("confidence", [0.0, 1.1])
def test_the_ends_of_confidence(confidence):
    model = deep_model()
    logits, blocks = classify_early(model, confidence, num_latents=2, pixel_values=images())
    count = 1 if confidence == 0 else 4
    assert blocks.tolist() == [count] * 5
    torch.testing.assert_close(logits, model(images(), num_latents=2, num_blocks=count).logits, rtol=0, atol=1e-12)


def test_masks_go_on_with_their_samples():
    model = small_model(**{**DEEP, "image_size": 8, "num_labels": 3}).double()
    with torch.no_grad():
        model.classifier.weight.mul_(3)
    mask = torch.rand(40, 64) > 0.5
    sure = model(images(40), attention_mask=mask, num_blocks=1).logits.softmax(dim=1).amax(dim=1)
    logits, blocks = classify_early(model, sure.median().item(), pixel_values=images(40), attention_mask=mask)
    later = blocks > 1
    assert 0 < later.sum() < 40
    for count in blocks.unique():
        expected = model(images(40), attention_mask=mask, num_blocks=int(count)).logits
        torch.testing.assert_close(logits[blocks == count], expected[blocks == count], rtol=0, atol=1e-10)


@pytest.mark.parametrize("confidence", [float("nan"), -0.1, "0.5", True, None])
def test_what_is_no_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match=f"confidence={confidence!r}: expected a probability"):
        classify_early(deep_model(), confidence, pixel_values=images())


def test_a_model_in_training_mode_is_not_sure():
    with pytest.raises(ValueError, match=r"call its eval\(\) first"):
        classify_early(deep_model().train(), 0.5, pixel_values=images())


def test_a_single_class_has_no_confidence():
    """Its softmax is 1, whatever the model sees."""
    with pytest.raises(ValueError, match=r"num_labels=1 .* expected a model that answers with one class of several"):
        classify_early(deep_model(num_labels=1).eval(), 0.5, pixel_values=images())


def test_numbers_have_no_confidence():
    with pytest.raises(ValueError, match=r"problem_type='regression'.* expected a model that answers with one class"):
        classify_early(deep_model(problem_type="regression"), 0.9, pixel_values=images())


@pytest.mark.parametrize("head", [PerceiverStudyForTokenClassification, PerceiverStudyForMaskedLM])
def test_bytes_have_many_answers(head):
    sizes = {"d_model": 16, "num_latents": 3, "d_latents": 16, "num_self_attention_heads": 2}
    config = PerceiverStudyConfig(input_type="bytes", num_labels=3, **sizes)
    with pytest.raises(ValueError, match=rf"of {head.__name__}: expected a model that answers with one class"):
        classify_early(head(config).eval(), 0.5, input_ids=torch.ones(1, 4, dtype=torch.long))


def test_positions_go_on_with_their_samples():
    model = deep_model()
    given = {"pixel_values": images(40), "position_features": torch.randn(40, 16, 9, dtype=torch.float64)}
    sure = model(**given, num_blocks=1).logits.softmax(dim=1).amax(dim=1)
    logits, blocks = classify_early(model, sure.median().item(), **given)
    assert 0 < (blocks > 1).sum() < 40
    for count in blocks.unique():
        expected = model(**given, num_blocks=int(count)).logits
        torch.testing.assert_close(logits[blocks == count], expected[blocks == count], rtol=0, atol=1e-10)


def test_latents_that_are_asked_for_in_training_are_the_first():
    model, given = deep_model(training_latents=[2, 4]), images()
    expected = model(given, num_latents=3, num_blocks=4).logits
    for _ in range(5):
        found = model.train()(given, num_latents=3, num_blocks=4).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
