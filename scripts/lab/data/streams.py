"""Training images that are read as they are needed, from shards (parquet or WebDataset tar files), local or on the Hub.

`datasets` streams them: in each epoch the shards are shuffled and dealt out to the processes, each process shuffles its
samples with a buffer, and every image comes once. Validation images are those of the first shards, which are not
trained on; they and the test images are decoded beforehand, as without streaming.

All processes read equally many batches. Where the shards of one hold fewer images than its share of
`data.train_samples` it begins them anew, and where they hold more it leaves the rest out; the next epoch deals them out
otherwise. Where all get equally many images, an epoch has every image once.
"""

import copy
import dataclasses
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from threading import Thread
from typing import Any

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from tqdm.auto import tqdm

from lab.data.columns import content_or_name
from lab.data.decoded_images import Decoder
from lab.data.decoding import file_at_fault, reason_of
from lab.data.labels import BadLabel
from lab.data.loaders import Place
from lab.data.opening import readable
from lab.data.sources import OpenSplit, Reading, load_named_sources, open_splits
from lab.data.splits import Rows, all_rows, choose_split, name_alike, require_same_validation
from lab.errors import UserError
from lab.recipe import Data

_FIRST_ROWS = 4  # of a shard each, to tell streams apart by
_AHEAD = 3  # batches that threads decode while the model is at work


class Stream:
    """The samples to train on, `len(stream)` of them an epoch."""

    def __init__(self, shards: datasets.IterableDataset, split: OpenSplit, decoder: Decoder, settings: Data):
        """
        Args:
            shards: those of the split that are trained on.
            split: reads their rows.
        """
        self.shards, self.split, self.decoder, self.settings = shards, split, decoder, settings
        self.left_out = 0

    def __len__(self) -> int:
        return self.settings.train_samples

    def read(self, seed: int, epoch: int, process: int = 0, processes: int = 1) -> datasets.IterableDataset:
        """What a process gets to see in an epoch, still encoded; over all processes that is every image once.

        Raises:
            UserError: there are fewer shards than processes.
        """
        if self.shards.num_shards < processes:
            raise UserError(
                f"{self.split.name} leaves {self.shards.num_shards} shards to train on, fewer than the {processes} "
                f"processes: cut the data into more files, best a multiple of {processes}, or use fewer processes"
            )
        shuffled = self.shards.shuffle(seed=seed, buffer_size=self.settings.shuffle_buffer)
        share = split_dataset_by_node(shuffled, process, processes, strategy="shards")
        share.set_epoch(epoch)  # of the share: it does not take over that of the whole
        return share

    def first_rows(self) -> Iterator[bytes]:
        """What tells these shards from others: how many there are, and how some of them begin, wherever they lie."""
        count = self.shards.num_shards
        yield str(count).encode()
        for number in np.unique(np.linspace(0, count - 1, _FIRST_ROWS, dtype=int)).tolist():
            for row in islice(readable(self.shards.shard(count, number), self.split.name), 1):
                for name, value in sorted(row.items()):
                    yield name.encode()
                    yield content_or_name(value)

    def decode(self, row: dict, *place: int) -> tuple[Any, Any] | str:
        """The decoded sample and the label of a row, or why it is to be skipped.

        Args:
            place: what random changes depend on, where the decoder makes such; none is the sample as in evaluation.

        Raises:
            UserError: it is not usable, and the recipe does not say to skip such.
        """
        inputs = self.split.inputs_of(row)
        where = f"{next(filter(None, map(_path, inputs.values())), 'a row')} of {self.split.name}"
        try:
            label = self.split.labels.read(self.split.labels.of_row(row))
            self.decoder.look_at({role: [value] for role, value in inputs.items()})
            return self.decoder.decode_row(inputs, *place), label
        except BadLabel as error:
            return self._refuse(f"{where} {error}")
        except self.decoder.unusable as error:
            where = f"{file} of {self.split.name}" if (file := file_at_fault(None, error)) else where
            return self._refuse(f"{where} is not a usable {self.decoder.sample}: {reason_of(error)}")

    def _refuse(self, reason: str) -> str:
        if self.settings.on_error == "raise":
            raise UserError(f"{reason}; data.on_error=skip leaves such out")
        return reason

    def usable(self, samples: Iterable[tuple[Any, Any] | str]) -> list[tuple[Any, Any]]:
        """What `decode` returned, without the skipped rows; says why each was."""
        samples = list(samples)
        for reason in samples:
            if isinstance(reason, str):
                self.left_out += 1
                tqdm.write(f"left out: {reason} ({self.left_out} so far)")
        return [sample for sample in samples if not isinstance(sample, str)]

    def without_shards(self) -> "Stream":
        """What can decode but not read, to send to another process."""
        stream = copy.copy(self)
        stream.shards = None
        stream.split = dataclasses.replace(self.split, rows=None)
        return stream


