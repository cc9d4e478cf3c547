"""Heads of bytes, and runs of bytes with embeddings of their own."""

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedConfig, pipeline  # noqa: F401

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForMaskedLM,
    PerceiverStudyForSequenceClassification,
    PerceiverStudyForTokenClassification,
    PerceiverStudyModel,
    PerceiverStudyTokenizer,
)
from modeling_perceiver_study.decoder import PerceiverStudyLatents, PerceiverStudyOutputs
from tests.models import replica_of

FIELDS = {
    "input_type": "bytes",
    "d_model": 16,
    "max_position_embeddings": 24,
    "num_latents": 5,
    "d_latents": 16,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2,
    "num_labels": 3,
    "initializer_range": 0.3,
}
TEXT = {"input_type": "bytes", "d_model": 16, "max_position_embeddings": 24}
RUNS = {"ngram_sizes": [-3, 2, 3], "ngram_vocab_size": 50}
HEADS = [
    PerceiverStudyForSequenceClassification,
    PerceiverStudyForTokenClassification,
    PerceiverStudyForMaskedLM,
]


def model_of(head, **fields):
    torch.manual_seed(0)
    return head(PerceiverStudyConfig(**{**FIELDS, **fields})).double().eval()


def small_fields() -> dict:
    """Those that describe no input."""
    return {name: value for name, value in FIELDS.items() if name not in (*TEXT, "num_labels")}


def ids_of(batch=3, length=12):
    torch.manual_seed(1)
    return torch.randint(6, 262, (batch, length))


# Runs of bytes


def test_runs_are_those_that_end_and_begin_with_a_byte():
    inputs = model_of(PerceiverStudyModel, **RUNS).inputs
    ids = ids_of(1, 6)
    array = inputs(ids, dtype=torch.float64).pixels[0, :, :, 0].T
    plain = inputs.embeddings(ids)[0] + inputs.position_embeddings(torch.arange(6))
    runs = {}  # of each run the same row, wherever it stands
    for place in range(6):
        for size in RUNS["ngram_sizes"]:
            first = place - size + 1 if size > 0 else place
            run = tuple(int(ids[0, at]) if 0 <= at < 6 else 0 for at in range(first, first + abs(size)))
            row = inputs.ngram_embeddings.weight[_row(run, size)]
            runs.setdefault(place, []).append(row)
    expected = plain + torch.stack([sum(runs[place]) for place in range(6)])
    torch.testing.assert_close(array, expected)


