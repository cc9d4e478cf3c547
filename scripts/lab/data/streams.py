"""Training images that are read as they are needed, from shards (parquet or WebDataset tar files), local or on the Hub.

`datasets` streams them: in each epoch the shards are shuffled and dealt out to the processes, each process shuffles its
images with a buffer, and every image comes once. Validation images are those of the first shards, which are not
trained on; they and the test images are decoded beforehand, as without streaming.

All processes read equally many batches. Where the shards of one hold fewer images than its share of
`data.train_samples` it begins them anew, and where they hold more it leaves the rest out; the next epoch deals them out
otherwise. Where all get equally many images, an epoch has every image once.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from tqdm.auto import tqdm

from lab.data.arrays import Decoder, ImageDataset, Splits, load_split
from lab.data.images import UNUSABLE
from lab.data.sources import (
    Source,
    describe_split,
    find_columns,
    load_named_sources,
    open_splits,
    source_from_rows,
    with_good_labels,
)
from lab.errors import UserError
from lab.recipe import Data
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyImageProcessor

_AHEAD = 3  # batches that threads decode while the model is at work


class ImageStream:
    """The images to train on, `len(stream)` of them an epoch."""

    def __init__(
        self,
        shards: datasets.IterableDataset,
        columns: tuple[str, str],
        class_names: list[str],
        decoder: Decoder,
        settings: Data,
    ):
        self.shards = shards
        self.image_column, self.label_column = columns
        self.class_names = class_names
        self.decoder = decoder
        self.settings = settings
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
                f"{describe_split(self.settings.train_split, self.settings)} leaves {self.shards.num_shards} shards to "
                f"train on, fewer than the {processes} processes: cut the data into more files, best a multiple of "
                f"{processes}, or use fewer processes"
            )
        shuffled = self.shards.shuffle(seed=seed, buffer_size=self.settings.shuffle_buffer)
        share = split_dataset_by_node(shuffled, process, processes, strategy="shards")
        share.set_epoch(epoch)  # of the share: it does not take over that of the whole
        return share

    def decode(self, row: dict) -> tuple[np.ndarray, int] | None:
        """Pixels `(C, H, W)` uint8 and label of a row; of one that is not usable a `UserError`, or None to skip it."""
        encoded, label = row[self.image_column], row[self.label_column]
        path = encoded and encoded["path"]
        where = f"{path or 'an image'} of {describe_split(self.settings.train_split, self.settings)}"
        if not isinstance(label, int) or not 0 <= label < len(self.class_names):
            return self._refuse(f"{where} has label {label}; expected 0 to {len(self.class_names) - 1}")
        try:
            return self.decoder.pixels(encoded), label
        except UNUSABLE as error:
            return self._refuse(f"{where} is no usable image: {error}")

    def _refuse(self, reason: str):
        if self.settings.on_error == "raise":
            raise UserError(f"{reason}; data.on_error=skip leaves such out")
        self.left_out += 1
        tqdm.write(f"left out: {reason} ({self.left_out} so far)")


class StreamLoader:
    """A process's share of a stream as batches on its device, in place of a prepared `DataLoader`."""

    def __init__(
        self,
        stream: ImageStream,
        batch_size: int,
        batches: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        device: torch.device | str = "cpu",
    ):
        """
        Args:
            batch_size: images in a batch of one process.
            batches: how many an epoch has.
        """
        self.stream, self.batch_size, self.batches, self.seed = stream, batch_size, batches, seed
        self.process, self.processes, self.device = process, processes, torch.device(device)
        self.epoch = 0

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int):
        """Images come in another order, and from other shards, in each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return self.from_batch(0)

    def from_batch(self, done: int) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of the epoch from number `done` on: exactly what follows when nothing is interrupted.

        Images before that are read again, but not decoded. The `state_dict` of `datasets` would be faster and not
        exact, as it does not hold the images in the shuffle buffer.
        """
        rows = self._rows()
        for _ in islice(rows, done * self.batch_size):
            pass
        with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it decodes and resizes

            def start() -> list:
                return [pool.submit(self.stream.decode, row) for row in islice(rows, self.batch_size)]

            started = deque(start() for _ in range(min(_AHEAD, self.batches - done)))
            for batch in range(done, self.batches):
                images = [image for image in (image.result() for image in started.popleft()) if image is not None]
                if not images:
                    raise UserError("a whole batch of images had to be left out: the data is not usable")
                # Others of the batch stand in for those left out, so that a resumed run finds its place by counting.
                images = list(islice(cycle(images), self.batch_size))
                if batch + _AHEAD < self.batches:
                    started.append(start())
                pixels, labels = zip(*images, strict=True)
                yield {"pixels": self._to_device(np.stack(pixels)), "labels": self._to_device(np.array(labels))}

    def _rows(self) -> Iterator[dict]:
        share = self.batches * self.batch_size
        while True:
            rows = self.stream.read(self.seed, self.epoch, self.process, self.processes)
            count = 0
            for row in rows:
                count += 1
                yield row
            # Shards differ a little. More than one shard too few is a wrong number in the recipe.
            if share - count > count / rows.num_shards:
                raise UserError(
                    f"data.train_samples={len(self.stream)} asks for {share} images an epoch from process "
                    f"{self.process}, but its {rows.num_shards} shards hold {count}: set it to the number of images in "
                    "the train split, less those of the validation shards"
                )

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def load_streams(settings: Data, config: PerceiverStudyConfig, processor: PerceiverStudyImageProcessor) -> Splits:
    """As `load_splits`, but `train` is an `ImageStream`.

    Raises:
        UserError: as `load_splits`; also without `data.train_samples`, and for too few shards.
    """
    if settings.train_samples is None:
        raise UserError("data.streaming=true needs data.train_samples, the number of images that make an epoch")
    dataset, columns, names = _open_train(settings, config)
    validation, used = _read_validation(dataset, columns, names, settings)
    decoder = Decoder(settings, config, processor)
    test = None
    if settings.test_split is not None:
        (source,) = load_named_sources(settings, {"data.test_split": settings.test_split})
        source = with_good_labels(dataclasses.replace(source, class_names=names), settings.on_error)
        test = decoder.decode(source, np.arange(len(source.labels)))
    shards = datasets.concatenate_datasets(
        [dataset.shard(dataset.num_shards, index) for index in range(used, dataset.num_shards)]
    )
    return Splits(
        validation=decoder.decode(validation, np.arange(len(validation.labels))),
        train=ImageStream(shards, columns, names, decoder, settings),
        test=test,
        class_names=names,
    )


