"""Text as UTF-8 bytes: no vocabulary but the 256 bytes and six special tokens, and ids of transformers' Perceiver."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AddedToken, BatchEncoding, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy

from .scalars import as_list, is_count

_SPECIAL_TOKENS = ("pad_token", "bos_token", "eos_token", "mask_token", "cls_token", "sep_token")  # ids 0 to 5
FIRST_BYTE = len(_SPECIAL_TOKENS)  # id of the byte 0


def _byte_letters() -> list[str]:
    """What the library calls each of the 256 bytes: a visible letter, for most of them the one of that number."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


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


def _require_pairs(text, text_pair):
    """Raise a ValueError unless it is a text or several, perhaps with as many others, or pairs of texts."""
    if not isinstance(text, (str, list, tuple)):
        raise ValueError(f"text={text!r}: expected a text, a list of texts, or a list of pairs of texts.")
    if text_pair is not None:
        if isinstance(text, str) != isinstance(text_pair, str):
            raise ValueError("Texts and their pairs are a text and a list: expected two texts, or two lists of texts.")
        lists = [[each] if isinstance(each, str) else list(each) for each in (text, text_pair)]
        for each in (one for one in (*lists[0], *lists[1]) if not isinstance(one, str)):
            raise ValueError(f"A list of texts that have pairs holds {each!r}: expected texts alone.")
        if len(lists[0]) != len(lists[1]):
            raise ValueError(f"{len(lists[0])} texts have {len(lists[1])} pairs: expected as many.")
    elif not isinstance(text, str) and not all(isinstance(one, str) for one in text):
        for each in text:
            if isinstance(each, str) or len(each) != 2 or not all(isinstance(one, str) for one in each):
                raise ValueError(f"A list of pairs of texts holds {each!r}: expected two texts in each.")


def _bytes_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + FIRST_BYTE


