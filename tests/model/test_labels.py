"""Labels that fit a model's answers go into its loss, and others are named."""

import pytest
import torch

import modeling_perceiver_study as package
from modeling_perceiver_study import PerceiverStudyConfig
from modeling_perceiver_study.paths import has_values

SMALL = {"num_latents": 4, "d_latents": 16, "num_self_attention_heads": 2, "num_cross_attention_heads": 1}
IMAGE = {"image_size": 8, "num_frequency_bands": 2}


@pytest.mark.parametrize(
    "problem_type, num_labels, labels, message",
    [
        (None, 3, torch.tensor([0, 3]), "labels hold 3: expected 0 to 2"),
        (None, 3, torch.tensor([0, -1]), "labels hold -1: expected 0 to 2"),
        (None, 3, torch.tensor([0]), r"shape \(1,\) and dtype torch.int64: expected \(2,\), a class for each sample"),
        (None, 3, torch.tensor([[0, 1], [1, 2]]), r"expected \(2,\), a class for each sample"),
        (None, 3, torch.tensor([0.0, 1.0]), r"expected \(2, 3\), a share from 0 to 1"),
        (None, 3, torch.full((2, 3), torch.nan), "labels hold nan: expected shares from 0 to 1"),
        (None, 3, [0, 1], "labels are a list"),
        ("single_label_classification", 3, torch.tensor([0.0, 1.0]), "torch.float32: expected"),
        ("single_label_classification", 3, torch.tensor([True, False]), "torch.bool: expected"),
        ("single_label_classification", 3, torch.tensor([0, 1]).int(), r"torch.int32: expected \(2,\), a class"),
        (None, 3, torch.tensor([0, 1]).int(), r"torch.int32: expected \(2,\), a class"),
        (None, 3, torch.tensor([0, 1]).byte(), r"torch.uint8: expected \(2,\), a class"),
        (None, 3, torch.ones(2, 3, dtype=torch.bool), r"torch.bool: expected \(2, 3\), a share"),
        ("multi_label_classification", 3, torch.ones(2, 3, dtype=torch.long), "torch.int64: expected"),
        ("multi_label_classification", 3, torch.full((2, 3), 2.0), "labels hold 2: expected shares"),
        ("regression", 1, torch.rand(2, 2), r"expected \(2,\), a number for each answer"),
        ("regression", 1, torch.tensor([True, False]), "torch.bool: expected"),
        ("regression", 2, torch.rand(2), r"expected \(2, 2\), a number for each answer"),
        ("regression", 2, torch.full((2, 2), torch.inf), "labels hold inf: expected finite numbers"),
    ],
)
@pytest.mark.parametrize("model", ["ForImageClassification", "ForSequenceClassification"])
def test_labels_that_do_not_fit(model, problem_type, num_labels, labels, message):
    texts = model == "ForSequenceClassification"
    bytes_, image = {"input_type": "bytes", "d_model": 16}, {"image_size": 8, "num_frequency_bands": 2}
    fields = (bytes_ if texts else image) | {"num_labels": num_labels, "problem_type": problem_type}
    model = getattr(package, f"PerceiverStudy{model}")(PerceiverStudyConfig(**fields, **SMALL))
    given = {"input_ids": torch.full((2, 5), 70)} if texts else {"pixel_values": torch.rand(2, 3, 8, 8)}
    with pytest.raises(ValueError, match=message):
        model(**given, labels=labels)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_more_classes_than_a_byte_has(dtype):
    config = PerceiverStudyConfig(input_type="bytes", d_model=16, **SMALL)
    ids = torch.full((2, 5), 109)
    model = package.PerceiverStudyForMaskedLM(config)
    assert model(input_ids=ids, labels=ids.to(dtype)).loss.isfinite()  # 262 classes
    config = PerceiverStudyConfig(input_type="bytes", d_model=16, num_labels=9, **SMALL)
    with pytest.raises(ValueError, match="labels hold 156"):  # what -100 would be in a byte
        package.PerceiverStudyForTokenClassification(config)(input_ids=ids, labels=torch.full((2, 5), 156).to(dtype))


@pytest.mark.parametrize("model", ["ForTokenClassification", "ForMaskedLM"])
@pytest.mark.parametrize(
    "labels",
    [[[0] * 5] * 2, torch.ones(2, 5, dtype=torch.bool), torch.full((2, 5), 262), torch.ones(2, 5, dtype=torch.int32)],
)
def test_labels_of_bytes_that_do_not_fit(model, labels):
    config = PerceiverStudyConfig(input_type="bytes", d_model=16, **SMALL)
    with pytest.raises(ValueError, match=r"labels (are a list|have shape|hold 262)"):
        getattr(package, f"PerceiverStudy{model}")(config)(input_ids=torch.full((2, 5), 70), labels=labels)


