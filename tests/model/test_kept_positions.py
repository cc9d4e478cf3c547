"""Position features are kept between calls: for one config and one grid, for all threads, and only while right."""

import sys
import threading

import pytest
import torch

from tests import reference
from tests.models import pixels, small_model


@pytest.mark.parametrize(
    "field",
    [{"max_frequencies": 2.0}, {"max_frequencies": [1.0, 9.0]}, {"num_frequency_bands": 4}, {"image_size": [14, 10]}],
    ids=str,
)
def test_a_changed_config_changes_the_positions(field):
    """Of a model that has already been called; with bands enough that the width stays."""
    model = small_model(num_frequency_bands=4).double()
    images = pixels(model.config, dtype=torch.float64)
    before = model(images).logits
    for name, value in field.items():
        setattr(model.config, name, value)
    expected = reference.logits(model, reference.byte_array(model.config, images))
    torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=1e-10)
    assert torch.allclose(before, expected) == (field == {"num_frequency_bands": 4})


def test_threads_get_the_positions_of_their_own_grid():
    model = small_model(num_cross_attends=1, num_blocks=1, num_self_attends_per_block=1)
    sizes = [[7, 5], [5, 7], [6, 6], [9, 4]]
    images = [torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)) for size in sizes]
    with torch.no_grad():
        expected = [model(each).logits for each in images]
    wrong, interval = [], sys.getswitchinterval()

    @torch.no_grad()
    def work(index):
        for _ in range(50):
            try:
                if not torch.allclose(model(images[index]).logits, expected[index], atol=1e-4):
                    wrong.append(index)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sizes))]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
