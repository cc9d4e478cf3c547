"""How well a classifier of recordings does when there are pauses around them, and noise."""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from lab.augment.padding import padded
from lab.data.ragged import RaggedDataset
from lab.looking.style import COLOURS, MARKERS, tidy
from lab.study.robustness import Curve, accuracy_of, rows_of_batches
from lab.tasks.audio_classification import AudioClassification
from lab.tasks.task import Batch

PAUSES = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)  # seconds
DECIBELS = (50.0, 40.0, 30.0, 20.0, 10.0, 0.0)
_ROOM = 20.0  # decibels that the noise of a room lies below a recording, while there are pauses
Change = Callable[[np.ndarray], np.ndarray]


def in_silence(samples: np.ndarray, count: int) -> np.ndarray:
    """`(L, C) -> (count + L + count, C)`"""
    return np.pad(samples, ((count, count), (0, 0)))


def in_noise(samples: np.ndarray, decibels: float, rng: np.random.Generator, power: float | None = None) -> np.ndarray:
    """`(L, C) -> (L, C)`: with noise as of a room, whose power falls by half for each octave, from end to end.

    Args:
        decibels: that it lies below the recording.
        power: of the recording; None measures it, which is too little where there are pauses already.
    """
    spectrum = np.fft.rfft(rng.standard_normal(samples.shape), axis=0)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))[:, None]
    noise = np.fft.irfft(spectrum, len(samples), axis=0)
    noise /= max(float(noise.std()), 1e-12)
    power = float(samples.var()) if power is None else power
    return (samples + np.sqrt(power) * 10 ** (-decibels / 20) * noise).astype(samples.dtype)


def sound_curves(
    task: AudioClassification, model: PreTrainedModel, dataset: RaggedDataset, batch_size: int
) -> dict[str, list[Curve]]:
    """Accuracy by the seconds of silence before and after each recording, without noise and with, and by noise alone.

    Raises:
        UserError: answers are not finite numbers.
    """
    rate = task.processor.sampling_rate or 1
    silent, noisy, alone = [], [], []
    for seconds in tqdm(PAUSES, desc="pauses", disable=None, leave=False):
        count, rng = round(seconds * rate), np.random.default_rng(0)
        silent.append(_accuracy(task, model, dataset, batch_size, lambda one, n=count: in_silence(one, n)))

        def change(one: np.ndarray, count: int = count, rng: np.random.Generator = rng) -> np.ndarray:
            return in_noise(in_silence(one, count), _ROOM, rng, float(one.var()))

        noisy.append(_accuracy(task, model, dataset, batch_size, change))
    for decibels in tqdm(DECIBELS, desc="noise", disable=None, leave=False):
        rng = np.random.default_rng(0)
        alone.append(_accuracy(task, model, dataset, batch_size, lambda one, d=decibels, r=rng: in_noise(one, d, r)))
    pauses = [Curve("silence", list(PAUSES), silent), Curve(f"noise {_ROOM:g} dB below", list(PAUSES), noisy)]
    return {"pauses": pauses, "noise": [Curve("noise", list(DECIBELS), alone)]}


def _accuracy(
    task: AudioClassification, model: PreTrainedModel, dataset: RaggedDataset, batch_size: int, change: Change
) -> float:
    def changed(rows: range) -> Batch:
        samples = padded([change(dataset.sample(row)) for row in rows])
        return samples | {"labels": torch.from_numpy(dataset.labels[rows.start : rows.stop])}

    return accuracy_of(task, model, (task.inputs(changed(rows)) for rows in rows_of_batches(dataset, batch_size)))


def draw_sounds(curves: dict[str, list[Curve]]) -> Figure:
    """A panel for pauses, and one for noise."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, found in zip(panels, curves.values(), strict=True):
        for curve, colour, marker in zip(found, COLOURS, MARKERS, strict=False):
            axes.plot(curve.places, 100 * np.array(curve.accuracies), color=colour, marker=marker, label=curve.name)
    left, right = panels
    left.set(xlabel="seconds of a pause before, and after", ylabel="accuracy in %", ylim=(0, 102))
    left.legend(frameon=False)
    right.set_xlabel("decibels that noise lies below")
    right.invert_xaxis()
    tidy(*panels)
    return figure


def sounds_table(curves: dict[str, list[Curve]], split: str = "test") -> str:
    """Markdown: a row for each length of a pause, and for each level of noise."""
    silent, noisy = curves["pauses"]
    lines = [f"| {split} recordings, a pause before and after | silent | with {noisy.name} |", "|---|---:|---:|"]
    rows = zip(silent.places, silent.accuracies, noisy.accuracies, strict=True)
    lines += [f"| {place:g} s | {100 * first:.1f} % | {100 * second:.1f} % |" for place, first, second in rows]
    (noise,) = curves["noise"]
    lines += ["", "| noise, no pause | accuracy |", "|---|---:|"]
    places = zip(noise.places, noise.accuracies, strict=True)
    lines += [f"| {place:g} dB below | {100 * accuracy:.1f} % |" for place, accuracy in places]
    return "\n".join(lines) + "\n"
