"""Several modalities at once to what a model takes: a processor of each, saved and loaded together."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from transformers import AddedToken, BatchFeature, ProcessorMixin

from .feature_extraction_perceiver_study import PerceiverStudyFeatureExtractor
from .fetching import fetched, file_in, is_file, is_url
from .image_processing_perceiver_study import PerceiverStudyImageProcessor
from .point_cloud_processing_perceiver_study import PerceiverStudyPointCloudProcessor
from .tokenization_perceiver_study import PerceiverStudyTokenizer
from .video_processing_perceiver_study import PerceiverStudyVideoProcessor
from .video_reading import streams_in

# What the file says of a tokenizer beside its special tokens, and of each token that was added to it.
_OF_TOKENIZER = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "split_special_tokens",
    "clean_up_tokenization_spaces",
)
_OF_TOKEN = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
# What a processor returns beside the input itself and its mask.
_LEFT_OUT = {"position_features": "do_fourier_encode"}


class PerceiverStudyProcessor(ProcessorMixin):
    """Samples of several modalities, any of which may be missing `->` the arguments of a model with these `modalities`.

    Args:
        modalities: the processor of each, by its name in the model's config; or a dict of its settings, with the name
            of its class as `processor`.
        input_names: what the model calls the input of a modality, where its config has an `input_name` for that, as it
            must where two modalities would have the same, such as pictures and clips.

    Raises:
        ValueError: there is none, or one of an unknown kind, or two of one input name.

    Attributes:
        kinds: the classes of processors that a saved one may have. A subclass may add to them one that returns an
            `attention_mask`; what its `is_several` tells, if it has that, is refused as a sample, and of a file that
            holds several streams it gets the one that its `stream` names.
    """

    kinds: ClassVar[tuple[type, ...]] = (
        PerceiverStudyFeatureExtractor,
        PerceiverStudyImageProcessor,
        PerceiverStudyPointCloudProcessor,
        PerceiverStudyVideoProcessor,
        PerceiverStudyTokenizer,
    )

    def __init__(self, modalities: Mapping[str, Any], input_names: Mapping[str, str] | None = None):
        super().__init__()
        if not isinstance(modalities, Mapping) or not modalities:
            raise ValueError(f"modalities={modalities!r}: expected a dict of at least one name, each with a processor.")
        self.modalities = {name: self._processor(name, settings) for name, settings in modalities.items()}
        own = {name: processor.model_input_names[0] for name, processor in self.modalities.items()}
        given = dict(input_names or {})
        if given.keys() - own.keys():
            unknown = sorted(given.keys() - own.keys())[0]
            raise ValueError(f"input_names has {unknown!r}: expected some of {', '.join(own)}.")
        self.input_names = {name: given.get(name) or default for name, default in own.items()}
        for argument in self.input_names.values():
            names = [name for name, called in self.input_names.items() if called == argument]
            if len(names) > 1:
                raise ValueError(
                    f"{' and '.join(names)} are both {argument} to a model: give input_names what its config calls the "
                    "input of each."
                )

    @property
    def model_input_names(self) -> list[str]:
        return [
            argument
            for name, processor in self.modalities.items()
            for argument in self._names(name, processor.model_input_names)
        ]

    def to_dict(self) -> dict[str, Any]:
        parts = {}
        for name, processor in self.modalities.items():
            parts[name] = {"processor": type(processor).__name__, **_settings(processor)}
        own = {"processor_class": type(self).__name__, "modalities": parts, "input_names": self.input_names}
        return own | ({"auto_map": self.auto_map} if hasattr(self, "auto_map") else {})

    def read(self, source: Any) -> Any:
        """A file of several modalities, such as a video with sound; it is read when it is processed."""
        return source

    def __call__(self, samples: Any, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """One sample or a list of them `->` arguments of the model, each modality padded with a mask

        Args:
            samples: a dict of what the processor of each modality takes, by name, in which a modality may be left out
                or None; or a file, such as a video with sound, by its path, its bytes or opened, from which each takes
                what is there. Texts are not in files. Several samples are a list of dicts, and not a dict of lists: a
                list is a clip of frames, or a recording of numbers, or of a list for each channel of the extractor.
            return_tensors: `"pt"` or `"np"`.
            kwargs: settings of a single modality, as `video={"num_frames": 8}`.

        Returns:
            The arguments, and `NAME_attention_mask` of each modality, which hides what a sample lacks. A modality that
            no sample has is left out.

        Raises:
            ValueError: a sample has no modality, one that is unknown, or several of one; or its processor refuses it.
        """
        unknown = sorted(kwargs.keys() - self.modalities.keys())
        if unknown:
            raise ValueError(f"{unknown[0]}: expected settings of {', '.join(self.modalities)}.")
        for name, settings in kwargs.items():
            if not isinstance(settings, Mapping):
                raise ValueError(f"{name}={settings!r}: expected a dict of settings of its processor.")
        samples = list(samples) if isinstance(samples, (list, tuple)) else [samples]
        samples = [self._parts(sample, number) for number, sample in enumerate(samples)]
        if not samples:
            raise ValueError("There are no samples: expected at least one.")
        data = {}
        for name, processor in self.modalities.items():
            rows = [row for row, sample in enumerate(samples) if name in sample]
            if rows:
                found = [samples[row][name] for row in rows]
                for row, value in zip(rows, found, strict=True):
                    _require_one(name, processor, value, row)
                made = _call(name, processor, found, kwargs.get(name, {}))
                names = self._names(name, list(made))
                data |= dict(zip(names, _spread(made, rows, len(samples)), strict=True))
        return BatchFeature(data, tensor_type=return_tensors)

    def _processor(self, name: str, settings: Any) -> Any:
        if not isinstance(settings, Mapping):
            return settings
        known = {kind.__name__: kind for kind in self.kinds}
        kind = known.get(settings.get("processor"))
        if kind is None:
            given = settings.get("processor")
            raise ValueError(f"modalities[{name!r}] has processor={given!r}: expected one of {', '.join(known)}.")
        settings = {key: value for key, value in settings.items() if key != "processor"}
        return _tokenizer(**settings) if kind is PerceiverStudyTokenizer else kind.from_dict(settings)

    def _names(self, name: str, arguments: list[str]) -> list[str]:
        """Arguments of the model: the input itself by its name, the others have that of the modality before them."""
        kept = [argument for argument in arguments if argument not in _LEFT_OUT]
        masked = kept if "attention_mask" in kept else [*kept, "attention_mask"]
        return [self.input_names[name], *(f"{name}_{argument}" for argument in masked[1:])]

    def _parts(self, sample: Any, number: int) -> dict[str, Any]:
        if is_file(sample):
            return self._parts_of_file(file_in(sample), number)
        names = ", ".join(self.modalities)
        if not isinstance(sample, Mapping):
            raise ValueError(f"Sample {number} is a {type(sample).__name__}: expected a file, or a dict of {names}.")
        unknown = sorted(sample.keys() - self.modalities.keys())
        if unknown:
            raise ValueError(f"Sample {number} has {unknown[0]!r}: expected some of {names}.")
        found = {name: _plain(value) for name, value in sample.items() if value is not None}
        if not found:
            raise ValueError(f"Sample {number} has nothing: expected at least one of {names}.")
        return found

    def _parts_of_file(self, file: Any, number: int) -> dict[str, Any]:
        """The file for each modality that it may hold; what else is wrong with it, processors say."""
        file = fetched(file) if is_url(file) else file  # once for all of them
        streams, needed = streams_in(file), {}
        for name, processor in self.modalities.items():
            if not isinstance(processor, PerceiverStudyTokenizer):
                needed[name] = getattr(processor, "stream", None)
        found = {name: file for name, stream in needed.items() if None in (stream, streams) or stream in streams}
        if not found:
            there = "has none of these" if needed else "cannot hold a text"
            raise ValueError(f"Sample {number} is a file, and {there}: {', '.join(needed or self.modalities)}.")
        return found


def _plain(value: Any) -> Any:
    """Bytes as such: a memoryview has axes, as arrays have."""
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


def _tokenizer(
    added_tokens: Sequence[Mapping[str, Any]] = (),
    added_tokens_decoder: Mapping[str, Mapping[str, Any]] | None = None,
    **settings,
) -> PerceiverStudyTokenizer:
    """A tokenizer of what `_settings` says, or of files saved before, which have `added_tokens` and none by its id."""
    given = {int(number): AddedToken(**fields) for number, fields in (added_tokens_decoder or {}).items()}
    of_content = {token.content: token for token in given.values()}
    for name, value in settings.items():
        if name.endswith("_token") and isinstance(value, str):
            settings[name] = of_content.get(value, value)
    tokenizer = PerceiverStudyTokenizer(**settings, added_tokens_decoder=given)
    for fields in added_tokens:
        tokenizer.add_tokens([AddedToken(**fields)], special_tokens=fields["special"])
    return tokenizer


def _settings(processor: Any) -> dict[str, Any]:
    """What the file says of a processor: its arguments."""
    if isinstance(processor, PerceiverStudyTokenizer):
        settings = {name: getattr(processor, name) for name in _OF_TOKENIZER}
        if processor.renamed_tokens is not None:
            settings["base_tokens"] = processor.renamed_tokens
        if processor.extra_special_tokens:
            settings["extra_special_tokens"] = [str(token) for token in processor.extra_special_tokens]
        added = processor.added_tokens_decoder
        if "base_tokens" in settings or added != PerceiverStudyTokenizer().added_tokens_decoder:
            settings["added_tokens_decoder"] = {
                str(number): {name: getattr(token, name) for name in _OF_TOKEN} for number, token in added.items()
            }
        return settings | processor.special_tokens_map
    fields = json.loads(processor.to_json_string())
    return {key: value for key, value in fields.items() if key not in ("auto_map", "processor_class")}


def _require_one(name: str, processor: Any, value: Any, row: int):
    """Raise a ValueError where a sample has a list, or an array, of several for one modality."""
    if hasattr(processor, "is_several") and processor.is_several(value):
        raise ValueError(
            f"Sample {row} has a list of {len(value)} for {name!r}: expected one in each sample. Give several samples "
            f"as a list of dicts, [{{{name!r}: ..}}, {{{name!r}: ..}}]."
        )


def _call(name: str, processor: Any, samples: list[Any], settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the processor makes of a list of samples, and always a mask."""
    if "return_tensors" in settings:
        raise ValueError(f"{name}: return_tensors is said once, beside the samples, and not for one modality.")
    if settings.get("padding", True) in (False, "do_not_pad"):
        raise ValueError(f"{name}: padding={settings['padding']!r}: expected another, as a batch is one array.")
    if isinstance(processor, (PerceiverStudyFeatureExtractor, PerceiverStudyTokenizer)):
        settings = {**settings, "return_attention_mask": True}
    if isinstance(processor, PerceiverStudyTokenizer):
        return _tokens(name, processor, samples, settings)
    plain = {switch: False for argument, switch in _LEFT_OUT.items() if argument in processor.model_input_names}
    if isinstance(processor, PerceiverStudyVideoProcessor):
        # In a list an array of three axes would be a frame, and not a clip.
        samples = [clip[..., None] if getattr(clip, "ndim", 0) == 3 else clip for clip in samples]
    try:
        made = processor(samples, return_tensors="np", **plain | settings)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    made = {argument: np.asarray(value) for argument, value in made.items() if argument not in _LEFT_OUT}
    if "attention_mask" not in made:  # of images: one entry for each line of pixels
        first = next(iter(made.values()))
        made["attention_mask"] = np.ones((len(first), first.shape[-2]), np.int64)
    if (count := len(made["attention_mask"])) != len(samples):
        raise ValueError(f"{name}: {len(samples)} samples became {count}: expected one of each.")
    return made


def _tokens(
    name: str, tokenizer: PerceiverStudyTokenizer, samples: list[Any], settings: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Ids of texts, cut to what the model takes."""
    texts = [str(sample) if isinstance(sample, np.ndarray) and sample.ndim == 0 else sample for sample in samples]
    for text in texts:
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name} is {text!r}: expected a text of at least one character.")
    made = tokenizer(texts, return_tensors="np", **{"padding": True, "truncation": True, **settings})
    return {argument: made[argument] for argument in tokenizer.model_input_names}


def _spread(made: dict[str, np.ndarray], rows: list[int], count: int) -> list[np.ndarray]:
    """Arguments for all samples, with zeros, masked, for those that lack the modality."""
    spread = []
    for values in made.values():
        whole = np.zeros((count, *values.shape[1:]), values.dtype)
        whole[rows] = values
        spread.append(whole)
    return spread


PerceiverStudyProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["PerceiverStudyProcessor"]
