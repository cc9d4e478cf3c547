"""Random changes of recordings and of their spectrograms, for whole batches.

Recordings are changed first (speed, shift, gain, noise), then spectrograms (vocal tract, equalizer, masks over time and
bands, mixup). All choices depend on seed, step and place in the batch alone, so a resumed run repeats them, and how a
batch is divided does not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import soxr
import torch

from lab.augment.describing import listed_changes, span
from lab.augment.mixing import blend
from lab.augment.padding import padded, shown
from lab.augment.seeds import fold_seed
from modeling_perceiver_study import PerceiverStudyFeatureExtractor
from modeling_perceiver_study.feature_extraction_perceiver_study import between_samples


@dataclass
class SoundAugmentation:
    """What happens to each training recording."""

    speed: list[float] | None = None  # plays it so many times as fast, evenly from [lowest, highest], pitch included
    linear_speed: bool = False  # by straight lines between samples, which is fast, and right for series of features
    shift: float = 0.0  # seconds: up to so much silence (of a series its first numbers) before it, or cut off
    silence: float = 0.0  # seconds: up to so much before half of them, and after half, as max_length has room
    gain: float = 0.0  # decibels: up to so much louder or softer
    noise: list[float] | None = (
        None  # white noise, so many decibels below what varies of it, evenly from [lowest, highest]
    )
    noise_share: float = 1.0  # share of the recordings that get noise
    vocal_tract: list[float] | None = None  # scales the frequencies of a spectrogram, evenly from [lowest, highest]
    equalizer: float = 0.0  # decibels: up to so much louder or softer at six places of a spectrogram, between in a line
    time_masks: int = 0  # stretches of time that become the mean
    time_mask: float = 0.1  # how long each is at most, as a share of the recording
    band_masks: int = 0  # ranges of neighbouring bands, or channels of a series, that become the mean
    band_mask: float = 0.2  # how wide each is at most, as a share of all
    mixup_alpha: float = 0.0  # blend with another recording, its share from Beta(alpha, alpha); 0 is off


RANGES = {
    "shift": (0, None),
    "silence": (0, None),
    "gain": (0, None),
    "equalizer": (0, None),
    "noise_share": (0, 1),
    "time_masks": (0, 10),
    "time_mask": (0, 1),
    "band_masks": (0, 10),
    "band_mask": (0, 1),
    "mixup_alpha": (0, None),
}
_MASKS = 10  # the most of each kind
_KNOBS = 6  # of the equalizer
_OF_SAMPLES = ("speed", "shift", "window", "before", "after")
_SINGLE = ("speed", "shift", "window", "gain", "noise", "has_noise", "noise_seed", "vocal_tract")


def draw(settings: SoundAugmentation, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random numbers in [0, 1) for `count` recordings, on the CPU.

    `(n,)` by name; `(n, 6)` for the equalizer, and `(n, 10, 2)` for masks.
    """
    sizes = [1] * len(_SINGLE) + [_KNOBS, 4 * _MASKS]
    *single, knobs, masks = torch.rand(count, sum(sizes), generator=generator, dtype=torch.float64).split(sizes, dim=1)
    draws = {name: numbers.squeeze(1) for name, numbers in zip(_SINGLE, single, strict=True)}
    draws["equalizer"] = knobs
    draws["time_masks"], draws["band_masks"] = masks.unflatten(1, (2, _MASKS, 2)).unbind(dim=1)
    if settings.mixup_alpha:
        # torch cannot draw from a Beta distribution with a generator.
        rng = np.random.default_rng(torch.randint(2**62, (), generator=generator).item())
        draws["opacity"] = torch.from_numpy(rng.beta(settings.mixup_alpha, settings.mixup_alpha, count)).float()
    if settings.silence:  # drawn after all others, whose numbers are then the same without it
        before_and_after = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        draws["before"], draws["after"] = before_and_after.unbind(dim=1)
    return draws