def _row(run, size):
    key = size % 1_000_003
    for number in run:
        key = (key * 1_000_003 + number + 1) % 2_147_483_647
    return key % RUNS["ngram_vocab_size"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("fields", [{}, RUNS, {**RUNS, "masked_lm_queries": "inputs", "decoder_type": "query"}])
def test_padding_changes_nothing(head, fields):
    model, ids = model_of(head, **fields), ids_of()
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    ids[1, 4:] = 99  # whatever is there
    together, alone = model(input_ids=ids, attention_mask=mask).logits[1], model(input_ids=ids[1:2, :4]).logits[0]
    torch.testing.assert_close(together[:4] if together.ndim == 2 else together, alone)


@pytest.mark.parametrize("sizes", [[], [1], [2, 2], [2.0], [True], 3, [-1]])
def test_wrong_runs(sizes):
    with pytest.raises(ValueError, match=r"ngram_sizes=.* different whole numbers of at least 2"):
        PerceiverStudyConfig(**FIELDS, ngram_sizes=sizes)


# Heads


@pytest.mark.parametrize("queries", ["positions", "inputs"])
def test_only_what_is_asked_for(queries):
    model, ids = model_of(PerceiverStudyForMaskedLM, masked_lm_queries=queries, **RUNS), ids_of()
    whole = model(input_ids=ids).logits
    assert whole.shape == (3, 12, 262)
    asked = torch.tensor([[3, 0], [11, 11], [5, 7]])
    some = model(input_ids=ids, output_positions=asked).logits
    torch.testing.assert_close(some, whole.gather(1, asked[..., None].expand(-1, -1, 262)))


@pytest.mark.parametrize("queries", ["positions", "inputs"])
def test_training_asks_only_for_labelled_bytes(queries):
    model, ids = model_of(PerceiverStudyForMaskedLM, masked_lm_queries=queries), ids_of()
    labels = torch.full_like(ids, -100)
    labels[0, 2], labels[0, 9], labels[2, 0] = 40, 50, 60
    found = {}
    for training in (False, True):
        model.zero_grad()
        output = model.train(training)(input_ids=ids, labels=labels)
        output.loss.backward()
        found[training] = output.loss, [weight.grad for weight in model.parameters() if weight.grad is not None]
        assert output.logits.shape == (3, 2 if training else 12, 262)
    torch.testing.assert_close(found[True], found[False], rtol=1e-5, atol=1e-6)
    replica = replica_of(model)  # on one of several devices, whose answers `DataParallel` joins
    assert replica.training and replica(input_ids=ids, labels=labels).logits.shape == (3, 12, 262)


def test_other_vocabularies():
    model, ids = model_of(PerceiverStudyForMaskedLM), ids_of()
    before = model(input_ids=ids).logits
    model.resize_token_embeddings(270, mean_resizing=False)
    after = model(input_ids=ids).logits
    assert after.shape[-1] == model.config.vocab_size == 270
    torch.testing.assert_close(after[..., :262], before)


@pytest.mark.parametrize("head", HEADS[1:])
def test_wrong_labels(head):
    model, ids = model_of(head), ids_of()
    with pytest.raises(ValueError, match=r"labels have shape \(3,\).*expected \(3, 12\)"):
        model(input_ids=ids, labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="labels hold 262: expected 0 to"):
        model(input_ids=ids, labels=torch.full_like(ids, 262))


def test_wrong_texts():
    model = model_of(PerceiverStudyForMaskedLM)
    with pytest.raises(ValueError, match=r"length of 1 to max_position_embeddings=24. Cut longer ones"):
        model(input_ids=torch.zeros(1, 25, dtype=torch.long))
    with pytest.raises(ValueError, match="hold ids from 0 to 262: expected 0 to 261"):
        model(input_ids=torch.tensor([[0, 262]]))
    with pytest.raises(ValueError, match=r"dtype torch\.float32: expected torch\.int64"):
        model(input_ids=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="output_positions are a list"):
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), output_positions=[[1]])
    with pytest.raises(ValueError, match="output_positions hold numbers from 0 to 4: expected 0 to 3"):
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), output_positions=torch.tensor([[0, 4]]))
    with pytest.raises(ValueError, match="d_model=12: expected a multiple of 8"):
        model_of(PerceiverStudyForMaskedLM, d_model=12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modalities": {"text": TEXT, "image": {"image_size": 4}}}, "modalities=.*expected None in PerceiverStudyFor"),
        ({}, "input_type='grid' .*expected 'bytes' in PerceiverStudyForMaskedLM"),
        ({"input_type": "array", "num_channels": 8}, "input_type='array' .*expected 'bytes'"),
    ],
)
def test_masked_bytes_are_those_of_the_only_input(fields, message):
    with pytest.raises(ValueError, match=message):
        PerceiverStudyForMaskedLM(PerceiverStudyConfig(**small_fields(), **fields))


def test_classes_of_bytes_that_are_not_given():
    """Of several inputs those may be given that have none."""
    config = PerceiverStudyConfig(modalities={"text": TEXT, "image": {"image_size": 4}}, **small_fields())
    model = PerceiverStudyForTokenClassification(config)
    picture, ids = torch.randn(3, 3, 4, 4), ids_of()
    assert model(input_ids=ids, pixel_values=picture).logits.shape == (3, 12, 2)
    with pytest.raises(ValueError, match="input_ids are missing"):
        model(pixel_values=picture)