class StreamLoader:
    """A process's share of a stream as parts of batches on its device; what `EpochLoader` is for other samples."""

    def __init__(self, stream: Stream, batch_size: int, parts: int, seed: int, place: Place, workers: int = 0):
        """
        Args:
            batch_size: samples of an optimiser step, over all processes and parts.
            parts: how many a process cuts its share of a batch into.
            workers: processes that decode; 0 decodes in threads of this one.
        """
        self.stream, self.batch_size, self.parts, self.seed, self.place = stream, batch_size, parts, seed, place
        self.workers = workers

    def steps_left(self, done: int) -> int:
        """How many batches an epoch still has after `done` of its samples."""
        return (len(self.stream) - done) // self.batch_size

    def batches(self, epoch: int, done: int) -> Iterator[dict[str, torch.Tensor]]:
        """The parts of all batches of the epoch after `done` of its samples: what follows when nothing is interrupted.

        Samples before that are read again, but not decoded. The `state_dict` of `datasets` would be faster and not
        exact, as it does not hold the samples in the shuffle buffer.
        """
        size = self.batch_size // self.place.processes // self.parts
        count = self.steps_left(done) * self.parts
        rows = enumerate(self._rows(epoch))
        for _ in islice(rows, done // self.place.processes):
            pass
        with self._pool() as (pool, decode):

            def start() -> list:
                place = self.seed, epoch, self.place.process
                return [pool.submit(decode, row, *place, number) for number, row in islice(rows, size)]

            started = deque(start() for _ in range(min(_AHEAD, count)))
            for number in range(count):
                samples = self.stream.usable(sample.result() for sample in started.popleft())
                if not samples:
                    raise UserError("all samples of a batch had to be left out: the data is not usable")
                # Others of the batch stand in for those left out, so that a resumed run finds its place by counting.
                samples = list(islice(cycle(samples), size))
                if number + _AHEAD < count:
                    started.append(start())
                decoded, labels = zip(*samples, strict=True)
                batch = {**self.stream.decoder.batch(decoded), "labels": torch.from_numpy(np.array(labels))}
                yield self.place.move(batch)

    @contextmanager
    def _pool(self) -> Iterator[tuple[Executor, Callable]]:
        """What decodes, and the function to give to it."""
        if self.workers:
            with ProcessPoolExecutor(self.workers, initializer=_take, initargs=(self.stream.without_shards(),)) as pool:
                yield pool, _decode
        else:
            with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it decodes and resizes
                yield pool, self.stream.decode

    def _rows(self, epoch: int) -> Iterator[dict]:
        process, processes = self.place.process, self.place.processes
        share = self.steps_left(0) * self.batch_size // processes
        while True:
            rows = self.stream.read(self.seed, epoch, process, processes)
            count = 0
            for row in readable(rows, self.stream.split.name):
                count += 1
                yield row
            # Shards differ a little. More than one shard too few is a wrong number in the recipe.
            if share - count > count / rows.num_shards:
                raise UserError(
                    f"data.train_samples={len(self.stream)} asks for {share} samples an epoch from process {process}, "
                    f"but its {rows.num_shards} shards hold {count}: set it to the number of samples in the train "
                    "split, less those of the validation shards"
                )


_OF_WORKER: list[Stream] = []  # what a process that decodes was given


def _take(stream: Stream):
    _OF_WORKER[:] = [stream]
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A process that was killed cannot end its workers, and they would wait for work forever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _decode(row: dict, *place: int) -> tuple[Any, Any] | str:
    return _OF_WORKER[0].decode(row, *place)


def choose_stream_splits(
    reading: Reading, decoder: Decoder, num_labels: int
) -> tuple[Stream, Rows, Rows | None, list[str]]:
    """What to train on, validate on and test on, as `choose_splits` gives it, and the names of the labels.

    Raises:
        UserError: as there; also without `data.train_samples`, and for too few shards.
    """
    settings = reading.settings
    if settings.train_samples is None:
        raise UserError("data.streaming=true needs data.train_samples, the number of samples that make an epoch")
    (split,) = open_splits(reading, {"data.train_split": settings.train_split})
    validation, used = _read_validation(split, num_labels, settings)
    test, names = None, validation.source.label_names
    if settings.test_split is not None:
        (source,) = load_named_sources(reading, {"data.test_split": settings.test_split})
        test = all_rows(name_alike(source, names, split.name, reading))
    shards = datasets.concatenate_datasets(
        [split.rows.shard(split.rows.num_shards, index) for index in range(used, split.rows.num_shards)]
    )
    return Stream(shards, split, decoder, settings), validation, test, names


def choose_any_split(reading: Reading, split: str, num_labels: int) -> Rows:
    """One set of rows as `choose_split` gives it, and of a stream with the validation samples of its training.

    Raises:
        UserError: as `choose_split`; also for the training samples of a stream.
    """
    if not reading.settings.streaming:
        return choose_split(reading, split)
    if split == "train":
        raise UserError(
            "--split train: training samples of a stream (data.streaming=true) are not kept, and without a stream "
            "others would be chosen to train on; score validation or test"
        )
    if split != "validation":
        return choose_split(reading, split)
    (train,) = open_splits(reading, {"data.train_split": reading.settings.train_split})
    return require_same_validation(_read_validation(train, num_labels, reading.settings)[0], reading)


def _read_validation(split: OpenSplit, num_labels: int, settings: Data) -> tuple[Rows, int]:
    """The first `data.validation_samples` samples, and in how many shards they are.

    What the columns of labels do not declare is taken from these samples, and from the number of labels of the model.
    """
    dataset, rows = split.rows, []
    for used in range(1, dataset.num_shards):
        missing = settings.validation_samples - len(rows)
        rows += islice(readable(dataset.shard(dataset.num_shards, used - 1), split.name), missing)
        if len(rows) == settings.validation_samples:
            split.labels.fit([split.labels.of_row(row) for row in rows])
            split.labels.number_names(num_labels)
            return all_rows(split.source_of(rows, settings.on_error)), used
    raise UserError(
        f"data.validation_samples={settings.validation_samples} leaves none of the {dataset.num_shards} shards of "
        f"{split.name} to train on: lower it, or cut the data into more files (parquet or tar; a folder of classes is "
        "one shard, however many files it has), or set data.streaming=false"
    )


def _path(value: Any) -> str | None:
    """Where a value comes from, also if the row holds its content."""
    return value.get("path") if isinstance(value, dict) else None
