"""What a visitor of the page types: cut to what the model takes, and answered in words."""

import numpy as np
import pytest

from lab.errors import UserError
from lab.looking.text_view import MaskedView, TextView
from modeling_perceiver_study import PerceiverStudyTokenizer

TOKENIZER = PerceiverStudyTokenizer(model_max_length=10)


@pytest.mark.parametrize(
    "text, kept",
    [
        ("short", "short"),
        ("exactly8", "exactly8"),
        ("one letter too many", "one lett"),
        ("1234567ä", "1234567"),  # of two bytes, of which the first had room
        ("1234😀 and more", "1234😀"),
        ("12345😀 and more", "12345"),
        ("a[MASK]c[MASK]efghijkl", "a[MASK]c[MASK]efgh"),  # a mask takes the room of one byte
    ],
)
def test_a_text_is_cut_between_characters(text, kept):
    assert TextView.take({"text": text}, TOKENIZER) == kept
    assert len(TOKENIZER(kept)["input_ids"]) <= 10


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, mark):
    (tmp_path / "line.txt").write_text(f"{mark}short\n", encoding="utf-8")
    assert TextView.read(tmp_path / "line.txt", TOKENIZER) == TextView.give(tmp_path / "line.txt") == "short"


@pytest.mark.parametrize(
    "view, text, message",
    [
        (TextView, "", "The text is empty"),
        (MaskedView, "whole", r"The text holds no \[MASK\]"),
        (MaskedView, "12345678[MASK]", r"first \[MASK\] behind what the model takes, 8 bytes"),
    ],
)
def test_what_is_refused(view, text, message):
    with pytest.raises(UserError, match=message):
        view.take({"text": text}, TOKENIZER)


@pytest.mark.parametrize(
    "text, bytes_found, told",
    [
        ("b[MASK]d", b"a", "bad"),
        ("[MASK]a[MASK]", b"bd", "bad"),
        ("n[MASK][MASK]f", "ä".encode(), "näf"),
        ("n[MASK]f", b"\xe4", "n\N{REPLACEMENT CHARACTER}f"),
    ],
)
def test_masked_bytes_are_filled_in(text, bytes_found, told):
    answers = [[{"token": byte + 6}, {"token": 6}] for byte in bytes_found]
    predictions = answers if len(answers) > 1 else answers[0]  # as the pipeline answers
    assert MaskedView.told(TOKENIZER, text, predictions) == told


def test_weights_of_bytes_are_added_up_for_their_characters():
    view = TextView.of(TOKENIZER, None, "aä[MASK]")
    assert view.characters == ["[", "a", "ä", "\N{WHITE SQUARE}", "]"]
    assert view._of_characters(np.arange(6.0)).tolist() == [0, 1, 5, 4, 5]
