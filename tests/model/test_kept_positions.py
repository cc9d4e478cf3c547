"""Position features are kept between calls: for one config and one grid, for all threads, and only while right."""

import sys
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling_perceiver_study.position import fourier_axis_features
from tests import reference
from tests.models import pixels, small_model

CHANGES = [
    {"max_frequencies": 2.0},
    {"max_frequencies": [1.0, 9.0]},
    {"num_frequency_bands": 6},
    {"concat_positions": False},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_changed_config_changes_them(change):
    """Of a model that has already been called."""
    model = small_model().double()
    config, images = model.config, pixels(model.config, dtype=torch.float64)
    before, width = model(images).logits, config.num_input_channels
    for name, value in change.items():
        setattr(config, name, value)
    bands = (config.num_frequency_bands, config.axis_max_frequencies, config.concat_positions)
    expected = fourier_axis_features([7, 5], *bands, dtype=torch.float64)
    found = model.perceiver.inputs.fourier_features([7, 5], torch.float64, images.device)
    for axis, wanted in zip(found, expected, strict=True):
        assert torch.equal(axis[0], wanted)
    if config.num_input_channels == width:  # otherwise the weights do not fit
        logits = reference.logits(model, reference.byte_array(config, images))
        assert not torch.allclose(before, logits)
        torch.testing.assert_close(model(images).logits, logits, rtol=0, atol=1e-10)


def test_fake_tensors_are_not_kept():
    inputs = small_model(image_size=[13, 11]).perceiver.inputs
    with FakeTensorMode():
        fake = inputs.fourier_features([13, 11], torch.float32, torch.device("cpu"))
    real = inputs.fourier_features([13, 11], torch.float32, torch.device("cpu"))
    for one, other in zip(fake, real, strict=True):
        assert one.shape == other.shape
        assert type(other) is torch.Tensor


def test_threads_get_those_of_their_own_grid():
    """Often enough to meet the moment in which another thread puts its own in place."""
    inputs = small_model().perceiver.inputs
    wrong, interval = [], sys.getswitchinterval()

    def work(grid):
        for _ in range(40_000):
            features = inputs.fourier_features(grid, torch.float32, torch.device("cpu"))
            if [axis.shape[1] for axis in features] != grid:
                wrong.append(grid)

    threads = [threading.Thread(target=work, args=([size, size],)) for size in (5, 6)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