def between(limits: list[float], draw: float | torch.Tensor) -> float | torch.Tensor:
    """A number from [0, 1) as one from [lowest, highest)."""
    low, high = limits
    return low + (high - low) * draw


def change(
    samples: np.ndarray,
    settings: SoundAugmentation,
    draws: dict[str, float],
    rate: int,
    most: int | None,
    from_silence: bool = True,
) -> np.ndarray:
    """`(L, C) -> (l, C)`: one recording at another speed, shifted, and no longer than `most`, by a random window.

    Args:
        from_silence: what is before and after it is 0; otherwise its first and its last numbers.
    """
    padding = "constant" if from_silence else "edge"
    if settings.speed:
        factor = between(settings.speed, draws["speed"])
        # Low quality is a third of the time; what it gets wrong is far below the other changes.
        faster = _faster if settings.linear_speed else partial(soxr.resample, out_rate=1.0, quality="LQ")
        changed = faster(samples if from_silence else samples - _line(samples, len(samples)), factor)
        if not from_silence:
            changed = changed + _line(samples, len(changed))
        samples = changed if len(changed) else samples  # a single sample is too short for some
    shift = round((2 * draws["shift"] - 1) * settings.shift * rate)
    if shift > 0:
        samples = np.pad(samples, ((shift, 0), (0, 0)), mode=padding)
    elif shift < 0:
        samples = samples[min(-shift, len(samples) - 1) :]
    if settings.silence:
        wanted = settings.silence * rate * np.clip([2 * draws["before"] - 1, 2 * draws["after"] - 1], 0, None)
        room = wanted.sum() if most is None else max(0, most - len(samples))
        before, after = (wanted * min(1, room / max(wanted.sum(), 1))).astype(int)
        samples = np.pad(samples, ((before, after), (0, 0)), mode=padding)
    if most is not None and len(samples) > most:
        first = int(draws["window"] * (len(samples) - most + 1))
        samples = samples[first : first + most]
    return samples


def _line(samples: np.ndarray, count: int) -> np.ndarray:
    """`(L, C) -> (count, C)`: from the first to the last numbers; what lies off it is 0 at both ends, as sound is."""
    return np.linspace(samples[0], samples[-1], count, dtype=samples.dtype)


def _faster(samples: np.ndarray, factor: float) -> np.ndarray:
    """`(L, C) -> (l, C)`: each `factor` samples a new one, on the line between its neighbours."""
    place = np.arange(max(1, round(len(samples) / factor))) * factor
    return between_samples(samples.T, place.clip(max=len(samples) - 1)).T


def add_noise(
    samples: torch.Tensor, lengths: torch.Tensor, settings: SoundAugmentation, draws: dict[str, torch.Tensor]
) -> torch.Tensor:
    """`(b, C, L) -> (b, C, L)`: louder or softer, then with white noise as far below each recording's power."""
    if settings.gain:
        decibels = between([-settings.gain, settings.gain], draws["gain"])
        samples = samples * (10 ** (decibels / 20)).to(samples)[:, None, None]
    if not settings.noise:
        return samples
    noise = torch.zeros_like(samples, device="cpu")
    for row, length, seed in zip(noise, lengths.tolist(), draws["noise_seed"].tolist(), strict=True):
        generator = torch.Generator().manual_seed(int(seed * 2**53))
        row[:, :length] = torch.randn(length, len(row), generator=generator).T
    sizes = lengths.to(samples)[:, None, None]
    present = shown(lengths.to(samples.device), samples.shape[2])[:, None]
    varying = (samples - samples.sum(dim=2, keepdim=True) / sizes) * present  # sensors seldom have a mean of 0
    power = varying.square().sum(dim=(1, 2), keepdim=True) / (sizes * samples.shape[1])
    decibels = between(settings.noise, draws["noise"]).to(samples)[:, None, None]
    loud = (
        power.sqrt() * 10 ** (-decibels / 20) * (draws["has_noise"] < settings.noise_share).to(samples)[:, None, None]
    )
    return samples + loud * noise.to(samples)


