"""Random changes of texts, and masks."""

from types import SimpleNamespace

import numpy as np
import pytest

from lab.augment.masking import Masking, mask
from lab.augment.text import TextAugmentation, change, mistyped, recased
from modeling_perceiver_study.tokenization_perceiver_study import FIRST_BYTE

MASK = 3


def ids_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int16) + FIRST_BYTE


def text_of(ids: np.ndarray) -> str:
    return (ids - FIRST_BYTE).astype(np.uint8).tobytes().decode()


def test_nothing_is_changed_by_default():
    ids = ids_of("a text")
    assert change(ids, TextAugmentation(), MASK, np.random.default_rng(0)) is ids


def test_windows():
    ids, settings = np.arange(100) + FIRST_BYTE, TextAugmentation(window=[10, 20])
    found = [change(ids, settings, MASK, np.random.default_rng(seed)) for seed in range(200)]
    assert {len(one) for one in found} == set(range(10, 21))
    assert all((np.diff(one) == 1).all() for one in found)
    assert min(one[0] for one in found) == FIRST_BYTE and max(one[-1] for one in found) == 99 + FIRST_BYTE
    assert len(change(ids[:3], settings, MASK, np.random.default_rng(0))) == 3


def test_cases():
    assert text_of(recased(ids_of("Straße, été"), upper=True)) == "STRASSE, ÉTÉ"
    assert text_of(recased(ids_of("İI"), upper=False)) == "i̇i"
    special = np.array([MASK, 70])
    assert recased(special, upper=True) is special
    broken = np.array([200, 70, 110]) + FIRST_BYTE  # no UTF-8
    assert len(recased(broken, upper=True)) == 3


def test_typos():
    ids = ids_of("abcdefgh" * 200)
    found = mistyped(ids, 0.2, np.random.default_rng(0))
    assert set(found) <= set(ids) and not np.array_equal(found, ids) and abs(len(found) - len(ids)) < 60
    assert np.array_equal(mistyped(ids, 0.0, np.random.default_rng(0)), ids)
    for seed in range(20):
        assert len(mistyped(ids[:1], 1.0, np.random.default_rng(seed))) >= 1


@pytest.mark.parametrize(("kind", "expected"), [(0, "acde"), (1, "abbcde"), (2, "acbde"), (3, "aecde")])
def test_kinds_of_typos(kind, expected):
    rng = SimpleNamespace(
        random=lambda size: np.where(np.arange(size) == 1, 0.0, 1.0),
        integers=lambda high, size: np.full(size, kind if high == 4 else 4),
    )
    assert text_of(mistyped(ids_of("abcde"), 0.5, rng)) == expected


def test_shares_of_texts_and_of_bytes_that_change():
    ids = ids_of("Some Words " * 100)

    def changed(seed, **settings):
        return change(ids, TextAugmentation(**settings), MASK, np.random.default_rng(seed))

    found = [text_of(changed(seed, case_share=0.5)) for seed in range(100)]
    assert {*found} == {text_of(ids), text_of(ids).lower(), text_of(ids).upper()}
    assert 30 < found.count(text_of(ids)) < 70
    masked = changed(0, mask_share=0.3)
    assert (masked == MASK).mean() == pytest.approx(0.3, abs=0.05)
    assert (masked[masked != MASK] == ids[masked != MASK]).all()
    assert not np.array_equal(changed(0, typos=0.3), ids)


@pytest.mark.parametrize("masked", ["bytes", "words", "spans"])
@pytest.mark.parametrize("share", [0.05, 0.15, 0.5])
def test_the_share_that_is_masked(masked, share):
    ids = ids_of("some words of text, " * 2000)
    settings = Masking(masked=masked, share=share, random_share=0.0, kept_share=0.0)
    text, labels = mask(ids, settings, MASK, np.random.default_rng(0))
    chosen = labels >= 0
    spaces = (ids == ord(" ") + FIRST_BYTE).mean() if masked == "words" else 0.0
    assert chosen.mean() == pytest.approx(share * (1 - spaces), abs=0.02)
    assert (
        (text[chosen] == MASK).all() and (text[~chosen] == ids[~chosen]).all() and (labels[chosen] == ids[chosen]).all()
    )


def test_words_are_masked_whole():
    ids = ids_of("one two  three\nfour")
    settings = Masking(masked="words", share=0.5, random_share=0.0, kept_share=0.0)
    for seed in range(20):
        text, labels = mask(ids, settings, MASK, np.random.default_rng(seed))
        words = text_of(np.where(labels >= 0, ord("#") + FIRST_BYTE, text)).replace("\n", " ").split()
        assert all(set(word) == {"#"} or "#" not in word for word in words), words


def test_spans_have_the_length_that_was_asked_for():
    ids = ids_of("x" * 40_000)
    settings = Masking(masked="spans", share=0.05, span=6.0)
    _, labels = mask(ids, settings, MASK, np.random.default_rng(0))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels >= 0, [0]]).astype(int)))
    assert np.mean(edges[1::2] - edges[::2]) == pytest.approx(6, rel=0.15)


def test_spans_cover_beginnings_as_they_do_the_rest():
    ids, settings = ids_of("x" * 30), Masking(masked="spans", share=0.15)
    found = np.mean([mask(ids, settings, MASK, np.random.default_rng(seed))[1] >= 0 for seed in range(8000)], axis=0)
    assert found == pytest.approx(np.full(30, 0.155), abs=0.02)  # at least one byte is always chosen


def test_what_stands_instead():
    ids = ids_of("abcd" * 5000)
    text, labels = mask(ids, Masking(share=1.0), MASK, np.random.default_rng(0))
    assert (labels == ids).all()
    assert (text == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (text == ids).mean() == pytest.approx(0.1, abs=0.02)


def test_special_tokens_stay_and_one_byte_is_always_chosen():
    ids = np.array([MASK, 70, MASK])
    text, labels = mask(ids, Masking(share=0.0, random_share=0.0, kept_share=0.0), MASK, np.random.default_rng(0))
    assert labels.tolist() == [-100, 70, -100] and text.tolist() == [MASK, MASK, MASK]
    assert (mask(np.array([MASK]), Masking(), MASK, np.random.default_rng(0))[1] == -100).all()