@pytest.mark.parametrize("mask", ["attention_mask", "text_attention_mask"])
def test_classes_of_bytes_beside_a_picture_do_not_depend_on_what_masks_hide(mask):
    """Though the run that begins with a byte reaches behind the mask."""
    text = TEXT | {"ngram_sizes": [-3], "ngram_vocab_size": 50}
    config = PerceiverStudyConfig(modalities={"text": text, "image": {"image_size": 4}}, **small_fields())
    model, ids = PerceiverStudyForTokenClassification(config).double().eval(), ids_of()
    picture = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    shown = torch.ones(3, 28 if mask == "attention_mask" else 12)  # the picture comes first
    shown[:, -8:] = 0
    found = []
    for hidden in (99, 120):
        ids[:, 4:] = hidden
        found.append(model(input_ids=ids, pixel_values=picture, **{mask: shown}).logits)
    assert found[0].shape == (3, 12, 2)
    torch.testing.assert_close(found[0][:, :4], found[1][:, :4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [270, 100])
def test_ids_that_stay_keep_their_bias(count):
    model, ids = model_of(PerceiverStudyForMaskedLM), ids_of() % 100
    torch.nn.init.normal_(model.decoder.bias)
    model.decoder.bias.requires_grad_(False)
    before, kept = model(input_ids=ids).logits, min(count, 262)
    model.resize_token_embeddings(count, mean_resizing=False)
    torch.testing.assert_close(model(input_ids=ids).logits[..., :kept], before[..., :kept])
    assert not model.decoder.bias.requires_grad


@pytest.mark.parametrize(("shape", "dtype"), [((1, 2), "int64"), ((3,), "int64"), ((3, 0), "int64"), ((3, 2), "int32")])
def test_wrong_positions(shape, dtype):
    asked = torch.zeros(shape, dtype=getattr(torch, dtype))
    with pytest.raises(ValueError, match=r"output_positions have shape .*expected \(3, positions\) with at least one"):
        model_of(PerceiverStudyForMaskedLM)(input_ids=ids_of(), output_positions=asked)


def test_answers_in_training_are_in_the_order_of_bytes():
    """Where one text has all labels, they are those of all bytes, as in evaluation."""
    model, ids = model_of(PerceiverStudyForMaskedLM), ids_of(2, 8)
    labels = torch.full_like(ids, -100)
    labels[0], labels[1, 5] = ids[0], ids[1, 5]
    expected = model(input_ids=ids, labels=labels)
    found = model.train()(input_ids=ids, labels=labels)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-12)


def test_labels_of_one_byte_in_training():
    """torch takes 156 of uint8 for -100."""
    model, ids = model_of(PerceiverStudyForMaskedLM).train(), torch.full((2, 5), 156)
    found = [model(input_ids=ids, labels=labels) for labels in (ids, ids.byte())]
    assert found[0].logits.shape == found[1].logits.shape == (2, 5, 262)
    torch.testing.assert_close(found[0].loss, found[1].loss)


# A start at spots


@pytest.mark.parametrize("spread_of_heads", [None, 0.05])
def test_heads_start_at_spots(spread_of_heads):
    width = 0.1
    model = model_of(
        PerceiverStudyForMaskedLM,
        local_start_width=width,
        local_start_reach=0.2,
        local_start_spread=spread_of_heads,
        num_latents=40,
        d_latents=64,
        d_model=64,
        max_position_embeddings=80,
        num_cross_attention_heads=2,
        cross_attention_shape_for_attention="q",
        initializer_range=0.03,
        **RUNS,
    )
    maps = model(input_ids=ids_of(1, 80), output_attentions=True).cross_attentions[0]
    # On the circle that the lowest band makes of the places, each map has a spot.
    angles = torch.pi * torch.linspace(-1, 1, 80, dtype=torch.float64)
    length = torch.stack([(maps * angles.sin()).sum(-1), (maps * angles.cos()).sum(-1)]).norm(dim=0)
    spread = (-2 * length.log()).clamp(min=0).sqrt() / torch.pi
    assert 0.3 * width < spread.median() < 2 * width


# Several tasks at once


