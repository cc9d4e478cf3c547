"""What tasks share whose samples are of different lengths: recordings, clouds of points."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lab.data.ragged import RaggedDataset
from lab.looking.maps import draw_maps_on
from lab.looking.style import save
from lab.looking.view import View
from lab.tasks.decoded import DecodedTask
from lab.tasks.task import Judged, drawn

_EXAMPLES, _DRAWN = 3, 4


class RaggedTask(DecodedTask):
    """A task whose samples are `(l, ..)`, each of its own length; batches are those of `RaggedDataset`.

    Attributes:
        view: what draws a sample.
    """

    view: ClassVar[type[View]]

    @abstractmethod
    def write_example(self, folder: Path, name: str, sample: np.ndarray) -> str:
        """Write a sample into a file of this name and an ending of its kind; returns both."""

    def look_at(self, dataset: RaggedDataset, row: int) -> View:
        return self.view.of(self.processor, self.config, self.as_read(dataset.sample(row)))

    def illustrate(
        self, folder: Path, model: Any, dataset: RaggedDataset, judged: Judged, show_samples: bool
    ) -> list[tuple[str, str]]:
        figures = super().illustrate(folder, model, dataset, judged, show_samples)
        if show_samples:
            samples = [self.as_read(dataset.sample(row)) for row in drawn(len(dataset), _DRAWN)]
            figure = draw_maps_on(samples, model, self.processor, self.view, self.config.num_cross_attends)
            save(figure, folder / "attention.png", dpi=100)
            figures = [*figures, (f"Attention of latents to {self.samples}", "attention.png")]
        return figures

    def save_examples(self, folder: Path, dataset: RaggedDataset) -> dict[str, str]:
        titles = {}
        for number, row in enumerate(drawn(len(dataset), _EXAMPLES)):
            name = self.write_example(folder, str(number), dataset.sample(row))
            titles[name] = self.target.title(dataset.labels[row], self.label_names)
        return titles
