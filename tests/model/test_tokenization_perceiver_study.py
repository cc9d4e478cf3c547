"""The tokenizer: the ids of transformers' PerceiverTokenizer on any text, and what fast tokenizers have beside them."""

import random

import numpy as np
import pytest
from transformers import AddedToken, AutoTokenizer, PerceiverTokenizer

from modeling_perceiver_study import PerceiverStudyTokenizer
from tests.fresh_processes import python

THEIRS, OURS = PerceiverTokenizer(), PerceiverStudyTokenizer()


def random_text(rng: random.Random) -> str:
    """Any Unicode, and special tokens, whole and broken."""
    parts = []
    for _ in range(rng.choice([0, 1, 2, 5, 40])):
        kind = rng.random()
        if kind < 0.1:
            parts.append(rng.choice(["[MASK]", "[CLS]", " [SEP]", "[PAD]", "[MAS", "[", "]"]))
        elif kind < 0.5:
            parts.append(chr(rng.randrange(32, 127)))
        else:
            point = rng.randrange(0x110000)
            parts.append(chr(65 if 0xD800 <= point < 0xE000 else point))
    return "".join(parts)


SETTINGS = [
    {},
    {"add_special_tokens": False},
    {"truncation": True, "max_length": 9},
    {"truncation": True, "max_length": 12},
    {"truncation": True, "max_length": 24},
    {"truncation": "only_first", "max_length": 12},
    {"truncation": "only_second", "max_length": 12},
    {"padding": "max_length", "max_length": 70},
    {"split_special_tokens": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_same_ids(settings):
    rng = random.Random(0)
    for _ in range(150):
        one, two = random_text(rng), random_text(rng)
        lists = [([one, two],), ([one, two], [two, one]), ([(one, two), (two, one)],)]
        for arguments in ((one,), (one, two), (one, ""), *lists):
            assert dict(OURS(*arguments, **settings)) == dict(THEIRS(*arguments, **settings)), (arguments, settings)


@pytest.mark.parametrize("settings", SETTINGS)
def test_offsets_change_no_id(settings):
    rng = random.Random(0)
    more = {"return_special_tokens_mask": True, "return_length": True}
    for _ in range(50):
        one, two = random_text(rng), random_text(rng)
        lists = [([one, two],), ([one, two], [two, one]), ([(one, two), (two, one)],)]
        for arguments in ((one,), (one, two), (one, ""), *lists):
            found = OURS(*arguments, return_offsets_mapping=True, **more, **settings)
            plain = OURS(*arguments, **settings)
            assert {name: found[name] for name in plain} == dict(plain), (arguments, settings)
            rows = found if isinstance(arguments[0], list) else {name: [values] for name, values in found.items()}
            for ids, offsets, mask in zip(
                rows["input_ids"], rows["offset_mapping"], rows["special_tokens_mask"], strict=True
            ):
                assert len(ids) == len(offsets) == len(mask)
            sequences = found.sequence_ids(0)
            assert len(sequences) == len(rows["input_ids"][0]) and {*sequences} <= {None, 0, 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", ["b"]), "a text and a list"),
        ((["a"], "b"), "a text and a list"),
        (([["a"]], ["b"]), r"holds \['a'\]: expected texts alone"),
        ((["a", "b"], ["c"]), "2 texts have 1 pairs"),
        (([("a", "b", "c")],), r"holds \('a', 'b', 'c'\): expected two texts"),
        (([("a", "b"), "c"],), r"holds 'c': expected two texts"),
        (([[]],), r"holds \[\]: expected two texts"),
        ((3,), "text=3: expected a text"),
    ],
)
@pytest.mark.parametrize("flags", [{}, {"return_offsets_mapping": True}])
def test_what_is_no_text_and_no_pair(arguments, message, flags):
    with pytest.raises(ValueError, match=message):
        OURS(*arguments, **flags)


def test_lengths_are_whole_numbers():
    with pytest.raises(ValueError, match=r"max_length=4.5: expected a whole number of at least 2"):
        OURS(["abcdef"], truncation=True, max_length=4.5)


def test_the_same_tokens_and_texts():
    rng = random.Random(1)
    assert OURS.get_vocab() == THEIRS.get_vocab()
    assert (len(OURS), OURS.vocab_size) == (len(THEIRS), THEIRS.vocab_size) == (262, 256)
    for _ in range(200):
        text, ids = random_text(rng), [rng.randrange(262) for _ in range(20)]  # most of them are no text
        assert OURS.tokenize(text) == THEIRS.tokenize(text)
        for skip in (False, True):
            expected = THEIRS.decode(ids, skip_special_tokens=skip)
            assert OURS.decode(ids, skip_special_tokens=skip) == expected
        tokens = THEIRS.convert_ids_to_tokens(ids)
        assert OURS.convert_ids_to_tokens(ids) == tokens and OURS.convert_tokens_to_ids(tokens) == ids


@pytest.mark.parametrize("side", ["left", "right"])
def test_sides(side):
    sides = {"padding_side": side, "truncation_side": side}
    ours, theirs = PerceiverStudyTokenizer(**sides), PerceiverTokenizer(**sides)
    texts = ["a", "some longer text", "été"]
    settings = {"padding": True, "truncation": True, "max_length": 8, "return_tensors": "np", "pad_to_multiple_of": 4}
    for name, expected in theirs(texts, **settings).items():
        np.testing.assert_array_equal(ours(texts, **settings)[name], expected)


def test_special_tokens_of_ones_own():
    settings = {"mask_token": "<?>", "cls_token": "<é>"}
    ours, theirs = PerceiverStudyTokenizer(**settings), PerceiverTokenizer(**settings)
    assert dict(ours(["a <?> b [MASK]<é>"])) == dict(theirs(["a <?> b [MASK]<é>"]))
    for tokenizer in (ours, theirs):
        tokenizer.add_tokens(["new"])
    assert ours(["a new word"])["input_ids"] == theirs(["a new word"])["input_ids"]
    assert ours("a new word")["input_ids"] == theirs("a new word")["input_ids"]
    with pytest.raises(ValueError, match="expected 6 different texts"):
        PerceiverStudyTokenizer(mask_token="[CLS]")


CHANGES = {
    "add_special_tokens": lambda tokenizer: tokenizer.add_special_tokens({"mask_token": "<?>", "sep_token": "<end>"}),
    "a token that is there": lambda tokenizer: setattr(tokenizer, "cls_token", "[BOS]"),
    "after another": lambda tokenizer: (
        tokenizer.add_tokens(["<u>"]),
        tokenizer.add_special_tokens({"sep_token": "<end>"}),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_special_tokens_that_are_changed_later_keep_their_ids(change, tmp_path):
    """Whether they come alone or in lists, and also when the tokenizer was saved and loaded, twice."""
    ours, theirs = PerceiverStudyTokenizer(), PerceiverTokenizer()
    change(ours)
    change(theirs)
    texts = ["a<?>b", "[SEP] x<u>", ""]
    wanted = [theirs(text)["input_ids"] for text in texts]
    pair = theirs("a", "b")["input_ids"]
    for folder in (None, tmp_path / "once", tmp_path / "twice"):
        if folder is not None:
            ours.save_pretrained(folder)
            ours = PerceiverStudyTokenizer.from_pretrained(folder)
        assert [ours(text)["input_ids"] for text in texts] == ours(texts)["input_ids"] == wanted
        assert [ours(text, return_offsets_mapping=True)["input_ids"] for text in texts] == wanted
        assert ours("a", "b")["input_ids"] == ours("a", "b", return_offsets_mapping=True)["input_ids"] == pair
        assert ours.mask_token_id == theirs.mask_token_id


def test_a_special_token_without_an_id():
    tokenizer = PerceiverStudyTokenizer()
    tokenizer.sep_token = "<end>"
    with pytest.raises(ValueError, match="special token '<end>' has no id: expected add_special_tokens to give it one"):
        tokenizer("a")


@pytest.mark.parametrize("token", ["_", "é", "Ġ"])
def test_single_characters_are_bytes(token):
    """Or what the library calls them."""
    with pytest.raises(ValueError, match="at least 2 characters"):
        PerceiverStudyTokenizer(mask_token=token)
    with pytest.raises(ValueError, match="it is how a byte is called"):
        PerceiverStudyTokenizer().add_tokens([token])


def test_names_that_only_the_library_has():
    assert OURS.convert_tokens_to_ids(["Ġ", "ā", "a"]) == [None, None, 103]


def test_tokens_of_pairs():
    for special in (False, True):
        assert OURS.tokenize("aé", "b", add_special_tokens=special) == OURS.convert_ids_to_tokens(
            THEIRS("aé", "b", add_special_tokens=special)["input_ids"]
        )


@pytest.mark.parametrize(
    "flags", [{}, {"return_length": True}, {"return_offsets_mapping": True}, {"return_tensors": "np"}]
)
@pytest.mark.parametrize("added", [AddedToken("zz"), AddedToken("zz", lstrip=True)])
def test_an_empty_pair_beside_an_added_token(added, flags):
    """Whichever way texts go."""
    plain, tokenizer = PerceiverStudyTokenizer(), PerceiverStudyTokenizer()
    tokenizer.add_tokens([added])
    found, expected = tokenizer("a", "", **flags), plain("a", "", **flags)
    assert {name: np.asarray(value).tolist() for name, value in found.items()} == {
        name: np.asarray(value).tolist() for name, value in expected.items()
    }
    assert np.asarray(found["input_ids"]).flatten().tolist() == [4, 103, 5, 5] == tokenizer(["a"], [""])["input_ids"][0]


def test_windows_of_an_empty_pair():
    alone = OURS("ab", "", return_overflowing_tokens=True)["input_ids"]
    assert alone == OURS(["ab"], [""], return_overflowing_tokens=True)["input_ids"] == [[4, 103, 104, 5, 5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 2}, "max_length=2: expected a whole number of at least 3, with 2 special tokens"),
        ({"max_length": 5, "stride": 3}, "stride=3: expected 0 to 2, less than max_length=5 leaves of a text"),
        ({"max_length": 5, "stride": -1}, "stride=-1: expected 0 to 2"),
    ],
)
def test_windows_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        OURS(["abcdefgh"], truncation=True, return_overflowing_tokens=True, **options)


def test_a_length_below_zero():
    with pytest.raises(ValueError, match="max_length=-1: expected a whole number of at least 0"):
        OURS("a", padding="max_length", max_length=-1)


def test_offsets_and_words():
    found = OURS("hé €!", return_offsets_mapping=True)
    assert found["offset_mapping"] == [
        (0, 0),
        *[(0, 1), (1, 2), (1, 2), (2, 3), (3, 4), (3, 4), (3, 4), (4, 5)],
        (0, 0),
    ]
    words = OURS(["hé", "€"], is_split_into_words=True)
    assert words.word_ids() == [None, 0, 0, 0, 1, 1, 1, None]


def test_windows_of_a_long_text():
    found = OURS("abcdefgh", truncation=True, max_length=6, stride=1, return_overflowing_tokens=True)
    assert [OURS.decode(ids, skip_special_tokens=True) for ids in found["input_ids"]] == ["abcd", "defg", "gh"]


def test_saved_and_loaded_by_a_stranger(tmp_path):
    tokenizer = PerceiverStudyTokenizer(model_max_length=100)
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(tmp_path)
    expected = tokenizer(["naïve [MASK] new", "b"], padding=True)["input_ids"]
    program = f"""
import sys
sys.modules["modeling_perceiver_study"] = None
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
assert tokenizer.is_fast and tokenizer.model_max_length == 100
assert tokenizer(["naïve [MASK] new", "b"], padding=True)["input_ids"] == {expected}
"""
    done = python("-W", "error", "-c", program, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)("a")["input_ids"] == OURS("a")["input_ids"]


def test_long_texts_are_warned_of_once(caplog):
    tokenizer = PerceiverStudyTokenizer(model_max_length=5)
    assert len(tokenizer(["long text"])["input_ids"][0]) == 11
    assert len(tokenizer(["long text"], truncation=True)["input_ids"][0]) == 5


@pytest.mark.parametrize("split", [False, True])
def test_added_tokens_stay_whole(split):
    """A text alone and one in a list, whichever of the two ways they go; special ones may be split."""
    tokenizer = PerceiverStudyTokenizer()
    tokenizer.add_tokens(["new"])
    tokenizer.add_tokens(["newer"], special_tokens=True)
    for text in ("a new [MASK] one", "new", "newer", "[CLS]new"):
        alone = tokenizer(text, split_special_tokens=split)["input_ids"]
        assert tokenizer([text], split_special_tokens=split)["input_ids"] == [alone], text


@pytest.mark.parametrize("split", [False, True])
def test_added_tokens_that_overlap_are_found_alike(split):
    """A text alone and one in a list: tokens of the letters a and b in all kinds, of which some begin in others."""
    rng = random.Random(0)
    for _ in range(60):
        tokenizer = PerceiverStudyTokenizer()
        for name in {"".join(rng.choices(["a", "b", "[MASK]", "[MASK"], k=rng.randint(2, 3))) for _ in range(5)}:
            token = AddedToken(name, normalized=rng.random() < 0.5, special=rng.random() < 0.5)
            tokenizer.add_tokens([token], special_tokens=token.special)
        texts = ["".join(rng.choices(["a", "b", "[MASK]", "[MASK"], k=rng.randint(0, 12))) for _ in range(10)]
        alone = [tokenizer(text, split_special_tokens=split)["input_ids"] for text in texts]
        assert tokenizer(texts, split_special_tokens=split)["input_ids"] == alone, tokenizer.added_tokens_decoder


def test_a_special_token_is_found_in_what_a_longer_one_begins_with():
    tokenizer = PerceiverStudyTokenizer()
    tokenizer.add_tokens(["x[MASK"])
    assert tokenizer("x[MASK]")["input_ids"] == [4, 126, 3, 5]
    assert tokenizer(["x[MASK]"])["input_ids"] == [[4, 126, 3, 5]]
