"""Several tasks at once: a query for each, one row of logits, and a model of each alone."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Trainer, TrainingArguments, pipeline

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForImageClassification,
    PerceiverStudyForSequenceClassification,
    PerceiverStudyImageProcessor,
    PerceiverStudyTokenizer,
)
from modeling_perceiver_study.attention import PerceiverStudyLayer
from modeling_perceiver_study.elastic import classify_early
from modeling_perceiver_study.several_tasks import as_shares
from tests.paths import ROOT

TASKS = {"mood": 2, "entailment": 3}  # not in the order that they are kept in
SMALL = {"num_latents": 8, "d_latents": 32, "num_self_attention_heads": 4, "decoder_type": "query", "tasks": TASKS}
BYTES = {"input_type": "bytes", "d_model": 24, "max_position_embeddings": 64}


def text_model(**fields):
    torch.manual_seed(0)
    config = PerceiverStudyConfig(**SMALL | BYTES | fields)
    model = PerceiverStudyForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.classifier.bias)
    return model


def given(*texts):
    return PerceiverStudyTokenizer()(list(texts or ("It rains.", "The sun shines.")), padding=True, return_tensors="pt")


def test_config_keeps_tasks_in_order_and_counts_classes(tmp_path):
    config = PerceiverStudyConfig(**SMALL)
    assert list(config.tasks) == ["entailment", "mood"] and config.num_labels == 5
    assert config.id2label[0] == "entailment: 0" and config.id2label[4] == "mood: 1"
    assert config.label2id["mood: 1"] == 4
    assert PerceiverStudyConfig(**SMALL, num_labels=5).id2label == config.id2label
    config.save_pretrained(tmp_path)
    again = PerceiverStudyConfig.from_pretrained(tmp_path)
    assert again.tasks == config.tasks and again.id2label == config.id2label


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": {}}, "expected None or a dict"),
        ({"tasks": ["mood"]}, "expected None or a dict"),
        ({"tasks": {"mood": 1}}, "at least 2"),
        ({"tasks": {"mood": 2.0}}, "at least 2"),
        ({"tasks": {"my mood": 2}}, "identifiers"),
        ({"num_labels": 4}, "num_labels=4: expected 5"),
        ({"decoder_type": "mean"}, "decoder_type='mean' .* expected 'query'"),
        ({"problem_type": "regression"}, "problem_type='regression' .* expected None"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        PerceiverStudyConfig(**SMALL | fields)


def test_loss_is_the_mean_over_all_labels_that_there_are():
    model = text_model()
    labels = torch.tensor([[0, 1], [2, -100]])
    outputs = model(**given(), labels=labels)
    entailment, mood = model.by_task(outputs.logits).values()
    assert entailment.shape == (2, 3) and mood.shape == (2, 2)
    expected = F.cross_entropy(entailment, labels[:, 0], reduction="sum") + F.cross_entropy(mood[:1], labels[:1, 1])
    torch.testing.assert_close(outputs.loss, expected / 3)
    shares = torch.tensor([[1, 0, 0, 0, 1], [0, 0, 1, 0, 0]]).float()
    torch.testing.assert_close(model(**given(), labels=shares).loss, outputs.loss)
    exact = model.double()(**given(), labels=labels)
    parts = [
        model.by_task(exact.logits)["entailment"].log_softmax(-1),
        model.by_task(exact.logits)["mood"].log_softmax(-1),
    ]
    by_hand = -(parts[0][0, 0] + parts[0][1, 2] + parts[1][0, 1]) / 3
    torch.testing.assert_close(exact.loss, by_hand, rtol=0, atol=1e-12)
    nothing = model(**given(), labels=torch.full((2, 2), -100)).loss
    assert nothing == 0
    nothing.backward()


@pytest.mark.parametrize("count", [0, 20, torch.tensor(0), torch.tensor(20)])
@pytest.mark.parametrize("labels", [torch.full((2, 2), -100), torch.zeros(2, 5)], ids=["classes", "shares"])
def test_a_part_of_a_batch_without_labels_has_no_loss(labels, count):
    """Where gradients are added up, NaN would be that of all parts."""
    model = text_model()
    loss = model(**given(), labels=labels, num_items_in_batch=count).loss
    assert loss == 0
    loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def test_only_the_query_of_a_label_learns_from_it():
    model = text_model()
    model(**given(), labels=torch.tensor([[0, -100], [2, -100]])).loss.backward()
    of_queries = model.decoder.query.weight.grad.abs().sum(dim=1)
    assert of_queries[0] > 0 and of_queries[1] == 0
    assert (model.classifier.weight.grad[3:] == 0).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, dtype=torch.long), r"shape \(2,\) .* expected \(2, 2\)"),
        (torch.zeros(2, 5, dtype=torch.long), r"shape \(2, 5\) and dtype torch.int64"),
        (torch.zeros(2, 2), "torch.float32"),
        (torch.tensor([[0, 2], [0, 0]]), "labels hold 2 for mood: expected 0 to 1, or -100"),
        (torch.tensor([[-1, 0], [0, 0]]), "labels hold -1 for entailment"),
        (torch.full((2, 5), 1.5), r"outside of \[0, 1\]"),
        (torch.full((2, 5), float("nan")), r"outside of \[0, 1\]"),
        ([[0, 1], [0, 1]], "labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        text_model()(**given(), labels=labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_model_of_one_task_answers_as_that_of_all(dtype, tmp_path):
    whole = text_model().to(dtype)
    whole.config.id2label = {0: "entailment: yes", 1: "entailment: no", 2: "entailment: ?", 3: "mood: -", 4: "mood: +"}
    logits = whole(**given()).logits
    for task, names, own in (("entailment", ["yes", "no", "?"], slice(0, 3)), ("mood", ["-", "+"], slice(3, 5))):
        single = whole.for_task(task)
        assert single.dtype == dtype and not single.training
        torch.testing.assert_close(single(**given()).logits, logits[:, own])
        assert list(single.config.id2label.values()) == names and single.config.tasks is None
        single.save_pretrained(tmp_path / task)
        again = PerceiverStudyForSequenceClassification.from_pretrained(tmp_path / task)
        torch.testing.assert_close(again(**given()).logits, logits[:, own])
    assert whole.config.tasks == {"entailment": 3, "mood": 2}
    assert whole.for_task("mood").perceiver.latents.weight.data_ptr() == whole.perceiver.latents.weight.data_ptr()
    with pytest.raises(ValueError, match="no task 'weather': expected one of 'entailment', 'mood'"):
        whole.for_task("weather")
    with pytest.raises(ValueError, match="no task 'mood': expected one of none"):
        whole.for_task("mood").for_task("mood")


def test_pipelines_take_a_model_of_one_task():
    model = text_model().for_task("mood")
    (answer,) = pipeline("text-classification", model=model, tokenizer=PerceiverStudyTokenizer())("It rains.", top_k=1)
    assert answer["label"] == str(model(**given("It rains.")).logits.argmax().item())
    torch.manual_seed(0)
    config = PerceiverStudyConfig(**SMALL | {"image_size": 8})
    images = PerceiverStudyForImageClassification(config).for_task("entailment")
    classify = pipeline("image-classification", model=images, image_processor=PerceiverStudyImageProcessor(size=8))
    assert len(classify(Image.fromarray(np.zeros((8, 8, 3), np.uint8)))) == 3


def test_early_exit_wants_one_class():
    with pytest.raises(ValueError, match="answers with one class"):
        classify_early(text_model(), 0.5, **given())


def test_the_program_of_the_page():
    page = (ROOT / "docs" / "modalities" / "text.md").read_text(encoding="utf-8")
    (program,) = (code for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "tasks=" in code)
    exec(program, {})


def test_accumulated_batches_train_as_whole_ones(tmp_path):
    """transformers' `Trainer` counts the labels of all parts of a batch, and leaves the division to the model."""
    torch.manual_seed(0)
    given = PerceiverStudyTokenizer()([f"Text {number}" for number in range(8)], padding=True)
    labels = [[number % 3, number % 2 if number < 5 else -100] for number in range(8)]
    rows = [
        {"input_ids": ids, "attention_mask": mask, "labels": own}
        for ids, mask, own in zip(given["input_ids"], given["attention_mask"], labels, strict=True)
    ]
    norms = []
    for size in (8, 2):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size, "max_steps": 1}
        arguments = TrainingArguments(tmp_path, logging_steps=1, report_to=[], use_cpu=True, **settings)
        trainer = Trainer(text_model(), arguments, train_dataset=rows)
        trainer.train()
        norms.append(
            [entry[name] for entry in trainer.state.log_history for name in ("loss", "grad_norm") if name in entry]
        )
    assert len(norms[0]) == 2 and norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_a_checkpoint_with_other_tasks(tmp_path):
    text_model().save_pretrained(tmp_path)
    load = PerceiverStudyForSequenceClassification.from_pretrained
    other = load(tmp_path, tasks={"a": 2, "b": 2}, ignore_mismatched_sizes=True)
    assert other.config.num_labels == 4 and other.config.id2label[2] == "b: 0"
    one = load(tmp_path, tasks=None, num_labels=3, ignore_mismatched_sizes=True)
    assert one.config.tasks is None and one(**given()).logits.shape == (2, 3)
    same = load(tmp_path, tasks={"entailment": 3, "mood": 2})
    torch.testing.assert_close(same(**given()).logits, load(tmp_path)(**given()).logits)