@pytest.mark.parametrize(
    "problem_type, num_labels, labels",
    [
        (None, 3, torch.tensor([[0], [2]])),
        (None, 3, torch.tensor([0, -100])),
        ("single_label_classification", 3, torch.tensor([0, 2]).byte()),
        (None, 3, torch.full((2, 3), 0.5)),
        (None, 3, torch.ones(2, 3).half()),
        (None, 1, torch.tensor([1, 4])),  # stars, say
        (None, 1, torch.ones(2, 1)),
        ("regression", 2, torch.tensor([[1, 4], [5, 2]])),
    ],
)
def test_labels_that_fit(problem_type, num_labels, labels):
    config = PerceiverStudyConfig(**IMAGE, **SMALL, num_labels=num_labels, problem_type=problem_type)
    model = package.PerceiverStudyForImageClassification(config)
    model(torch.rand(2, 3, 8, 8), labels=labels).loss.backward()
    assert model.classifier.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "fields, labels",
    [
        ({"num_labels": 3}, torch.tensor([0, 2, -100, 1])),
        ({"num_labels": 3}, torch.rand(4, 3)),
        ({"num_labels": 1}, torch.tensor([1.0, 4, 2, 7])),
        ({"num_labels": 2, "problem_type": "regression"}, torch.rand(4, 2)),
        ({"tasks": {"a": 2, "b": 3}, "decoder_type": "query"}, torch.tensor([[0, 2], [1, -100], [0, 0], [1, 1]])),
    ],
)
@pytest.mark.parametrize("count", [int, torch.tensor])
def test_parts_of_a_batch_add_up_to_its_loss(fields, labels, count):
    """As `Trainer` has it where it adds up gradients: it says how many labels there are in all."""
    model = package.PerceiverStudyForImageClassification(PerceiverStudyConfig(**IMAGE, **SMALL, **fields)).eval()
    images = torch.rand(4, 3, 8, 8)
    count = count(int((labels != -100).sum()))
    whole = model(images, labels=labels).loss
    parts = [
        model(images[part], labels=labels[part], num_items_in_batch=count).loss for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("kind", ["ForImageClassification", "ForTokenClassification", "ForMaskedLM"])
def test_labels_of_a_loss_of_ones_own(kind):
    texts = kind != "ForImageClassification"
    fields = {"input_type": "bytes", "d_model": 16} if texts else IMAGE
    config = PerceiverStudyConfig(**fields, **SMALL, num_labels=3, problem_type="single_label_classification")
    model = getattr(package, f"PerceiverStudy{kind}")(config)
    given = {"input_ids": torch.full((2, 5), 70)} if texts else {"pixel_values": torch.rand(2, 3, 8, 8)}
    shares = torch.full((2, 5, 3) if texts else (2, 3), 1 / 3)
    with pytest.raises(ValueError, match="labels have shape"):
        model(**given, labels=shares)
    seen = []

    def loss(*given, **_):
        seen.extend(given)
        return torch.tensor(7.0)

    model.loss_function = loss
    assert model(**given, labels=shares).loss == 7
    assert any(one is shares for one in seen)


@pytest.mark.parametrize("kind", ["ForSequenceClassification", "ForTokenClassification", "ForMaskedLM"])
def test_a_subclass_of_another_name_has_the_same_loss(kind):
    """From a name that transformers does not know it would guess the loss of a causal language model."""
    config = PerceiverStudyConfig(input_type="bytes", d_model=16, **SMALL, num_labels=3)
    model = getattr(package, f"PerceiverStudy{kind}")
    other = type("Mine", (model,), {})(config)
    labels = torch.tensor([0, 2]) if kind == "ForSequenceClassification" else torch.tensor([[0, 2, 1], [1, -100, 0]])
    given = {"input_ids": torch.tensor([[70, 80, 90], [100, 110, 120]]), "labels": labels}
    model = model(config)
    model.load_state_dict(other.state_dict())
    assert model.eval()(**given).loss == other.eval()(**given).loss


class OnGPU(torch.Tensor):
    is_cuda = True


@pytest.mark.parametrize("captures", [False, True])
def test_nothing_is_decided_while_a_graph_is_captured(monkeypatch, captures):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captures)
    assert has_values(torch.ones(1))
    assert has_values(torch.ones(1).as_subclass(OnGPU)) is not captures
