"""How recordings, and attention on them, are drawn: over the waveform or over the spectrogram."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from transformers import PreTrainedConfig

from lab.looking.style import BLUE
from lab.looking.view import COLOURS, View, as_image, read_with


class SoundView(View):
    """What the model hears.

    Args:
        values: waveforms `(C, L)`, or a spectrogram `(T, F)`, of which only the first channel is drawn.
        grid: of what latents attend to, `[L']` or `[T', F']`.
        seconds: how long it is, or how many moments it has where it has no rate.
        unit: what the axis of time counts.
    """

    task, sample, examples = "audio-classification", "recording", "*.wav"
    models, processors = ("PerceiverStudyForAudioClassification",), ("PerceiverStudyFeatureExtractor",)
    given_as = "recording"

    def __init__(
        self, values: np.ndarray, grid: list[int], seconds: float, is_spectrogram: bool, unit: str = "seconds"
    ):
        self.values, self.grid, self.seconds, self.is_spectrogram = values, grid, seconds, is_spectrogram
        self.unit = unit

    @classmethod
    def read(cls, path: Path, processor: Any) -> np.ndarray:
        """`(C, L)` at the processor's rate."""
        return read_with(processor, path, "recording")

    @classmethod
    def purpose(cls, config: PreTrainedConfig) -> str:
        return f"{super().purpose(config)} Of a long one the picture is of the part that counts most."

    @classmethod
    def parts(cls, processor: Any) -> dict[str, type[View]]:
        """A series of numbers with units of their own is a file, as a page cannot record it."""
        view = cls if processor.do_rescale else SeriesView
        return {view.sample: view}

    @classmethod
    def part(cls, processor: Any, sample: np.ndarray) -> tuple[np.ndarray, str]:
        """Of what is longer than `max_length` the window that counts most in the answer, or the first of equals."""
        if not hasattr(processor, "windows"):  # of a checkpoint from before there were any, which brings its own code
            return sample, cls.sample
        windows, shares = processor.windows(torch.from_numpy(sample))
        if len(windows) == 1:
            return sample, cls.sample
        return windows[int(shares.argmax())].numpy(), "loudest part" if processor.do_rescale else "first part"

    @classmethod
    def of(cls, processor: Any, config: PreTrainedConfig, sample: np.ndarray) -> "SoundView":
        values = processor(sample[None], return_tensors="np")["input_values"][0]
        spectrogram = processor.feature_type == "log-mel"
        sizes = values.shape[-2:] if spectrogram else values.shape[-1:]
        length = sample.shape[-1] if processor.max_length is None else min(sample.shape[-1], processor.max_length)
        values = values.reshape(-1, *sizes)
        values = values[0] if spectrogram else values
        rate = processor.sampling_rate
        unit = "moments" if rate is None else "seconds"
        return cls(values, config.attended_sizes(sizes), length / (rate or 1), spectrogram, unit)

    @classmethod
    def fits(cls, config: PreTrainedConfig) -> bool:
        return config.input_name == "input_values" or (config.input_type == "grid" and config.num_axes == 1)

    @classmethod
    def example(cls, config: PreTrainedConfig, count: int, length: int | None = None) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(count)
        channels = [config.num_channels] if config.num_channels > 1 else []
        values = torch.randn(count, *channels, *config.grid, generator=generator)
        lengths = torch.randint(1, config.grid[0] + 1, (count, 1), generator=generator)
        return {"input_values": values, "attention_mask": (torch.arange(config.grid[0]) < lengths).long()}

    @property
    def count(self) -> int:
        return int(np.prod(self.grid))

    def draw(self, axes: Any):
        if self.is_spectrogram:
            axes.imshow(self.values.T, origin="lower", aspect="auto", cmap="gray", extent=self._extent())
        else:
            self._draw_waveform(axes, BLUE)

    def paint(self, axes: Any, weights: np.ndarray, lowest: float | None = 0.0):
        """Of a spectrogram as a picture of its patches; of a waveform as colours behind it."""
        weights = weights.reshape(self.grid)
        if not self.is_spectrogram:
            weights = weights[:, None]
        axes.imshow(weights.T, origin="lower", aspect="auto", cmap=COLOURS, vmin=lowest, extent=self._extent())
        if not self.is_spectrogram:
            self._draw_waveform(axes, "white", alpha=0.4)  # or long recordings would hide the colours

    def _draw_waveform(self, axes: Any, colour: str, alpha: float = 1.0):
        largest = max(np.abs(self.values).max(), 1e-12)
        place = np.linspace(0, self.seconds, self.values.shape[-1])
        for channel, samples in enumerate(self.values):
            height = (channel + 0.5 + samples / largest / 2) / len(self.values)
            axes.plot(place, height, color=colour, alpha=alpha, linewidth=0.5)
        axes.set(xlim=(0, self.seconds), ylim=(0, 1))

    def _extent(self) -> tuple[float, float, float, float]:
        return (0, self.seconds, 0, 1)

    def overlay(self, weights: np.ndarray) -> Image.Image:
        """The sample above, and the weights below."""
        figure = Figure(figsize=(6, 4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        self.draw(upper)
        self.paint(lower, weights)
        lower.set_xlabel(self.unit)
        for axes in (upper, lower):
            axes.set_yticks([])
        return as_image(figure)


class SeriesView(SoundView):
    """What the model is told by sensors, of a file that a visitor of the page gives."""

    sample, given_as = "series", "file"
