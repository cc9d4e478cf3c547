"""What tasks share whose samples are decoded from rows of a dataset: images, recordings, clouds of points."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import Dataset

from lab.data.decoding import SampleDecoder
from lab.data.splits import Rows, Splits, choose_splits
from lab.data.streams import choose_any_split, choose_stream_splits
from lab.errors import UserError
from lab.looking.samples import draw_samples
from lab.looking.view import View
from lab.tasks.labelled import LabelledTask
from lab.tasks.task import Arguments, Batch, Judged

_MOST_MISTAKES = 24


class DecodedTask(LabelledTask):
    """A task that only has to say what decodes a row.

    Attributes:
        processor_keys: what a recipe may say about the processor.
        derived_keys: fields of the model that follow from the processor.
    """

    processor_keys: ClassVar[tuple[str, ...]] = ()
    derived_keys: ClassVar[tuple[str, ...]] = ()

    def blank(self) -> np.ndarray:
        """The smallest sample, which stands for one that is missing among several modalities."""
        raise UserError(f"task={self.name} is not one that a modality among several can have")

    @abstractmethod
    def as_read(self, sample: np.ndarray) -> Any:
        """A sample of a dataset in the form in which the view reads a file."""

    def alone(self, batch: Batch) -> Arguments:
        """`inputs` with one row for each sample, without targets: what the model is given beside other modalities."""
        return self.inputs(batch)[0]

    @abstractmethod
    def decoder(self) -> SampleDecoder:
        """What turns rows into samples, with a method `decode` that makes a dataset of `Rows`."""

    def decoder_beside_others(self) -> SampleDecoder:
        """The same for a modality among several, of a moment that all of them share."""
        return self.decoder()

    def to_train_on(self, rows: Rows, decoder: SampleDecoder) -> Dataset:
        """The samples to train on, where they are not streamed."""
        return decoder.decode(rows)

    def load_splits(self) -> Splits:
        reading, decoder, streaming = self.reading, self.decoder(), self.recipe.data.streaming
        if streaming:
            train, validation, test, names = choose_stream_splits(reading, decoder, self.config.num_labels)
        else:
            train, validation, test = choose_splits(reading)
            names = train.source.label_names
        self.require_labels(names)
        splits = Splits(
            validation=validation and decoder.decode(validation),
            train=train if streaming else self.to_train_on(train, decoder),
            test=test and decoder.decode(test),
            label_names=names,
            validated=validation and validation.fingerprint(),
        )
        self.fit(splits)
        return splits

    def read_split(self, split: str) -> tuple[Dataset, list[str]]:
        rows = choose_any_split(self.reading, split, self.config.num_labels)
        return self.decoder().decode(rows), rows.source.label_names

    @abstractmethod
    def look_at(self, dataset: Dataset, row: int) -> View:
        """How a sample is drawn."""

    def draw_mistakes(self, folder: Path, dataset: Dataset, judged: Judged):
        if not {"logits", "labels"} <= judged.keys():  # answers of another kind
            return
        logits, labels = judged["logits"], judged["labels"]
        answers = self.target.describe(logits, labels, np.arange(len(labels)), self.label_names)
        distances = self.target.distances(logits, labels)
        worst = [row for row in np.argsort(-distances, kind="stable") if not answers[row][1]][:_MOST_MISTAKES]
        if worst:
            views, told = [self.look_at(dataset, row) for row in worst], [answers[row] for row in worst]
            draw_samples(views, told, folder / "mistakes.png")