def warp_bands(values: torch.Tensor, factors: torch.Tensor, extractor: PerceiverStudyFeatureExtractor) -> torch.Tensor:
    """`(b, C, T, F), (b,) -> (b, C, T, F)`: spectrograms with their frequencies multiplied, bands between interpolated.

    Vocal tract length perturbation (Jaitly and Hinton 2013), on the mel scale.
    """
    low, high = (_mel(torch.tensor(f)) for f in (extractor.min_frequency, extractor.highest_frequency))
    bands = values.shape[-1]
    mels = torch.linspace(float(low), float(high), bands + 2, dtype=torch.float64)[1:-1]
    wanted = _mel(_hertz(mels) / factors[:, None].cpu())  # where each band of the result was
    place = ((wanted - mels[0]) / (mels[1] - mels[0])).clamp(0, bands - 1).to(values)
    below = place.floor().clamp(max=bands - 2).long()
    share = (place - below)[:, None, None]
    index = below[:, None, None].expand(*values.shape[:3], -1)
    return torch.lerp(values.gather(3, index), values.gather(3, index + 1), share)


def equalize(values: torch.Tensor, decibels: torch.Tensor) -> torch.Tensor:
    """`(b, C, T, F), (b, 6) -> (b, C, T, F)`: spectrograms as through another microphone, in logarithms."""
    curve = torch.nn.functional.interpolate(
        decibels[:, None].to(values), size=values.shape[-1], mode="linear", align_corners=True
    )
    return values + curve[:, :, None] * (np.log(10) / 10)


def _mel(hertz: torch.Tensor) -> torch.Tensor:
    return 2595 * torch.log10(1 + hertz / 700)


def _hertz(mel: torch.Tensor) -> torch.Tensor:
    return 700 * (10 ** (mel / 2595) - 1)