def test_several_tasks_by_queries_of_their_own():
    """As Perceiver IO learns the tasks of GLUE together: one query, and one head, for each task (table 2 there)."""
    torch.manual_seed(0)
    config = PerceiverStudyConfig(**FIELDS)
    model = PerceiverStudyModel(config)
    outputs = PerceiverStudyOutputs(
        config,
        {task: PerceiverStudyLatents(1, 8) for task in ("entailment", "mood", "similarity")},
        {"entailment": 3, "mood": 2, "similarity": 1},
    )
    for module in (model, outputs):
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    latents = model(input_ids=ids_of()).last_hidden_state
    answers = outputs(latents)
    assert {task: tuple(answer.shape) for task, answer in answers.items()} == {
        "entailment": (3, 1, 3),
        "mood": (3, 1, 2),
        "similarity": (3, 1, 1),
    }
    alone = outputs(latents, tasks=["mood"])["mood"]
    torch.testing.assert_close(alone, answers["mood"])  # queries do not see each other
    alone.sum().backward()
    assert outputs.heads["entailment"].weight.grad is None and model.latents.weight.grad.abs().sum() > 0


# Pipelines of transformers, from a folder


@pytest.fixture
def folder(tmp_path, request):
    head, fields = request.param
    model_of(head, **fields).float().save_pretrained(tmp_path)
    PerceiverStudyTokenizer(model_max_length=24).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("folder", [(PerceiverStudyForMaskedLM, {})], indirect=True)
def test_fill_mask(folder):
    fill = pipeline("fill-mask", model=str(folder), trust_remote_code=True)
    one = fill("b[MASK]t", top_k=3)
    assert [len(one), one[0]["sequence"].count("[")] == [3, 0]
    two = fill("b[MASK][MASK]t é", top_k=2)
    assert [len(found) for found in two] == [2, 2]
    assert len(fill("b[MASK]t", targets=["a", " "])) == 2
    long = "x[MASK]" + "y" * 40
    assert fill(long, tokenizer_kwargs={"truncation": True})
    assert len(fill(["b[MASK]t", "cc[MASK]"], batch_size=2)) == 2


@pytest.mark.parametrize("folder", [(PerceiverStudyForSequenceClassification, RUNS)], indirect=True)
def test_text_classification(folder):
    classify = pipeline("text-classification", model=str(folder), trust_remote_code=True, truncation=True)
    texts = ["a", "a text of more than 24 bytes in all", "é"]
    alone = [classify(text, top_k=3) for text in texts]
    for one, other in zip(classify(texts, top_k=3, batch_size=3), alone, strict=True):
        assert [entry["label"] for entry in one] == [entry["label"] for entry in other]
    assert classify({"text": "a", "text_pair": "b"})


@pytest.mark.parametrize("folder", [(PerceiverStudyForTokenClassification, {})], indirect=True)
def test_token_classification(folder):
    find = pipeline("token-classification", model=str(folder), trust_remote_code=True, ignore_labels=[])
    text = "hé €!"
    found = find(text)
    assert [(entry["start"], entry["end"]) for entry in found] == [
        *[(0, 1), (1, 2), (1, 2), (2, 3), (3, 4), (3, 4), (3, 4), (4, 5)]
    ]
    groups = find(text, aggregation_strategy="simple")
    assert "".join(text[group["start"] : group["end"]] for group in groups) in (text, *_repeated(text))


def _repeated(text):
    """A character of several bytes may be in several groups."""
    return [text.replace("é", "é" * two).replace("€", "€" * three) for two in (1, 2) for three in (1, 2, 3)]


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("head", HEADS[1:])
def test_gradient_checkpointing_of_more_queries_than_are_answered_at_a_time(head, use_reentrant, monkeypatch):
    monkeypatch.setattr(
        "modeling_perceiver_study.decoder.PerceiverStudyDecoder.forward.__defaults__", (None,) * 4 + (8,)
    )
    ids, gradients = ids_of(), []
    labels = ids % 3 if head is PerceiverStudyForTokenClassification else ids
    for checkpointing in (False, True):
        model = model_of(head).train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": use_reentrant})
        model(input_ids=ids, labels=labels).loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
