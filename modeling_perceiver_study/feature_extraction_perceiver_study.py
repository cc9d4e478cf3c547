"""Feature extractor of the Perceiver study models: recordings and other series -> what the model takes."""

import functools
import inspect
import math
from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.utils import PaddingStrategy

from .audio_reading import MOST_CHANNELS, read_audio
from .fetching import is_file
from .scalars import as_list, is_count, is_number, plain, require_saved_as

_FEATURE_TYPES = ("waveform", "log-mel")
_PADDINGS = {"longest": True, "do_not_pad": False, "max_length": "max_length"}  # the names of transformers
_NORMALIZATIONS = ("recording", "channel", "training", None)
_SMALLEST_RANGE = 2**-21  # in units of the largest number: what rounding in float32 makes of numbers that are the same
_FLOOR = 1e-8  # power that counts as silence, before the logarithm


class PerceiverStudyFeatureExtractor(SequenceFeatureExtractor):
    """Recordings `-> input_values, attention_mask`: waveforms, or log-mel spectrograms.

    Waveforms are `(B, L)`, or `(B, C, L)` of several channels; spectrograms are `(B, T, F)`, or `(B, C, T, F)`, with
    `T = L // hop_length + 1` frames. The mask is `(B, L)` or `(B, T)`, 1 where there is sound. Padding at the end
    (`padding_side="right"`, the default) changes nothing of a recording; at its beginning it moves what is heard.

    Args:
        feature_size: `C`, channels.
        sampling_rate: samples a second; recordings of another rate are resampled. None takes series as they are,
            whatever their rate is; it is not for sound.
        padding_value: what padding holds.
        feature_type: `"waveform"` or `"log-mel"`.
        num_mel_bins: `F`, bands of a spectrogram, evenly spaced on the mel scale.
        frame_length: samples of a frame, under a Hann window.
        hop_length: samples from one frame to the next.
        min_frequency: of the lowest band, in hertz.
        max_frequency: of the highest band; None is half the sampling rate.
        dynamic_range: decibels below the loudest number of a recording's spectrogram; what is softer is raised to
            there, so that the noise of a microphone counts less. None leaves it.
        do_rescale: bring integers into [-1, 1], as sound has it; other series keep their units.
        normalize: what gets a mean of 0 and a standard deviation of 1: `"recording"`, all numbers of it together;
            `"channel"`, each channel of a waveform, or band of a spectrogram, on its own; `"training"` takes `mean` and
            `std`; None leaves numbers as they are.
        mean: a number, or one for each channel or band.
        std: likewise, above 0.
        max_length: samples that a model looks at, at most; longer recordings are cut. None does not cut.
        stretch_to: samples that every recording is brought to, by lines between its own. Beginning and end of all are
            then at the same places, and how long one took is not seen. It is for series of slow numbers, as sound would
            change its pitch; for these it was better than padding where each shows one thing from its start to its end.

    Raises:
        ValueError: an argument has a value outside of what is said above; names it.
    """

    model_input_names = ["input_values", "attention_mask"]
    stream = "audio"  # of a file that holds several

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int | None = 16000,
        padding_value: float = 0.0,
        feature_type: str = "waveform",
        num_mel_bins: int = 64,
        frame_length: int = 400,
        hop_length: int = 160,
        min_frequency: float = 20.0,
        max_frequency: float | None = None,
        dynamic_range: float | None = None,
        do_rescale: bool = True,
        normalize: str | None = "recording",
        mean: float | list[float] = 0.0,
        std: float | list[float] = 1.0,
        max_length: int | None = None,
        stretch_to: int | None = None,
        **kwargs,
    ):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.feature_type = feature_type
        self.num_mel_bins = num_mel_bins
        self.frame_length = frame_length
        self.hop_length = hop_length
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency
        self.dynamic_range = dynamic_range
        self.do_rescale = do_rescale
        self.normalize = normalize
        self.mean = mean
        self.std = std
        self.max_length = max_length
        self.stretch_to = stretch_to
        vars(self).update(plain(vars(self)))
        self._validate()

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs):
        require_saved_as("feature_extractor_type", feature_extractor_dict)
        return super().from_dict(feature_extractor_dict, **kwargs)

    def _validate(self):
        for name in ("feature_size", "num_mel_bins", "frame_length", "hop_length"):
            self._require(name, is_count(getattr(self, name)), "a whole number of at least 1")
        is_series = self.do_rescale is False and self.feature_type == "waveform"
        fits = is_count(self.sampling_rate) or (self.sampling_rate is None and is_series)
        self._require("sampling_rate", fits, "a whole number of at least 1, or None of waveforms with do_rescale=False")
        self._require("do_rescale", isinstance(self.do_rescale, bool), "True or False")
        self._require("padding_side", self.padding_side in ("left", "right"), "'left' or 'right'")
        self._require("padding_value", _is_finite(self.padding_value), "a finite number")
        self._require("max_length", self.max_length is None or is_count(self.max_length), "None or a whole number")
        most = self.max_length or math.inf
        fits = self.stretch_to is None or (is_count(self.stretch_to) and self.stretch_to <= most)
        self._require("stretch_to", fits, f"None, or a whole number up to max_length={self.max_length}")
        self._require("feature_type", self.feature_type in _FEATURE_TYPES, f"one of {_FEATURE_TYPES}")
        dynamic_range = self.dynamic_range
        fits = dynamic_range is None or (_is_finite(dynamic_range) and dynamic_range > 0)
        self._require("dynamic_range", fits, "None or a number above 0")
        self._require("min_frequency", _is_finite(self.min_frequency), "a number of at least 0")
        fits = self.max_frequency is None or _is_finite(self.max_frequency)
        self._require("max_frequency", fits, "None or a number above min_frequency")
        self._require("normalize", self.normalize in _NORMALIZATIONS, f"one of {_NORMALIZATIONS}")
        if self.feature_type == "log-mel":
            self._require("frame_length", self.frame_length >= 2, "at least 2 with feature_type='log-mel'")
            half, highest = self.sampling_rate / 2, self.highest_frequency
            self._require("max_frequency", highest <= half, f"None or at most {half:g}, half the sampling_rate")
            fits = 0 <= self.min_frequency < highest
            self._require("min_frequency", fits, f"at least 0, and below max_frequency, which is {highest:g}")
        numbers = self.num_mel_bins if self.feature_type == "log-mel" else self.feature_size
        for name in ("mean", "std"):
            value = getattr(self, name)
            fits = np.shape(value) in ((), (numbers,)) and all(map(_is_finite, np.ravel(np.array(value, object))))
            self._require(name, fits, f"a finite number, or {numbers} of them")
        self._require("std", (np.asarray(self.std) > 0).all(), "above 0")

    @property
    def highest_frequency(self) -> float:
        """Of the highest band, in hertz: `max_frequency`, or half the sampling rate."""
        return self.sampling_rate / 2 if self.max_frequency is None else self.max_frequency

    def _require(self, name: str, holds: bool, expected: str):
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} in {type(self).__name__}: expected {expected}.")

    def is_several(self, value: Any) -> bool:
        """Whether it is several recordings, and not one as a list of numbers, or with a list for each channel."""
        value = as_list(value)
        if not isinstance(value, (list, tuple)):
            return getattr(value, "ndim", 0) > 2
        if len(value) in (0, self.feature_size):
            return False
        return not isinstance(value[0], Number) and getattr(value[0], "ndim", 1) > 0

    def read(self, recording: Any, sampling_rate: int | None = None, seconds: float | None = None) -> np.ndarray:
        """One recording in any form `-> (C, L)` float32 at the extractor's rate; see `read_audio`.

        Args:
            sampling_rate: of an array, also one in a file; None is the extractor's.
            seconds: what is wanted at most; samples where the extractor has no rate.
        """
        if self.stretch_to is not None:
            seconds = None  # the end is wanted, too
        samples = read_audio(recording, self.sampling_rate, self.feature_size, self.do_rescale, seconds, sampling_rate)
        if self.stretch_to is None:
            return samples
        return between_samples(samples, np.linspace(0, samples.shape[1] - 1, self.stretch_to))

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = True,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        pad_to_multiple_of: int | None = None,
        **kwargs,
    ) -> BatchFeature:
        """One recording or a list of them `-> input_values, attention_mask`

        Args:
            raw_speech: an array or tensor `(L,)`, or `(C, L)` where there are several channels; a list of numbers, a
                path, a URL, the bytes of a file, a dict of `datasets`; or a list of these, a column of a table, or an
                array of one axis more. So an array `(2, L)` holds two recordings where the model has one channel, as
                everywhere in transformers, and `[array]` is one with two channels, of which the mean is taken.
            sampling_rate: of arrays; None is the extractor's.
            padding: True pads to the longest of the batch, `"max_length"` to `max_length`; False returns lists of
                arrays that are as long as each recording.
            max_length: samples, instead of the extractor's.
            truncation: cut what is longer than `max_length`.
            return_tensors: `"pt"` or `"np"`; None is `"np"`.
            return_attention_mask: None is the extractor's own setting, which is True.
            pad_to_multiple_of: what is padded gets a multiple of so many samples, or frames of spectrograms.

        Raises:
            ValueError: a recording cannot be read, see `read_audio`; an array has its channels last;
                `padding="max_length"` without a length; or another argument is given.
        """
        if kwargs:
            known = [name for name in inspect.signature(self.__call__).parameters if name != "kwargs"]
            raise ValueError(f"{next(iter(kwargs))}: expected no arguments but {', '.join(known)}.")
        if max_length is not None and not is_count(max_length):
            raise ValueError(f"max_length={max_length!r}: expected None or a whole number of at least 1.")
        if padding not in (True, False, *_PADDINGS):
            raise ValueError(f"padding={padding!r}: expected True, False or one of {', '.join(map(repr, _PADDINGS))}.")
        if pad_to_multiple_of is not None and not is_count(pad_to_multiple_of):
            raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of!r}: expected None or a whole number above 0.")
        padding = _PADDINGS.get(padding, padding)
        most = self.max_length if max_length is None else max_length
        if padding == "max_length" and most is None:
            raise ValueError("padding='max_length' needs max_length, of the call or of the feature extractor.")
        raw_speech = as_list(raw_speech)
        recordings = list(raw_speech) if _is_batch(raw_speech, 1 if self.feature_size == 1 else 2) else [raw_speech]
        if self.feature_size == 1 and self.do_rescale and _is_turned(raw_speech):
            raise ValueError(
                f"raw_speech has shape {tuple(raw_speech.shape)}, as if its rows were recordings of so few samples: "
                "expected (recordings, samples). Of one recording with several channels give [raw_speech.T]."
            )
        if not recordings:
            raise ValueError("There are no recordings: expected at least one.")
        seconds = most / (self.sampling_rate or 1) if truncation and most is not None else None
        samples = [torch.from_numpy(self.read(one, sampling_rate, seconds)) for one in recordings]
        if seconds is not None:
            samples = [one[:, :most] for one in samples]
        if padding is False:
            features = [self.features(one[None], torch.tensor([one.shape[1]])) for one in samples]
            data = {"input_values": [values[0].numpy() for values, _ in features]}
            masks = [mask[0].numpy() for _, mask in features]
        else:
            lengths = torch.tensor([one.shape[1] for one in samples])
            size = max(int(lengths.max()), most if padding == "max_length" else 0)
            padded = torch.zeros(len(samples), self.feature_size, size)
            for row, one in zip(padded, samples, strict=True):
                row[:, : one.shape[1]] = one
            values, mask = self.features(padded, lengths)
            missing = -mask.shape[1] % (pad_to_multiple_of or 1)
            place = (0, 0, 0, missing) if self.feature_type == "log-mel" else (0, missing)
            values = nn.functional.pad(values, place, value=self.padding_value)
            mask = nn.functional.pad(mask, (0, missing))
            if self.padding_side == "left":
                for row, shown in enumerate(mask):
                    missing = len(shown) - int(shown.sum())
                    mask[row] = shown.roll(missing)
                    values[row] = values[row].roll(missing, -2 if self.feature_type == "log-mel" else -1)
            data, masks = {"input_values": values.numpy()}, mask.numpy()
        wanted = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        if wanted:
            data["attention_mask"] = masks
        return BatchFeature(data, tensor_type=return_tensors)

    def pad(
        self,
        processed_features: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        **kwargs,
    ) -> BatchFeature:
        """What `__call__` made of single recordings `->` a batch, padded in time with a mask, as collators ask for it.

        Args:
            processed_features: a list of dicts, or a dict of lists: `input_values` `(L,)`, `(C, L)`, `(T, F)` or
                `(C, T, F)`, perhaps an `attention_mask` `(L,)` or `(T,)`, and what else is to be stacked, as labels.
            padding: as of `__call__`; False gives lists of arrays, unless `return_tensors` says otherwise.
            max_length: samples of waveforms, or frames of spectrograms; None is the extractor's, as many as it makes.
            kwargs: see transformers' `SequenceFeatureExtractor.pad`: `pad_to_multiple_of`, `return_attention_mask` and
                `return_tensors`.

        Raises:
            ValueError: values have another number of axes, or a mask is of another length; or there is no length where
                one is needed.
        """
        if max_length is None and self.max_length is not None and (truncation or padding == "max_length"):
            spectrogram = self.feature_type == "log-mel"
            max_length = self.max_length // self.hop_length + 1 if spectrogram else self.max_length
        kept = padding is False or padding in ("do_not_pad", PaddingStrategy.DO_NOT_PAD)
        if not kept or kwargs.get("return_tensors") is not None:
            return super().pad(processed_features, padding, max_length, truncation, **kwargs)
        # transformers makes one array of them, which they are not if they differ in length.
        samples = processed_features
        if isinstance(samples, Mapping):
            samples = [dict(zip(samples, one, strict=True)) for one in zip(*samples.values(), strict=True)]
        pad = super().pad
        made = [pad([one], padding, max_length, truncation, **kwargs) for one in samples]
        return BatchFeature({name: [one[name][0] for one in made] for name in (made[0] if made else ())})

    def _truncate(self, processed_features: dict[str, np.ndarray], *args, **kwargs) -> dict[str, np.ndarray]:
        # transformers passes each recording through here, then measures its first axis, and hands it to `_pad`.
        name, mask = self.model_input_names
        values = processed_features[name]
        spectrogram = self.feature_type == "log-mel"
        axes = (("C",) if self.feature_size > 1 else ()) + (("T", "F") if spectrogram else ("L",))
        if np.ndim(values) != len(axes):
            raise ValueError(
                f"{name} of a recording have shape {np.shape(values)}: expected ({', '.join(axes)}), without an axis "
                "for a batch."
            )
        values = np.moveaxis(values, -2 if spectrogram else -1, 0)
        if mask in processed_features and len(processed_features[mask]) != len(values):
            length = len(processed_features[mask])
            raise ValueError(
                f"{mask} of a recording has {length} entries: expected {len(values)}, one for each moment."
            )
        return super()._truncate({**processed_features, name: values}, *args, **kwargs)

    def _pad(
        self,
        processed_features: dict[str, np.ndarray],
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
    ) -> dict[str, np.ndarray]:
        """A recording, with time on the first axis, to `max_length`, with time where the model has it."""
        name, mask = self.model_input_names
        padded = {key: value for key, value in processed_features.items() if key != mask}
        values, length = padded[name], len(padded[name])
        missing = 0
        if padding_strategy != PaddingStrategy.DO_NOT_PAD:
            step = pad_to_multiple_of or 1
            missing = max(0, -(-max_length // step) * step - length)
        place = (missing, 0) if self.padding_side == "left" else (0, missing)
        values = np.pad(values, [place] + [(0, 0)] * (values.ndim - 1), constant_values=self.padding_value)
        padded[name] = np.moveaxis(values, 0, -2 if self.feature_type == "log-mel" else -1)
        if return_attention_mask:
            padded[mask] = np.pad(processed_features.get(mask, np.ones(length, np.int64)), place)
        return padded

    def windows(self, samples: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """`(C, L) -> [(C, l), ..], (w,)`: parts of `max_length` samples that cover a recording, and the share of each.

        They are evenly spaced, and each begins in the first half of the one before, so that what is no longer than half
        of one is whole in one of them. Shares say what each counts in an answer to all, and sum to 1. Those of sound
        are shares of the power of what varies, as a pause says nothing of the rest; windows of silence alone, and those
        of series that are not sound (`do_rescale=False`), count alike.
        """
        size = samples.shape[-1]
        length = min(size, self.max_length or size)
        steps = -(-(size - length) // max(1, length // 2))
        starts = [round(number * (size - length) / max(1, steps)) for number in range(steps + 1)]
        windows = [samples[:, start : start + length] for start in starts]
        power = torch.ones(len(windows), dtype=torch.float64)
        if self.do_rescale and len(windows) > 1:
            heard = samples.cpu()  # not all devices have numbers with 64 bits, and squares may be too large for others
            varying = [heard[:, start : start + length].double().var(dim=1, correction=0).sum() for start in starts]
            power = torch.stack(varying) if sum(varying) > 0 else power
        return windows, power / power.sum()

    def features(self, samples: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, C, L)` and how many samples of each are not padding `-> input_values, attention_mask`

        Training calls it on whole batches, on their device, so that a model is trained on what `__call__` gives.
        """
        values, mask = self.normalized(*self.extracted(samples, lengths))
        return values, mask.long()

    def extracted(self, samples: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, C, L)`, `(B,) -> (B, C, L)` or `(B, C, T, F)`, and a mask `(B, L)` or `(B, T)` in bool: unnormalised."""
        lengths = lengths.to(samples.device)
        mask = torch.arange(samples.shape[-1], device=samples.device) < lengths[:, None]
        samples = samples * mask[:, None]
        if self.feature_type == "waveform":
            return samples, mask
        values = self._log_mel(samples)
        frames = lengths // self.hop_length + 1
        return values, torch.arange(values.shape[2], device=samples.device) < frames[:, None]

    def normalized(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `extracted` gives `->` the same with the mean and deviation that `normalize` says, without padding."""
        spectrogram = self.feature_type == "log-mel"
        shown = mask[:, None, :, None] if spectrogram else mask[:, None]
        if spectrogram and self.dynamic_range is not None:
            loudest = values.masked_fill(~shown, -math.inf).amax(dim=(1, 2, 3), keepdim=True)
            values = values.maximum(loudest - self.dynamic_range * math.log(10) / 10)
        if self.normalize == "training":
            shape = (1, 1, 1, -1) if spectrogram else (1, -1, 1)
            mean, std = (values.new_tensor(numbers).reshape(shape) for numbers in (self.mean, self.std))
            values = (values - mean) / std
        elif self.normalize is not None:
            axes = (1, 2, 3) if spectrogram else (1, 2)
            if self.normalize == "channel":
                axes = (1, 2) if spectrogram else (2,)
            # From the lowest, in units of the range: so neither a large mean nor a square that is too large matters.
            values = values / 2  # half of any range is finite
            lowest = values.masked_fill(~shown, math.inf).amin(dim=axes, keepdim=True)
            highest = values.masked_fill(~shown, -math.inf).amax(dim=axes, keepdim=True)
            # Where all numbers are the same, what rounding leaves of their differences would become noise.
            varies = highest - lowest > _SMALLEST_RANGE * torch.maximum(lowest.abs(), highest.abs())
            values = (values - lowest) / torch.where(varies, highest - lowest, 1.0)
            weights = shown / shown.expand_as(values).sum(dim=axes, keepdim=True)
            values = values - (values * weights).sum(dim=axes, keepdim=True)
            std = (values.square() * weights).sum(dim=axes, keepdim=True).sqrt()
            values = torch.where(varies, values / torch.where(varies, std, 1.0), 0.0)
        values = values.masked_fill(~shown, self.padding_value)
        return (values.squeeze(1) if self.feature_size == 1 else values), mask

    def _log_mel(self, samples: torch.Tensor) -> torch.Tensor:
        """`(B, C, L) -> (B, C, T, F)`"""
        size = 2 ** (self.frame_length - 1).bit_length()
        window = torch.hann_window(self.frame_length, device=samples.device)
        spectrum = torch.stft(
            samples.flatten(0, 1),
            size,
            self.hop_length,
            self.frame_length,
            window,
            center=True,
            pad_mode="constant",  # as padding at the end of a batch is, so that it changes no frame
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(dim=-1).transpose(1, 2)  # faster than abs
        filters = _filters(size, self.num_mel_bins, self.min_frequency, self.highest_frequency, self.sampling_rate)
        bands = power @ torch.from_numpy(filters).to(power)
        return (bands + _FLOOR).log().unflatten(0, samples.shape[:2])


@functools.lru_cache(maxsize=8)
def _filters(size: int, bands: int, lowest: float, highest: float, sampling_rate: int) -> np.ndarray:
    """`(size // 2 + 1, F)`: the same for all recordings of an extractor, so they are made once."""
    return mel_filter_bank(size // 2 + 1, bands, lowest, highest, sampling_rate, norm=None, mel_scale="htk")


def between_samples(samples: np.ndarray, place: np.ndarray) -> np.ndarray:
    """`(C, L), (l,) -> (C, l)`: what lies at places from 0 to `L - 1`, on the line between the samples beside each."""
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, samples.shape[1] - 1)
    share = (place - below).astype(samples.dtype)
    return samples[:, below] * (1 - share) + samples[:, above] * share


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _is_turned(recordings: Any) -> bool:
    """Whether an array has its channels last, as soundfile reads them."""
    return (
        not is_file(recordings)
        and getattr(recordings, "ndim", 0) == 2
        and (recordings.shape[1] <= MOST_CHANNELS < recordings.shape[0])
    )


def _is_batch(recordings: Any, num_axes: int) -> bool:
    """Whether these are recordings, and not one as a list of numbers, or an array of `num_axes` axes."""
    if isinstance(recordings, (list, tuple)):
        return len(recordings) == 0 or not np.isscalar(recordings[0]) or isinstance(recordings[0], (str, bytes))
    return not is_file(recordings) and getattr(recordings, "ndim", 0) > num_axes


PerceiverStudyFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")

__all__ = ["PerceiverStudyFeatureExtractor"]