def load_stream_split(
    settings: Data, config: PerceiverStudyConfig, processor: PerceiverStudyImageProcessor, split: str
) -> tuple[ImageDataset, list[str]]:
    """As `load_split`, with the validation images of `load_streams`."""
    if split == "train":
        raise UserError(
            "--split train: with data.streaming=true training images are not kept; add data.streaming=false"
        )
    if split != "validation":
        return load_split(settings, config, processor, split)
    dataset, columns, names = _open_train(settings, config)
    validation, _ = _read_validation(dataset, columns, names, settings)
    return Decoder(settings, config, processor).decode(validation, np.arange(len(validation.labels))), names


def _open_train(
    settings: Data, config: PerceiverStudyConfig
) -> tuple[datasets.IterableDataset, tuple[str, str], list[str]]:
    """The encoded rows of the train split, their columns of images and of labels, and the names of the classes."""
    (dataset,) = open_splits(settings, {"data.train_split": settings.train_split})
    if isinstance(dataset, Source):
        raise UserError(f"data.streaming=true: {settings.name} has no shards to stream; set it to false")
    columns = find_columns(dataset.features, settings, describe_split(settings.train_split, settings))
    # Bare numbers do not say how many there are.
    names = getattr(dataset.features[columns[1]], "names", None) or [str(label) for label in range(config.num_labels)]
    encoded = dataset.select_columns(list(columns)).cast_column(columns[0], datasets.Image(decode=False))
    return encoded, columns, names


def _read_validation(
    dataset: datasets.IterableDataset, columns: tuple[str, str], names: list[str], settings: Data
) -> tuple[Source, int]:
    """The first `data.validation_samples` images, and in how many shards they are."""
    name = describe_split(settings.train_split, settings)
    rows = []
    for used in range(1, dataset.num_shards):
        missing = settings.validation_samples - len(rows)
        rows += islice(dataset.shard(dataset.num_shards, used - 1), missing)
        if len(rows) == settings.validation_samples:
            source = source_from_rows(rows, columns, names, name)
            return with_good_labels(source, settings.on_error), used
    raise UserError(
        f"data.validation_samples={settings.validation_samples} leaves none of the {dataset.num_shards} shards of "
        f"{name} to train on: lower it, or cut the data into more files"
    )