def test_a_model_of_one_task_keeps_what_is_frozen_and_checkpointed():
    whole = text_model()
    whole.perceiver.latents.weight.requires_grad = False
    whole.activation_checkpointing_enable()
    single = whole.for_task("mood")
    assert not single.perceiver.latents.weight.requires_grad and single.classifier.weight.requires_grad
    assert all(module.gradient_checkpointing for module in single.modules() if isinstance(module, PerceiverStudyLayer))
    loss = single.train()(**given(), labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert single.perceiver.latents.weight.grad is None and single.classifier.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"logits have shape \(2, 4\): expected \(.., 5\)"):
        whole.by_task(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="with tasks=None"):
        single.by_task(torch.zeros(2, 2))


def test_parts_of_a_batch_of_shares_add_up_to_its_loss():
    model, texts = text_model(), ["It rains.", "The sun shines.", "Snow.", "Fog in the valley."]
    shares = as_shares(torch.tensor([[0, 1], [2, 0], [1, 1], [0, 0]]), model.config.tasks)
    whole = model(**given(*texts), labels=shares).loss
    parts = [
        model(**given(*texts[rows]), labels=shares[rows], num_items_in_batch=shares.numel()).loss
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_model_of_one_task_stays_in_its_mode():
    assert text_model().train().for_task("mood").training
    assert not text_model().eval().for_task("mood").training