def hide(
    values: torch.Tensor,
    axis: int,
    masks: torch.Tensor,
    sizes: torch.Tensor,
    widest: float,
    mean: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """Set stretches of an axis to the mean (SpecAugment, Park et al. 2019).

    Args:
        masks: `(b, k, 2)` in [0, 1), width and place of each.
        sizes: `(b,)`, how much of the axis is not padding.
        widest: as a share of it.
        mean: 0 for values that are normalised.
    """
    width = masks[..., 0].to(values) * widest * sizes.to(values)[:, None]
    first = masks[..., 1].to(values) * (sizes.to(values)[:, None] - width)
    place = torch.arange(values.shape[axis], device=values.device)
    hidden = ((place >= first[..., None]) & (place + 1 <= (first + width)[..., None])).any(dim=1)
    shape = [1] * values.ndim
    shape[0], shape[axis] = hidden.shape
    return torch.where(hidden.view(shape), mean, values)


def _mean(features: torch.Tensor, mask: torch.Tensor, spectrogram: bool) -> torch.Tensor:
    """Of each spectrogram, or of each channel of a waveform or series, whose units may differ; without padding."""
    time = features.ndim - 2 if spectrogram else features.ndim - 1
    present = mask.view(len(mask), *[-1 if axis == time else 1 for axis in range(1, features.ndim)]).expand_as(features)
    axes = tuple(range(1, features.ndim)) if spectrogram else (time,)
    return (features * present).sum(dim=axes, keepdim=True) / present.sum(dim=axes, keepdim=True)


class TrainingSound:
    """Turn a training batch into the model's arguments and targets, with random choices that a resumed run repeats."""

    def __init__(
        self,
        settings: SoundAugmentation,
        extractor: PerceiverStudyFeatureExtractor,
        seed: int,
        batch_size: int,
        blendable: Callable[[torch.Tensor], torch.Tensor],
    ):
        """
        Args:
            blendable: turns labels into floats that can be averaged; called if recordings are mixed.
        """
        self.settings, self.extractor, self.seed, self.batch_size = settings, extractor, seed, batch_size
        self.blendable = blendable
        self.generator = torch.Generator()

    def __call__(
        self, values: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, step: int, first: int
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The model's arguments, and the labels, or `(n, classes)` probabilities if recordings are mixed.

        Args:
            values: `(n, L, C)`.
            lengths: `(n,)`.
            labels: of each.
            first: these are rows `first` to `first + n` of the batch of `step`; both are even if recordings are mixed.
        """
        self.generator.manual_seed(fold_seed(self.seed, step))
        draws = draw(self.settings, self.batch_size, self.generator)
        draws = {name: numbers[first : first + len(values)] for name, numbers in draws.items()}
        samples, lengths = self._changed(values, lengths, draws)
        draws = {name: numbers.to(values.device) for name, numbers in draws.items()}
        samples = add_noise(samples, lengths, self.settings, draws)
        features, mask = self.extractor.extracted(samples, lengths)
        if self.settings.vocal_tract:
            features = warp_bands(features, between(self.settings.vocal_tract, draws["vocal_tract"]), self.extractor)
        if self.settings.equalizer:
            decibels = between([-self.settings.equalizer, self.settings.equalizer], draws["equalizer"])
            features = equalize(features, decibels)
        features, mask = self.extractor.normalized(features, mask)
        features = self._masked(features, mask, draws)
        if self.settings.mixup_alpha:
            features, mask, labels = blend(features, mask, self.blendable(labels), draws["opacity"])
        return {"input_values": features, "attention_mask": mask}, labels

    def _changed(
        self, values: torch.Tensor, lengths: torch.Tensor, draws: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(n, L, C), (n,) -> (n, C, l), (n,)`"""
        extractor = self.extractor
        changed = []
        for row, (sample, length) in enumerate(zip(values.cpu().numpy(), lengths.tolist(), strict=True)):
            own = {name: float(draws[name][row]) for name in _OF_SAMPLES if name in draws}
            limits = extractor.sampling_rate or 1, extractor.max_length
            changed.append(change(sample[:length], self.settings, own, *limits, extractor.do_rescale))
        batch = padded(changed)
        return batch["values"].transpose(1, 2).to(values.device), batch["lengths"].to(values.device)

    def _masked(self, features: torch.Tensor, mask: torch.Tensor, draws: dict[str, torch.Tensor]) -> torch.Tensor:
        settings, spectrogram = self.settings, self.extractor.feature_type == "log-mel"
        mean = _mean(features, mask, spectrogram) if self.extractor.normalize is None else 0.0
        if settings.time_masks:
            axis = features.ndim - 2 if spectrogram else features.ndim - 1
            chosen = draws["time_masks"][:, : settings.time_masks]
            features = hide(features, axis, chosen, mask.sum(dim=1), settings.time_mask, mean)
        if settings.band_masks:
            axis = features.ndim - 1 if spectrogram else 1
            chosen = draws["band_masks"][:, : settings.band_masks]
            sizes = mask.new_full((len(mask),), features.shape[axis], dtype=torch.long)
            features = hide(features, axis, chosen, sizes, settings.band_mask, mean)
        return features


def describe_augmentation(settings: SoundAugmentation) -> str:
    """What happens to each training recording, as the end of a list; empty if nothing does."""
    kinds = {
        f"speed {span(settings.speed)}": settings.speed,
        f"shifts by up to {settings.shift:g} s": settings.shift,
        f"up to {settings.silence:g} s of silence around it": settings.silence,
        f"gain of up to {settings.gain:g} dB": settings.gain,
        f"noise {span(settings.noise)} dB below": settings.noise,
        f"vocal tract {span(settings.vocal_tract)}": settings.vocal_tract,
        f"an equalizer of up to {settings.equalizer:g} dB": settings.equalizer,
        f"{settings.time_masks} masks over time": settings.time_masks,
        f"{settings.band_masks} masks over bands": settings.band_masks,
        f"mixup ({settings.mixup_alpha:g})": settings.mixup_alpha,
    }
    return listed_changes(kinds)
