"""Processes that read ahead change no batch, and are started where samples are not in memory."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from lab.data.arrays import ArrayDataset
from lab.data.decoded_images import ImageDataset
from lab.data.loaders import EpochLoader, Place, evaluation_loader
from tests.small_data import fresh_accelerate

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)


def images(tmp_path, mapped):
    pixels = PIXELS
    if mapped:
        np.save(tmp_path / "pixels.npy", PIXELS)
        pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    broken = np.arange(20) == 5
    return ImageDataset(pixels, np.arange(20), broken)


@pytest.mark.parametrize("mapped", [False, True])
def test_workers_change_no_batch(tmp_path, mapped, monkeypatch):
    dataset, started = images(tmp_path, mapped), []
    make = DataLoader.__init__

    def watched(self, *arguments, num_workers=0, **more):
        started.append(num_workers)
        make(self, *arguments, num_workers=num_workers, **more)

    monkeypatch.setattr(DataLoader, "__init__", watched)
    place = Place(0, 1, torch.device("cpu"))
    loaders = [EpochLoader(dataset, 4, 2, 0, place, workers) for workers in (0, 2)]
    batches = [list(loader.batches(1, 4)) for loader in loaders]
    assert len(batches[0]) == len(batches[1]) == 6
    for one, two in zip(*batches, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in ("pixels", "labels"))
    fresh_accelerate()
    judged = [list(evaluation_loader(Accelerator(cpu=True), dataset, 8, workers)) for workers in (0, 2)]
    for one, two in zip(*judged, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in ("pixels", "labels"))
    assert 5 not in torch.cat([batch["labels"] for batch in judged[0]])
    assert max(started) == (2 if mapped else 0)


def test_arrays_are_in_memory():
    assert ArrayDataset(np.arange(3), x=np.zeros(3)).in_memory
