"""Batches on a device: those of an epoch of training from any sample on, and those of an evaluation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, default_convert

from lab.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where batches go: one process of several, and its device."""

    process: int
    processes: int
    device: torch.device

    @classmethod
    def of(cls, accelerator: Accelerator) -> "Place":
        """That of the calling process."""
        return cls(accelerator.process_index, accelerator.num_processes, accelerator.device)

    @property
    def pins_memory(self) -> bool:
        """Whether copies to the device are faster from pinned memory."""
        return self.device.type == "cuda"

    def move(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch on the device."""
        return {name: tensor.to(self.device, non_blocking=self.pins_memory) for name, tensor in batch.items()}


class EpochLoader:
    """A process's share of the batches of an epoch, in an order that depends on seed and epoch alone.

    An epoch goes on from any number of samples, whatever the batch size was until there. What is left at its end and
    makes no whole batch is left out, others each time: a smaller last step would weigh its samples more.
    """

    def __init__(self, dataset: Dataset, batch_size: int, parts: int, seed: int, place: Place, workers: int = 0):
        """
        Args:
            batch_size: samples of an optimiser step, over all processes and parts.
            parts: how many a process cuts its share of a batch into.
            workers: processes that read ahead samples that are not in memory; 0 reads in this one.
        """
        self.dataset, self.batch_size, self.parts, self.seed = dataset, batch_size, parts, seed
        self.place, self.workers = place, workers

    def steps_left(self, done: int) -> int:
        """How many batches an epoch still has after `done` of its samples."""
        return (len(self.dataset) - done) // self.batch_size

    def batches(self, epoch: int, done: int) -> Iterator[dict[str, torch.Tensor]]:
        """The parts of all batches of the epoch after `done` of its samples.

        A dataset that changes samples at random while it reads them has `in_epoch(seed, epoch)`, see `Splits`.
        """
        in_epoch = getattr(self.dataset, "in_epoch", None)
        dataset = in_epoch(self.seed, epoch) if in_epoch else self.dataset
        order = epoch_order(self.dataset, self.seed, epoch)
        steps = self.steps_left(done)
        # Part after part of a batch, and in each part process after process, so that neither number changes a batch.
        shape = (steps * self.parts, self.place.processes, -1)
        share = order[done : done + steps * self.batch_size].reshape(shape)[:, self.place.process] if steps else []
        loader = DataLoader(
            dataset,
            batch_sampler=[rows.tolist() for rows in share],
            collate_fn=default_convert,
            num_workers=_workers(self.dataset, self.workers),
            pin_memory=self.place.pins_memory,
        )
        return map(self.place.move, plainly(loader))


_BUCKET, _SORTED = 64, 32  # samples of about one length that stay together, and such buckets that are sorted together


def epoch_order(dataset: Dataset, seed: int, epoch: int) -> np.ndarray:
    """`(n,)`: the samples of an epoch in random order, those of a dataset `in_buckets` beside others of their length.

    Of such a dataset, in random order, as many samples as some buckets hold are sorted by length and cut into buckets,
    which are shuffled: batches then need little padding, and the order does not depend on their size. Those that fill
    no bucket come last, and are drawn before any are sorted: so any may be among those that an epoch leaves out.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(dataset))
    if not getattr(dataset, "in_buckets", False):
        return order
    filled = len(order) - len(order) % _BUCKET
    buckets = []
    for first in range(0, filled, _BUCKET * _SORTED):
        some = order[first : min(first + _BUCKET * _SORTED, filled)]
        buckets += some[np.argsort(dataset.lengths[some], kind="stable")].reshape(-1, _BUCKET).tolist()
    places = rng.permutation(len(buckets))
    return np.array([*(row for place in places for row in buckets[place]), *order[filled:]], dtype=order.dtype)


def plainly(batches: Iterable) -> Iterator:
    """The batches; a `UserError` of a worker without the traceback that torch puts in front of it."""
    try:
        yield from batches
    except UserError as error:
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


def evaluation_loader(accelerator: Accelerator, dataset: Dataset, batch_size: int, workers: int = 0) -> DataLoader:
    """All samples in order, prepared by `accelerator`, in batches of `batch_size` over all processes."""
    pin = accelerator.device.type == "cuda"
    workers = _workers(dataset, workers)
    loader = DataLoader(dataset, batch_size, collate_fn=default_convert, num_workers=workers, pin_memory=pin)
    return accelerator.prepare(loader)


def _workers(dataset: Dataset, wanted: int) -> int:
    """Processes that read ahead: none for samples in memory, where copying between processes takes longer."""
    return 0 if getattr(dataset, "in_memory", False) else wanted
