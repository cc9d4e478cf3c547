"""Tasks on texts: what the tests of all tasks leave open."""

import math
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch

from lab.data.loaders import epoch_order
from lab.errors import UserError
from lab.looking.text_view import MaskedView
from lab.recipe import load_recipe
from lab.tasks import build_task
from lab.tasks.texts import as_text
from tests.task_kinds import KINDS, make_texts, texts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield make_texts(folder / "data")


def build(kind, folder, *overrides):
    return build_task(load_recipe(None, [*KINDS[kind].recipe, f"data.path={folder}", "data.name=made-up", *overrides]))


@pytest.mark.parametrize("kind", ["text", "masked-lm"])
def test_the_recipe_must_fit(data, kind):
    grid = ["input_type=grid", "d_model=768", "max_position_embeddings=2048", "ngram_vocab_size=4096"]
    with pytest.raises(UserError, match=r"model\.input_type=grid: expected bytes"):
        build(kind, data, *(f"model.{field}" for field in grid), "model.ngram_sizes=null")
    with pytest.raises(UserError, match=r"tokenizer\.model_max_length=99: expected 3 to 48"):
        build(kind, data, "tokenizer.model_max_length=99")
    with pytest.raises(UserError, match="section feature_extractor"):
        build(kind, data, "feature_extractor={num_points: 3}")


@pytest.mark.parametrize(
    "kind, override, message",
    [
        ("text", "augmentation.window=[5]", r"augmentation\.window=\[5\]: expected null, or two numbers"),
        ("text", "augmentation.typos=2", r"augmentation\.typos=2"),
        ("text", "tokenizer={join: true}", "join"),
        ("masked-lm", "augmentation.masked=lines", r"masked=lines: expected one of bytes, words, spans"),
        ("masked-lm", "augmentation={random_share: 0.7, kept_share: 0.7}", "expected at most 1 together"),
    ],
)
def test_wrong_settings(data, kind, override, message):
    with pytest.raises(UserError, match=message):
        build(kind, data, override)


def test_columns(tmp_path):
    for split in ("train", "test"):
        rows = {"first": ["a b", "c d"] * 15, "second": ["x", "y"] * 15, "label": [0, 1] * 15}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=r"2 text columns.*data\.columns\.text"):
        build("text", tmp_path, "model.num_labels=2").load_splits()
    for column in ("data.text_column=second", "data.columns={text: second}"):
        splits = build("text", tmp_path, "model.num_labels=2", column).load_splits()
        assert splits.test.lengths.max() == 1
    with pytest.raises(UserError, match=r"data\.text_column=first and data\.columns\.text=second: keep one of them"):
        build("text", tmp_path, "data.text_column=first", "data.columns={text: second}").load_splits()
    with pytest.raises(UserError, match=r"data\.text_column=label: that column holds int64; expected text"):
        build("text", tmp_path, "model.num_labels=2", "data.text_column=label").load_splits()


def test_a_column_called_text_needs_no_name(tmp_path):
    for split in ("train", "test"):
        found, labels = texts(30, 0)
        lines = ["text,label", *(f'"{text}",mood {label}' for text, label in zip(found, labels, strict=True))]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    splits = build("text", tmp_path).load_splits()
    assert len(splits.test) == 30 and splits.label_names[0].startswith("mood ")


def test_what_is_no_text_is_named_or_left_out(tmp_path):
    for split in ("train", "test"):
        found, labels = texts(30, 0)
        found[5], found[7] = "", None
        rows = {"text": found, "label": [str(label) for label in labels]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=r"row 5 of split t.* is not a usable text: it is empty"):
        build("text", tmp_path, "data.text_column=text").load_splits()
    splits = build("text", tmp_path, "data.text_column=text", "data.on_error=skip").load_splits()
    assert len(splits.test) == 28


