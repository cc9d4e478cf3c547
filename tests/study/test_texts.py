"""What texts withstand, and n-gram models of bytes."""

import json
from collections import Counter
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import baselines
import robustness
import train
from lab.errors import UserError
from lab.recipe import load_recipe
from lab.study.ngrams import NgramModel, bits_of_both_sides
from lab.study.texts import (
    cases_of,
    classifier_of,
    curves_of,
    disguised,
    mistyped,
    ngram_classifier,
    texts_of,
    texts_table,
)
from lab.tasks import build_task
from tests.small_data import fresh_accelerate
from tests.task_kinds import KINDS, make_texts, texts

TEXT = np.frombuffer(b"abracadabra, abracadabra; a bra and a cad", np.uint8)


def chance(text: bytes, context: bytes, byte: int, order: int) -> float:
    """By the formula, from counts of everything."""
    found = 1 / 256
    for length in range(1, order + 1):
        before = context[len(context) - length + 1 :]
        runs = Counter(text[first : first + length] for first in range(len(text) - length + 1))
        following = {run: count for run, count in runs.items() if run[:-1] == before}
        seen, different = sum(following.values()), len(following)
        if seen:
            found = (following.get(before + bytes([byte]), 0) + different * found) / (seen + different)
    return found


@pytest.mark.parametrize("order", [1, 2, 4])
def test_chances_are_those_of_the_formula(order):
    contexts = [b"abr", b"xyz", b"d a", b"cad"]
    rows = np.array([list(context)[4 - order :] if order > 1 else [] for context in contexts], np.uint8)
    found = NgramModel(TEXT, order).chances(rows.reshape(4, order - 1))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    for context, chances in zip(contexts, found, strict=True):
        for byte in b"abz ":
            assert chances[byte] == pytest.approx(chance(TEXT.tobytes(), context, byte, order))


def test_both_sides_say_more_than_one():
    places = np.arange(5, 20)
    one, both = bits_of_both_sides(TEXT, TEXT, places, 3)
    assert 0 < both < one < 8
    with pytest.raises(ValueError, match="order=9: expected 1 to 8"):
        NgramModel(TEXT, 9)


def test_changes_of_texts():
    rng = np.random.default_rng(0)
    assert mistyped("a text", 0.0, rng) == "a text" and disguised("a text", 0.0, rng) == "a text"
    assert disguised("cat B", 1.0, rng) == "саt В" and mistyped("a", 1.0, rng)
    assert mistyped("some text " * 20, 0.5, rng) != "some text " * 20


def test_curves_of_the_baseline():
    found, labels = texts(60, 0)
    classify = ngram_classifier(found, labels).predict
    curves, cases = curves_of(classify, found, labels), cases_of(classify, found, labels)
    assert curves[0].accuracies[0] == curves[1].accuracies[0] == cases["as they are"] > 0.9
    assert "| 30 % of the letters disguised |" in texts_table({"it": curves}, {"it": cases})


def test_nothing_is_learned_of_one_class():
    with pytest.raises(UserError, match="the texts to train on are all of one class"):
        ngram_classifier(["a text", "another"], np.ones(2, int))


@pytest.mark.slow
def test_commands(tmp_path):
    make_texts(tmp_path / "data")
    for kind, command, output in (("text", robustness, "robustness"), ("masked-lm", baselines, "ngrams")):
        (tmp_path / "plain.yaml").write_text("seed: 0\n")
        fresh_accelerate()
        where = [f"data.path={tmp_path / 'data'}", f"output_dir={tmp_path / kind}", "logging.log_with=null"]
        train.main([f"--config={tmp_path / 'plain.yaml'}", *KINDS[kind].recipe, *where])
        command.main([str(tmp_path / kind), *(["--orders", "1", "3"] if command is baselines else [])])
        if command is baselines:
            found = json.loads((tmp_path / kind / "ngrams.json").read_text())["bits_per_byte"]
            trained = json.loads((tmp_path / kind / "metrics.json").read_text())["test_bits_per_byte"]
            assert found == pytest.approx(trained)
        assert json.loads((tmp_path / kind / f"{output}.json").read_text())
        assert (tmp_path / kind / f"{output}.md").read_text().startswith("|")