def _pattern_of(tokens: Iterable[str]) -> re.Pattern:
    """What finds tokens, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))


def _kept(lengths: Sequence[int], room: int, strategy: TruncationStrategy) -> list[int]:
    """How many ids of one or two texts fit, as transformers' slow tokenizers have it, and the library does not.

    With `longest_first` the longer one loses the difference first, then both alike.
    """
    surplus = max(0, sum(lengths) - room)
    if strategy == TruncationStrategy.ONLY_FIRST or len(lengths) == 1:
        losses = [surplus, 0]
    elif strategy == TruncationStrategy.ONLY_SECOND:
        losses = [0, surplus]
    else:
        first, second = lengths
        more = min(abs(second - first), surplus)
        both = surplus - more
        losses = [more + both // 2, both - both // 2] if first > second else [both // 2, more + both - both // 2]
    return [max(0, length - loss) for length, loss in zip(lengths, losses, strict=False)]


def _of_one(found: Mapping[str, list]) -> dict[str, list]:
    """Without the list around a single text."""
    return {name: values[0] if isinstance(values[0], list) else values for name, values in found.items()}


def _widen(row: np.ndarray, width: int, fill: int, before: bool) -> np.ndarray:
    """`(M,) -> (width,)`, filled up at its end, or before its beginning."""
    if len(row) == width:
        return row
    wide = np.full(width, fill, dtype=np.int64)
    wide[slice(width - len(row), None) if before else slice(len(row))] = row
    return wide


# What only the library's encodings have, and what only the library makes.
_FLAGS = (
    "return_token_type_ids",
    "return_special_tokens_mask",
    "return_offsets_mapping",
    "return_length",
)
_LIBRARY = ("is_split_into_words", "return_overflowing_tokens", "sanitize_control_tokens")
# What a text that is no pair loses.
_OF_ONE_TEXT = {
    TruncationStrategy.ONLY_FIRST: TruncationStrategy.LONGEST_FIRST,
    TruncationStrategy.ONLY_SECOND: TruncationStrategy.DO_NOT_TRUNCATE,
}
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
        base_tokens: names of the ids 0 to 5, where a special token was given another name later, and with it an id of
            its own; None is the names above. A saved folder says so where it has to.

    Raises:
        ValueError: special tokens are not different texts of several characters, or `model_max_length` is no number.
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
        base_tokens: Sequence[str] | None = None,
        **kwargs,
    ):
        special = dict(
            zip(_SPECIAL_TOKENS, (pad_token, bos_token, eos_token, mask_token, cls_token, sep_token), strict=True)
        )
        special = {
            name: AddedToken(token, lstrip=False, rstrip=False) if isinstance(token, str) else token
            for name, token in special.items()
        }
        if model_max_length is not None and not is_count(model_max_length):
            raise ValueError(f"model_max_length={model_max_length!r}: expected None or a whole number of at least 1.")
        model_max_length = None if model_max_length is None else int(model_max_length)
        names = [str(token) for token in special.values()] if base_tokens is None else list(base_tokens)
        # A single character is how a byte is called.
        if len(names) != len(special) or len({*names}) < len(names) or not all(len(name) > 1 for name in names):
            raise ValueError(
                f"special tokens {names}: expected {len(special)} different texts, each of at least 2 characters."
            )
        vocabulary = {name: number for number, name in enumerate([*names, *_LETTERS])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        # A saved folder brings what follows from the above.
        for name in ("vocab", "merges", "tokenizer_file", "tokenizer_object", "post_processor"):
            kwargs.pop(name, None)
        self._tokenizer, self._template = tokenizer, None
        super().__init__(model_max_length=model_max_length, **special, **kwargs)
        self._base_tokens = names
        self._use_template()

    def _use_template(self):
        """Let the library put the special tokens around texts that are so called now."""
        template = (self.cls_token, self.cls_token_id), (self.sep_token, self.sep_token_id)
        if template != self._template:
            cls, sep = self.cls_token, self.sep_token
            for token, number in template:
                if number is None:
                    raise ValueError(f"special token {token!r} has no id: expected add_special_tokens to give it one.")
            self._tokenizer.post_processor = processors.TemplateProcessing(
                single=[cls, "$A", sep],
                pair=[cls, "$A", sep, "$B:1", f"{sep}:1"],
                special_tokens=[*dict.fromkeys(template)],
            )
            self._template = template

    @property
    def renamed_tokens(self) -> list[str] | None:
        """`base_tokens`, where special tokens have other names by now; None where these are theirs."""
        named = [str(getattr(self, name)) for name in _SPECIAL_TOKENS]
        return None if named == self._base_tokens else self._base_tokens

    @classmethod
    def _from_pretrained(cls, resolved_vocab_files, pretrained_model_name_or_path, *arguments, **kwargs):
        # Bytes need no vocabulary, so AutoProcessor would find a tokenizer in the folder of a model of sounds, too.
        if not resolved_vocab_files.get("tokenizer_config_file"):
            raise OSError(f"{pretrained_model_name_or_path} has no tokenizer: expected a tokenizer_config.json.")
        return super()._from_pretrained(resolved_vocab_files, pretrained_model_name_or_path, *arguments, **kwargs)

    def save_pretrained(self, *arguments, **kwargs):
        self.init_kwargs["base_tokens"] = self.renamed_tokens
        return super().save_pretrained(*arguments, **kwargs)

    @property
    def vocab_size(self) -> int:
        return 256

    def _add_tokens(self, new_tokens, *arguments, **kwargs) -> int:
        for token in map(str, new_tokens):
            if len(token) == 1 and (ord(token) < 256 or token in _BYTE_OF_LETTER):
                raise ValueError(f"token {token!r}: it is how a byte is called. Expected at least 2 characters.")
        self._added_patterns = None
        return super()._add_tokens(new_tokens, *arguments, **kwargs)

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
        text, text_pair = as_list(text), as_list(text_pair)
        flags = any(kwargs.get(name) for name in _FLAGS)
        of_library = any(kwargs.get(name) for name in _LIBRARY)
        if not kwargs.get("sanitize_control_tokens"):
            _require_texts(text)
            _require_texts(text_pair)
        if padding_side not in (None, "left", "right"):
            raise ValueError(f"padding_side={padding_side!r}: expected 'left' or 'right'.")
        alone = isinstance(text, str)
        texts, pairs = ([text], None if text_pair is None else [text_pair]) if alone else (text, text_pair)
        if not of_library:
            _require_pairs(text, text_pair)
            if len(texts) > 0 and not isinstance(texts[0], str):  # a list of pairs
                texts, pairs = zip(*texts, strict=True)
        if pairs is None and truncation_strategy in _OF_ONE_TEXT:
            truncation_strategy = _OF_ONE_TEXT[truncation_strategy]
        most = None if truncation_strategy == TruncationStrategy.DO_NOT_TRUNCATE else max_length
        special = (2 if pairs is None else 3) if add_special_tokens else 0
        windows = bool(kwargs.get("return_overflowing_tokens"))
        least = special + 1 if windows else special
        if most is not None and not (isinstance(most, Integral) and most >= least):
            raise ValueError(
                f"max_length={most!r}: expected a whole number of at least {least}, with {special} special tokens."
            )
        if max_length is not None and not (isinstance(max_length, Integral) and max_length >= 0):
            raise ValueError(f"max_length={max_length!r}: expected a whole number of at least 0.")
        stride = kwargs.get("stride") or 0
        if windows and most is not None and not 0 <= stride < most - special:
            raise ValueError(
                f"stride={stride}: expected 0 to {most - special - 1}, less than max_length={most} leaves of a text."
            )
        self._use_template()
        if not alone and not text and not text_pair and not of_library:
            names = self.model_input_names if return_attention_mask is not False else ["input_ids"]
            return BatchEncoding({name: [] for name in names}, tensor_type=return_tensors)
        of_pairs = pairs is not None and flags and not of_library
        plain = not flags and not of_library and (pairs is not None or not alone) and self._split_by_pattern()
        if not plain and not of_pairs:
            wrapped = alone and text_pair == ""  # for the library a list with an empty pair has one, and this has not
            if wrapped:
                text, text_pair = [text], [text_pair]
            found = super()._encode_plus(
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
            if wrapped and return_tensors is None and not windows:
                found = BatchEncoding(_of_one(found), found.encodings)
            return found
        split = kwargs.get("split_special_tokens")
        split = self.split_special_tokens if split is None else split
        make = self._encoding if of_pairs else self._row
        rows = [
            make(first, second, add_special_tokens, most, truncation_strategy, split)
            for first, second in zip(texts, pairs or [None] * len(texts), strict=True)
        ]
        for row in rows:
            self._eventual_warn_about_too_long_sequence(row, max_length, verbose)
        lengths = [len(row) for row in rows]
        widths = lengths
        if padding_strategy != PaddingStrategy.DO_NOT_PAD:
            wanted = max_length if padding_strategy == PaddingStrategy.MAX_LENGTH else max(lengths)
            step = pad_to_multiple_of or 1
            widths = [max(length, -(-wanted // step) * step) for length in lengths]
        side = padding_side or self.padding_side
        if of_pairs:
            for encoding, width in zip(rows, widths, strict=True):
                encoding.pad(width, direction=side, pad_id=self.pad_token_id, pad_token=self.pad_token)
            asked = {name: kwargs.get(name) for name in _FLAGS} | {"return_attention_mask": return_attention_mask}
            converted = [self._convert_encoding(encoding=encoding, **asked)[0] for encoding in rows]
            found = {name: [row[name][0] for row in converted] for name in converted[0]}
            if alone and return_tensors is None:
                found = _of_one(found)
            return BatchEncoding(found, rows, tensor_type=return_tensors)
        before = side == "left"
        found = {
            "input_ids": [
                _widen(row, width, self.pad_token_id, before) for row, width in zip(rows, widths, strict=True)
            ]
        }
        if return_attention_mask or return_attention_mask is None:
            ones = [np.ones(length, dtype=np.int64) for length in lengths]
            found["attention_mask"] = [_widen(one, width, 0, before) for one, width in zip(ones, widths, strict=True)]
        if return_tensors is None or len({*widths}) > 1:
            found = {name: [row.tolist() for row in values] for name, values in found.items()}
        else:
            found = {name: np.stack(values) for name, values in found.items()}
        found = _of_one(found) if alone and return_tensors is None else found
        return BatchEncoding(found, tensor_type=return_tensors)

    def _row(
        self,
        text: str,
        pair: str | None,
        add_special_tokens: bool,
        most: int | None,
        strategy: TruncationStrategy,
        split_special_tokens: bool,
    ) -> np.ndarray:
        """`(M,)`: ids of a text or a pair, cut to `most`."""
        parts = [self._ids(one, split_special_tokens) for one in (text, pair) if one is not None]
        if most is not None:
            kept = _kept([len(part) for part in parts], most - (len(parts) + 1) * add_special_tokens, strategy)
            left = self.truncation_side == "left"
            parts = [
                part[len(part) - count :] if left else part[:count] for part, count in zip(parts, kept, strict=True)
            ]
        if add_special_tokens:
            sep = np.array([self.sep_token_id])
            parts = [np.array([self.cls_token_id]), *(piece for part in parts for piece in (part, sep))]
        return np.concatenate(parts)

    def _encoding(
        self,
        text: str,
        pair: str,
        add_special_tokens: bool,
        most: int | None,
        strategy: TruncationStrategy,
        split_special_tokens: bool,
    ) -> Encoding:
        """What the library knows of a pair, such as offsets; cut as `_row` cuts it, which the library does not."""
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = split_special_tokens
        parts = [self._tokenizer.encode(one, add_special_tokens=False) for one in (text, pair)]
        if most is not None:
            kept = _kept([len(part) for part in parts], most - 3 * add_special_tokens, strategy)
            for part, count in zip(parts, kept, strict=True):
                part.truncate(count, direction=self.truncation_side)
        return self._tokenizer.post_process(*parts, add_special_tokens)

    def _ids(self, text: str, split_special_tokens: bool) -> np.ndarray:
        """`(M,)`: ids of bytes, and of added tokens that the text spells; of special ones only if those stay whole."""
        pieces = [text]  # what is between tokens, and each second one is a token
        for pattern in self._added_patterns:
            if any(map(pattern.search, pieces[::2])):
                pieces[::2] = [self._pieces(piece, pattern, split_special_tokens) for piece in pieces[::2]]
                pieces[1::2] = [[token] for token in pieces[1::2]]
                pieces = [piece for parts in pieces for piece in parts]
        if len(pieces) == 1:
            return _bytes_of(text)
        pieces[::2] = map(_bytes_of, pieces[::2])
        pieces[1::2] = (np.array([self._added_ids[token]]) for token in pieces[1::2])
        return np.concatenate(pieces)

    def _pieces(self, text: str, pattern: re.Pattern, split_special_tokens: bool) -> list[str]:
        """The text around the tokens that a pattern finds, and these between."""
        pieces, start = [], 0
        for found in pattern.finditer(text):
            if not (split_special_tokens and found[0] in self._special):
                pieces += [text[start : found.start()], found[0]]
                start = found.end()
        return [*pieces, text[start:]]

    def _split_by_pattern(self) -> bool:
        """Whether added tokens are nothing but texts to look for, none of which takes spaces along or is a word."""
        if getattr(self, "_added_patterns", None) is None:
            added = self.added_tokens_decoder
            self._plain_tokens = not any(token.lstrip or token.rstrip or token.single_word for token in added.values())
            self._added_ids = {token.content: number for number, token in added.items()}
            self._special = {token.content for token in added.values() if token.special}
            # As the library does: those of normalized texts, even longer ones, in what the others leave.
            both = [[token.content for token in added.values() if token.normalized == kind] for kind in (False, True)]
            self._added_patterns = [_pattern_of(tokens) for tokens in both if tokens]
        return self._plain_tokens

    def is_several(self, value: Any) -> bool:
        """Whether it is several texts, and not one."""
        value = as_list(value)
        return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0

    def get_vocab(self) -> dict[str, int]:
        return {self._named(token): number for token, number in super().get_vocab().items()}

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs) -> list[str]:
        if pair is not None:
            return self.convert_ids_to_tokens(
                self(text, pair, add_special_tokens=add_special_tokens, **kwargs)["input_ids"]
            )
        tokens = super().tokenize(text, None, add_special_tokens, **kwargs)
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
        if not is_byte and token in _BYTE_OF_LETTER:  # the library's own name of a byte
            return self.unk_token_id
        return super()._convert_token_to_id_with_added_voc(_LETTERS[ord(token)] if is_byte else token)

    def _named(self, token: str) -> str:
        """A token of the library as transformers' `PerceiverTokenizer` calls it."""
        return _BYTE_OF_LETTER.get(token, token)

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple:
        return ()  # there is none


PerceiverStudyTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["PerceiverStudyTokenizer"]