def test_one_long_text_of_files(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("".join(f"line {number} é\n\n" for number in range(200)))
    task = build("masked-lm", tmp_path, "tokenizer={join: true}")
    splits = task.load_splits()
    room = task.processor.model_max_length - 2
    assert set(splits.train.lengths) <= {room, splits.test.lengths[-1]}
    whole = task.processor.decode(splits.test.values.tolist())
    assert whole == (tmp_path / "test.txt").read_text()
    assert len(splits.validation) == 12
    for split in ("train", "validation", "test"):
        assert np.array_equal(task.load_split(split).values, getattr(splits, split).values)
    with pytest.raises(UserError, match=r"makes .* pieces of 46 bytes: data\.validation_samples=999"):
        build("masked-lm", tmp_path, "tokenizer={join: true}", "data.validation_samples=999").load_splits()
    everything = build("masked-lm", tmp_path, "tokenizer={join: true}", "data.validation_samples=0")
    assert everything.load_splits().validation is None
    with pytest.raises(UserError, match="left no samples to validate on"):
        everything.load_split("validation")


def test_a_group_of_one_long_text_to_validate_on(tmp_path):
    texts = {"book": ["a", "b", "c"] * 40, "text": [f"line {number} of a book" for number in range(120)]}
    for split in ("train", "test"):
        datasets.Dataset.from_dict(texts).to_parquet(tmp_path / f"{split}.parquet")
    column, group = "data.columns={text: text}", "data.validate_on={book: b}"
    task = build("masked-lm", tmp_path, "tokenizer={join: true}", column, group)
    splits = task.load_splits()
    expected = "".join(f"line {number} of a book\n" for number in range(1, 120, 3))
    assert task.processor.decode(splits.validation.values.tolist()) == expected
    assert "line 1 of" not in task.processor.decode(splits.train.values.tolist())
    assert np.array_equal(task.load_split("validation").values, splits.validation.values)


def test_what_is_no_text_of_a_long_one_is_named_or_left_out(tmp_path):
    for split in ("train", "test"):
        rows = {"text": [None if number == 5 else f"line {number}" for number in range(200)]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=r"row 5 of split t.* is not a usable text"):
        build("masked-lm", tmp_path, "tokenizer={join: true}").load_splits()
    splits = build("masked-lm", tmp_path, "tokenizer={join: true}", "data.on_error=skip").load_splits()
    assert "line 5\n" not in build("masked-lm", tmp_path).processor.decode(splits.test.values.tolist())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimization.label_smoothing=0.2", "label_smoothing=0.2: texts of task=masked-lm have no labels"),
        ("optimization.class_weights=balanced", "optimization.class_weights=balanced"),
        ("data.withhold=[text]", "data.withhold"),
        ("model.num_labels=3", "model.num_labels=3"),
        ("data.label_column=mood", "data.label_column=mood: this task has no labels"),
        ("data.columns={label: mood}", "data.columns.label: this task reads text"),
    ],
)
def test_masked_texts_have_no_labels(data, override, message):
    with pytest.raises(UserError, match=message):
        build("masked-lm", data, override).load_splits()


def test_masks_of_evaluation_depend_on_the_row_alone(data):
    task = build("masked-lm", data)
    validation = task.load_splits().validation
    whole, _ = task.inputs(validation.__getitems__([0, 5, 7]))
    alone, _ = task.inputs(validation.__getitems__([5]))
    length = alone["input_ids"].shape[1]
    assert whole["input_ids"][1, :length].tolist() == alone["input_ids"][0].tolist()


def test_texts_of_nothing_but_special_tokens(data):
    """One whole batch of them has nothing to be asked, and a loss of 0."""
    task = build("masked-lm", data)
    ids = torch.full((2, 3), task.processor.mask_token_id)
    arguments, targets = task.inputs({"values": ids, "lengths": torch.tensor([3, 1]), "rows": torch.tensor([0, 1])})
    assert targets.tolist() == [[-100], [-100]]
    model = task.new_model()
    assert model(**arguments).logits.shape == (2, 1, model.config.vocab_size)
    assert task.judge([model(**arguments)], targets)["masked"].sum() == 0