@pytest.mark.slow
def test_the_baseline_learns_what_the_model_learned(tmp_path, monkeypatch):
    """The texts to train on, and not those to validate on."""
    make_texts(tmp_path / "data")
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    where = [f"data.path={tmp_path / 'data'}", f"output_dir={tmp_path / 'run'}", "logging.log_with=null"]
    fresh_accelerate()
    train.main([f"--config={tmp_path / 'plain.yaml'}", *KINDS["text"].recipe, *where])
    learned = []

    def classifier(found, labels):
        learned.append(len(found))
        return ngram_classifier(found, labels)

    monkeypatch.setattr(robustness, "ngram_classifier", classifier)
    robustness.main([str(tmp_path / "run")])
    assert learned == [48]
    with pytest.raises(UserError, match=r"optimization.epochs=3: only keys of section data: can be changed here"):
        robustness.main([str(tmp_path / "run"), "optimization.epochs=3"])
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    settings |= {"id2label": {"0": "with a", "1": "with e", "2": "with o"}, "label2id": {}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="'with u' and 0 more classes of the data are not among those of the model"):
        robustness.main([str(tmp_path / "run")])


@pytest.mark.slow
def test_rows_without_a_text(tmp_path, monkeypatch):
    """Robustness leaves them out where training does; n-grams need a test split, and are counted of streams too."""
    make_texts(tmp_path / "data")
    test = datasets.load_dataset(str(tmp_path / "data"), split="test")
    broken = test.to_dict() | {"text": [None, *test["text"][1:]]}
    datasets.Dataset.from_dict(broken, features=test.features).to_parquet(tmp_path / "data" / "test.parquet")
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    command = [f"--config={tmp_path / 'plain.yaml'}", f"data.path={tmp_path / 'data'}", "logging.log_with=null"]
    fresh_accelerate()
    train.main([*command, *KINDS["text"].recipe, f"output_dir={tmp_path / 'text'}", "data.on_error=skip"])
    robustness.main([str(tmp_path / "text")])
    with pytest.raises(UserError, match=r"row 0 of .* is not a usable text: it is NoneType, expected a text"):
        robustness.main([str(tmp_path / "text"), "data.on_error=raise"])
    fresh_accelerate()
    train.main([*command, *KINDS["masked-lm"].recipe, f"output_dir={tmp_path / 'masked'}", "data.test_split=null"])
    with pytest.raises(UserError, match=r"masked has no test split: name one by data.test_split=test"):
        baselines.main([str(tmp_path / "masked"), "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
    given = [str(tmp_path / "masked"), "--orders", "1", "data.test_split=test", "data.on_error=skip"]
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"plain.yaml cannot be made a folder"):
        patch.setattr(baselines, "evaluate", None)  # it is asked before
        baselines.main([*given, "--output", str(tmp_path / "plain.yaml")])
    baselines.main(given)


def test_cases_are_what_they_are_called():
    kind = {"Ab": 0, "AB": 1, "ab": 2}
    found = cases_of(lambda texts: np.array([kind[text] for text in texts]), ["Ab"], np.array([1]))
    assert found == {"as they are": 0, "upper case": 1, "lower case": 0}


def test_answers_come_in_the_order_of_the_texts():
    class FirstByte(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(logits=F.one_hot(input_ids[:, 1] % 3, 3).float())

    task = build_task(load_recipe(None, [*KINDS["text"].recipe, "data.name=made-up"]))
    given = ["b" * 30, "a", "c" * 9, "aaa", "bb"]
    assert classifier_of(task, FirstByte(), 2)(given).tolist() == [2, 1, 0, 1, 2]


def test_labels_are_numbered_as_the_model_does(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    make_texts(tmp_path / "data")
    task = build_task(load_recipe(None, [*KINDS["text"].recipe, f"data.path={tmp_path / 'data'}"]))
    _, labels = texts_of(task, "test")
    task.config.id2label = {0: "with u", 1: "with a", 2: "with e"}
    assert np.array_equal(texts_of(task, "test")[1], np.array([1, 2, 0])[labels])


def test_both_sides_are_independent_given_the_byte():
    places, text, bits = np.array([6, 13]), TEXT.tobytes(), []
    for place in places:
        before, behind = text[place - 2 : place], text[place + 1 : place + 3][::-1]
        both = [
            chance(text, before, b, 3) * chance(text[::-1], behind, b, 3) / chance(text, b"", b, 1) for b in range(256)
        ]
        bits.append(-np.log2(both[text[place]] / sum(both)))
    assert bits_of_both_sides(TEXT, TEXT, places, 3)[1] == pytest.approx(np.mean(bits))
