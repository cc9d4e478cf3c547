"""Time of the tokenizer here and of transformers' on lines of text, which must give the same ids."""

import statistics
import time
from pathlib import Path

import numpy as np
from transformers import PerceiverTokenizer, PreTrainedTokenizerBase

from lab.errors import UserError
from modeling_perceiver_study import PerceiverStudyTokenizer

_TOKENIZERS = {"this repository": PerceiverStudyTokenizer, "transformers": PerceiverTokenizer}
# What texts are made of where none are given: letters of one to four bytes, mostly of one.
_LETTERS = "etaoin shrdlu ETAOIN, ÄÖÜß éàè кириллица 漢字かな 😀"


def lines_of(file: Path | None, count: int) -> list[str]:
    """The first lines of a file in UTF-8 that are not empty; without one random texts of 20 to 250 letters.

    Raises:
        UserError: the file cannot be read, or holds no text.
    """
    if file is None:
        rng = np.random.default_rng(0)
        shares = np.array([8.0 if letter.isascii() else 0.5 for letter in _LETTERS])
        letters = np.array(list(_LETTERS))
        return ["".join(rng.choice(letters, rng.integers(20, 251), p=shares / shares.sum())) for _ in range(count)]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--data {file} is not a readable text in UTF-8: {error}") from None
    lines = [line for line in lines if line][:count]
    if not lines:
        raise UserError(f"--data {file} holds no text: expected lines of text")
    return lines


def time_tokenizers(lines: list[str], rounds: int, max_length: int = 2048) -> dict[str, float]:
    """Lines a second of each: medians of calls on all lines, in turn, with truncation.

    Raises:
        UserError: their ids differ, which they never should.
    """
    tokenizers = {name: kind(model_max_length=max_length) for name, kind in _TOKENIZERS.items()}
    ours, theirs = (tokenize(tokenizer, lines) for tokenizer in tokenizers.values())
    if ours != theirs:
        number = next(number for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        raise UserError(f"ids of {lines[number]!r} are {ours[number]}, and {theirs[number]} in transformers")
    seconds = {name: [] for name in tokenizers}
    for _ in range(rounds):
        for name, tokenizer in tokenizers.items():
            start = time.perf_counter()
            tokenize(tokenizer, lines)
            seconds[name].append(time.perf_counter() - start)
    return {name: len(lines) / statistics.median(found) for name, found in seconds.items()}


def tokenize(tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> list[list[int]]:
    """Ids of each line, with `[CLS]` and `[SEP]`."""
    return tokenizer(lines, truncation=True)["input_ids"]