class Lengths:
    """A dataset of which only lengths are known."""

    in_buckets = True

    def __init__(self, count):
        self.lengths = np.random.default_rng(0).integers(1, 500, count)

    def __len__(self):
        return len(self.lengths)


@pytest.mark.parametrize(("count", "size"), [(500, 64), (500, 128), (2712, 32)])
def test_any_text_may_be_left_out_of_an_epoch(count, size):
    dataset, epochs = Lengths(count), 200
    lost = count % size
    left_out = np.zeros(count, int)
    for epoch in range(epochs):
        left_out[epoch_order(dataset, 0, epoch)[count - lost :]] += 1
    expected = epochs * lost / count
    for group in np.array_split(np.argsort(dataset.lengths), 10):  # from the shortest to the longest
        assert left_out[group].mean() == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("count", [1, 63, 64, 200, 5000])
def test_batches_of_about_one_length(count):
    dataset = Lengths(count)
    order = epoch_order(dataset, seed=0, epoch=3)
    assert sorted(order) == list(range(count))
    assert np.array_equal(order, epoch_order(dataset, 0, 3))
    if count == 5000:
        assert not np.array_equal(order, epoch_order(dataset, 0, 4))
        batches = [dataset.lengths[order[first : first + 32]] for first in range(0, count - 32, 32)]
        padding = sum(len(batch) * batch.max() for batch in batches) / sum(batch.sum() for batch in batches)
        assert padding < 1.1


@pytest.mark.parametrize("kind", ["text", "masked-lm"])
def test_samples_that_are_shown_are_cut_between_characters(data, kind):
    task = build(kind, data)
    sample = task.decoder().decode_one("a" + "ä" * 30)
    read = task.as_read(sample) if kind == "text" else as_text(sample, task.processor)
    assert read == "a" + "ä" * 22


def test_examples_of_masked_texts_can_be_asked(data, tmp_path):
    task = build("masked-lm", data)
    task.save_examples(tmp_path, task.load_splits().test)
    paths = sorted(tmp_path.glob(MaskedView.examples))
    assert paths
    for path in paths:
        assert "[MASK]" in MaskedView.read(path, task.processor)


def test_scores_of_masked_bytes(data):
    task, logits = build("masked-lm", data), torch.zeros(2, 3, 262)
    logits[0, 0, 70] = 100.0  # sure and right; elsewhere all ids are alike
    targets = torch.tensor([[70, 71, -100], [72, -100, -100]])
    judged = {name: found.numpy() for name, found in task.judge([SimpleNamespace(logits=logits)], targets).items()}
    scores = task.scores(judged)
    assert scores["bits_per_byte"] == pytest.approx(2 / 3 * math.log2(262))
    assert scores["loss"] == pytest.approx(2 / 3 * math.log(262)) and scores["masked_accuracy"] == pytest.approx(1 / 3)


def test_training_sees_another_part_of_a_long_text_at_each_step(data):
    task = build("masked-lm", data, "augmentation.share=0")  # one byte is chosen
    ids = torch.arange(6, 206, dtype=torch.int16)[None]
    batch = {"values": ids, "lengths": torch.tensor([200]), "rows": torch.tensor([0])}

    def start(made):
        arguments, targets = made
        return int(targets[0, 0]) - 6 - (int(arguments["output_positions"][0, 0]) - 1)

    starts = {start(task.training_inputs(batch, step, 0)) for step in range(20)}
    assert len(starts) > 10 and 50 < max(starts) <= 200 - 46 and start(task.inputs(batch)) == 0


def test_numbers_that_leave_classes_out_are_explained(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\none,1\nfive,5\nmany,1000\n", encoding="utf-8")
    message = (
        "the data has 1001 labels .*: set it to 1001. Whole numbers count classes from 0, .*: store others as strings"
    )
    with pytest.raises(UserError, match=message):
        build("text", tmp_path, "data.validation_samples=1", "data.test_split=null").load_splits()
