"""What tasks share whose samples are of different lengths: recordings, clouds of points."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lab.data.ragged import RaggedDataset, RaggedDecoder
from lab.data.splits import Splits, choose_split, choose_splits
from lab.data.streams import choose_stream_split, choose_stream_splits
from lab.looking.maps import draw_last_maps
from lab.looking.style import save
from lab.looking.view import View
from lab.tasks.labelled import LabelledTask
from lab.tasks.task import Judged, drawn

_EXAMPLES, _DRAWN = 3, 4


class RaggedTask(LabelledTask):
    """A task whose samples are `(l, ..)`, each of its own length; batches are those of `RaggedDataset`.

    Attributes:
        view: what draws a sample.
    """

    view: ClassVar[type[View]]

    @abstractmethod
    def decoder(self) -> RaggedDecoder:
        """What turns rows into samples."""

    def load_splits(self) -> Splits:
        reading, decoder, streaming = self.reading, self.decoder(), self.recipe.data.streaming
        if streaming:
            train, validation, test, names = choose_stream_splits(reading, decoder, self.config.num_labels)
        else:
            train, validation, test = choose_splits(reading)
            names = train.source.label_names
        self.require_labels(names)
        splits = Splits(
            validation=decoder.decode(validation),
            train=train if streaming else decoder.decode(train),
            test=test and decoder.decode(test),
            label_names=names,
        )
        self.fit(splits)
        return splits

    def read_split(self, split: str) -> tuple[RaggedDataset, list[str]]:
        if self.recipe.data.streaming:
            rows = choose_stream_split(self.reading, split, self.config.num_labels)
        else:
            rows = choose_split(self.reading, split)
        return self.decoder().decode(rows), rows.source.label_names

    @abstractmethod
    def as_opened(self, sample: np.ndarray) -> np.ndarray:
        """A sample of a dataset in the form in which the view opens a file."""

    @abstractmethod
    def write_example(self, folder: Path, name: str, sample: np.ndarray) -> str:
        """Write a sample into a file of this name and an ending of its kind; returns both."""

    def illustrate(
        self, folder: Path, model: Any, dataset: RaggedDataset, judged: Judged, show_samples: bool
    ) -> list[tuple[str, str]]:
        figures = super().illustrate(folder, model, dataset, judged, show_samples)
        if show_samples:
            samples = [self.as_opened(dataset.sample(row)) for row in drawn(len(dataset), _DRAWN)]
            save(draw_last_maps(model, self.processor, samples, self.view), folder / "attention.png", dpi=100)
            figures = [*figures, (f"Attention of latents to {self.samples}", "attention.png")]
        return figures

    def save_examples(self, folder: Path, dataset: RaggedDataset) -> dict[str, str]:
        titles = {}
        for number, row in enumerate(drawn(len(dataset), _EXAMPLES)):
            name = self.write_example(folder, str(number), dataset.sample(row))
            titles[name] = self.target.title(dataset.labels[row], self.label_names)
        return titles
