"""Text as UTF-8 bytes: no vocabulary but the 256 bytes and six special tokens, and ids of transformers' Perceiver."""

import os
import re
from collections.abc import Sequence
from numbers import Integral

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AddedToken, BatchEncoding, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy

_SPECIAL_TOKENS = ("pad_token", "bos_token", "eos_token", "mask_token", "cls_token", "sep_token")  # ids 0 to 5
FIRST_BYTE = len(_SPECIAL_TOKENS)  # id of the byte 0


def _byte_letters() -> list[str]:
    """What the library calls each of the 256 bytes: a visible letter, for most of them the one of that number."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def _are_texts(values) -> bool:
    return isinstance(values, (list, tuple)) and len(values) > 0 and all(isinstance(one, str) for one in values)


def _require_texts(values):
    """Raise a ValueError for what is no text in texts, or in lists of them, or cannot be written in UTF-8."""
    if isinstance(values, str):
        if not values.isascii():
            try:
                values.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"A text holds {values[error.start]!r} at {error.start}, half of a pair of surrogates, which is no "
                    "character: expected Unicode text. text.encode(errors='replace').decode() puts ? in its place."
                ) from None
    elif isinstance(values, (list, tuple)):
        for value in values:
            if not isinstance(value, (str, list, tuple)):
                raise ValueError(f"A list of texts holds {value!r}: expected texts alone.")
            _require_texts(value)


def _cut(parts: Sequence[np.ndarray], room: int, side: str) -> list[np.ndarray]:
    """Parts that together have at most `room` ids: the longer one loses the difference first, then both alike."""
    surplus = sum(map(len, parts)) - room
    if surplus <= 0:
        return list(parts)
    if len(parts) == 1:
        losses = [surplus]
    else:
        first, second = map(len, parts)
        more = min(abs(second - first), surplus)
        both = surplus - more
        losses = [more + both // 2, both - both // 2] if first > second else [both // 2, more + both - both // 2]
    kept = [max(0, len(part) - loss) for part, loss in zip(parts, losses, strict=True)]
    if side == "left":
        return [part[len(part) - count :] for part, count in zip(parts, kept, strict=True)]
    return [part[:count] for part, count in zip(parts, kept, strict=True)]


def _widen(row: np.ndarray, width: int, fill: int, before: bool) -> np.ndarray:
    """`(M,) -> (width,)`, filled up at its end, or before its beginning."""
    if len(row) == width:
        return row
    wide = np.full(width, fill, dtype=np.int64)
    wide[slice(width - len(row), None) if before else slice(len(row))] = row
    return wide


# What only the library makes.
_MORE = (
    "is_split_into_words",
    "return_token_type_ids",
    "return_overflowing_tokens",
    "return_special_tokens_mask",
    "return_offsets_mapping",
    "return_length",
    "sanitize_control_tokens",
)
_LETTERS = _byte_letters()
_BYTE_OF_LETTER = {letter: chr(byte) for byte, letter in enumerate(_LETTERS)}


class PerceiverStudyTokenizer(PreTrainedTokenizerFast):
    """Bytes of texts as ids, `[CLS] bytes [SEP]`, or `[CLS] bytes [SEP] bytes [SEP]` of pairs.

    Ids and names of tokens are those of transformers' `PerceiverTokenizer`: a byte is called by the character of its
    number, and has that number plus 6 as its id. What is here beyond it are offsets, words and windows of long texts
    with `return_overflowing_tokens`, as other fast tokenizers have them. Lists of texts, and pairs, of which nothing of
    this is asked take a path through numpy that is many times faster; their encodings have ids and masks alone.

    Args:
        pad_token: id 0, as the next ones up to 5.
        bos_token: there, but unused.
        eos_token: there, but unused.
        mask_token: stands for a byte to be guessed.
        cls_token: before a text.
        sep_token: behind a text.
        model_max_length: most ids that a model takes, special ones included; None is no limit.
    """

    model_input_names = ["input_ids", "attention_mask"]
    vocab_files_names: dict[str, str] = {}

    def __init__(
        self,
        pad_token: str = "[PAD]",
        bos_token: str = "[BOS]",
        eos_token: str = "[EOS]",
        mask_token: str = "[MASK]",
        cls_token: str = "[CLS]",
        sep_token: str = "[SEP]",
        model_max_length: int | None = 2048,
        **kwargs,
    ):
        special = dict(
            zip(_SPECIAL_TOKENS, (pad_token, bos_token, eos_token, mask_token, cls_token, sep_token), strict=True)
        )
        special = {
            name: AddedToken(token, lstrip=False, rstrip=False) if isinstance(token, str) else token
            for name, token in special.items()
        }
        is_count = isinstance(model_max_length, Integral) and not isinstance(model_max_length, bool)
        if model_max_length is not None and not (is_count and model_max_length >= 1):
            raise ValueError(f"model_max_length={model_max_length!r}: expected None or a whole number of at least 1.")
        model_max_length = None if model_max_length is None else int(model_max_length)
        names = [str(token) for token in special.values()]
        if len({*names}) < len(names) or not all(names):
            raise ValueError(f"special tokens {names}: expected {len(names)} different texts.")
        vocabulary = {name: number for number, name in enumerate([*names, *_LETTERS])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        cls, sep = str(special["cls_token"]), str(special["sep_token"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[cls, "$A", sep],
            pair=[cls, "$A", sep, "$B:1", f"{sep}:1"],
            special_tokens=[(name, vocabulary[name]) for name in (cls, sep)],
        )
        # A saved folder brings what follows from the above.
        for name in ("vocab", "merges", "tokenizer_file", "tokenizer_object", "post_processor"):
            kwargs.pop(name, None)
        self._tokenizer = tokenizer
        super().__init__(model_max_length=model_max_length, **special, **kwargs)

    @property
    def vocab_size(self) -> int:
        return 256

    def _add_tokens(self, *arguments, **kwargs) -> int:
        self._special_pattern = None
        return super()._add_tokens(*arguments, **kwargs)

    def _encode_plus(
        self,
        text,
        text_pair=None,
        add_special_tokens: bool = True,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE,
        max_length: int | None = None,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        verbose: bool = True,
        **kwargs,
    ) -> BatchEncoding:
        _require_texts(text)
        _require_texts(text_pair)
        if padding_side not in (None, "left", "right"):
            raise ValueError(f"padding_side={padding_side!r}: expected 'left' or 'right'.")
        listed = isinstance(text, (list, tuple)) and len(text) > 0 and not kwargs.get("is_split_into_words")
        in_pairs = text_pair is not None or (listed and not isinstance(text[0], str))  # a list of pairs
        special = 2 + in_pairs if add_special_tokens else 0
        if (
            truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE
            and max_length is not None
            and max_length < special
        ):
            raise ValueError(f"max_length={max_length}: expected at least {special}, the special tokens of a text.")
        if isinstance(text, (list, tuple)) and not text and not text_pair and not kwargs.get("is_split_into_words"):
            names = self.model_input_names if return_attention_mask is not False else ["input_ids"]
            return BatchEncoding({name: [] for name in names}, tensor_type=return_tensors)
        texts, pairs = text, text_pair
        if isinstance(text, str):
            texts, pairs = [text], None if text_pair is None else [text_pair]
        plain = not (kwargs.keys() & _MORE and any(kwargs.get(name) for name in _MORE))
        plain = plain and _are_texts(texts) and (pairs is None or (_are_texts(pairs) and len(pairs) == len(texts)))
        plain = plain and (pairs is not None or not isinstance(text, str)) and self._split_by_pattern()
        plain = plain and truncation_strategy in (
            TruncationStrategy.DO_NOT_TRUNCATE,
            TruncationStrategy.LONGEST_FIRST,
        )
        if not plain:
            return super()._encode_plus(
                text,
                text_pair,
                add_special_tokens=add_special_tokens,
                padding_strategy=padding_strategy,
                truncation_strategy=truncation_strategy,
                max_length=max_length,
                padding_side=padding_side,
                pad_to_multiple_of=pad_to_multiple_of,
                return_tensors=return_tensors,
                return_attention_mask=return_attention_mask,
                verbose=verbose,
                **kwargs,
            )
        split = kwargs.get("split_special_tokens")
        split = self.split_special_tokens if split is None else split
        most = None if truncation_strategy == TruncationStrategy.DO_NOT_TRUNCATE else max_length
        rows = [
            self._row(first, second, add_special_tokens, most, split)
            for first, second in zip(texts, pairs or [None] * len(texts), strict=True)
        ]
        for row in rows:
            self._eventual_warn_about_too_long_sequence(row, max_length, verbose)
        lengths = [len(row) for row in rows]
        if padding_strategy != PaddingStrategy.DO_NOT_PAD:
            wanted = max_length if padding_strategy == PaddingStrategy.MAX_LENGTH else max(lengths)
            step = pad_to_multiple_of or 1
            wanted = -(-wanted // step) * step
            widths = [max(length, wanted) for length in lengths]
        else:
            widths = lengths
        before = (padding_side or self.padding_side) == "left"
        found = {
            "input_ids": [
                _widen(row, width, self.pad_token_id, before) for row, width in zip(rows, widths, strict=True)
            ]
        }
        if return_attention_mask or return_attention_mask is None:
            ones = [np.ones(length, dtype=np.int64) for length in lengths]
            found["attention_mask"] = [_widen(one, width, 0, before) for one, width in zip(ones, widths, strict=True)]
        alone = isinstance(text, str) and return_tensors is None
        if return_tensors is None or len({*widths}) > 1:
            found = {name: [row.tolist() for row in values] for name, values in found.items()}
        else:
            found = {name: np.stack(values) for name, values in found.items()}
        found = {name: values[0] for name, values in found.items()} if alone else found
        return BatchEncoding(found, tensor_type=return_tensors)

    def _row(
        self, text: str, pair: str | None, add_special_tokens: bool, most: int | None, split_special_tokens: bool
    ) -> np.ndarray:
        """`(M,)`: ids of a text or a pair, cut to `most`."""
        parts = [self._ids(one, split_special_tokens) for one in (text, pair) if one is not None]
        room = None if most is None else most - (len(parts) + 1) * add_special_tokens
        parts = parts if room is None else _cut(parts, room, self.truncation_side)
        if add_special_tokens:
            sep = np.array([self.sep_token_id])
            parts = [np.array([self.cls_token_id]), *(piece for part in parts for piece in (part, sep))]
        return np.concatenate(parts)

    def _ids(self, text: str, split_special_tokens: bool) -> np.ndarray:
        """`(M,)`: ids of bytes, and of special tokens that the text spells."""
        if split_special_tokens or not self._special_pattern.search(text):
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + FIRST_BYTE
        known = self._special_ids
        pieces = [
            np.array([known[piece]]) if piece in known else self._ids(piece, True)
            for piece in self._special_pattern.split(text)
            if piece
        ]
        return np.concatenate(pieces)

    def _split_by_pattern(self) -> bool:
        """Whether added tokens are nothing but texts to look for, none of which takes spaces along or is a word."""
        if getattr(self, "_special_pattern", None) is None:
            added = self.added_tokens_decoder
            self._plain_tokens = not any(token.lstrip or token.rstrip or token.single_word for token in added.values())
            self._special_ids = {token.content: number for number, token in added.items()}
            longest_first = sorted(self._special_ids, key=len, reverse=True)
            self._special_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        return self._plain_tokens

    def get_vocab(self) -> dict[str, int]:
        return {self._named(token): number for token, number in super().get_vocab().items()}

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs) -> list[str]:
        tokens = super().tokenize(text, pair, add_special_tokens, **kwargs)
        return [self._named(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | list[int], skip_special_tokens: bool = False) -> str | list[str]:
        known, ids = len(self), ids if isinstance(ids, int) else list(ids)  # what can be gone through once, too
        for number in [ids] if isinstance(ids, int) else ids:
            if not 0 <= int(number) < known:
                raise ValueError(f"id {int(number)}: expected 0 to {known - 1}, those of the tokenizer.")
        tokens = super().convert_ids_to_tokens(ids, skip_special_tokens)
        return self._named(tokens) if isinstance(tokens, str) else [self._named(token) for token in tokens]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return b"".join(
            bytes([ord(token)]) if len(token) == 1 and ord(token) < 256 else token.encode() for token in tokens
        ).decode(errors="replace")

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        text = self.convert_tokens_to_string(self.convert_ids_to_tokens(ids, skip_special_tokens))
        wanted = self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else True
        return self.clean_up_tokenization(text) if wanted and clean_up_tokenization_spaces is not False else text

    def _convert_token_to_id_with_added_voc(self, token: str) -> int:
        is_byte = len(token) == 1 and ord(token) < 256
        return super()._convert_token_to_id_with_added_voc(_LETTERS[ord(token)] if is_byte else token)

    def _named(self, token: str) -> str:
        """A token of the library as transformers' `PerceiverTokenizer` calls it."""
        return _BYTE_OF_LETTER.get(token, token)

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple:
        return ()  # there is none


PerceiverStudyTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["PerceiverStudyTokenizer"]
