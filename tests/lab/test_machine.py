import ctypes
import resource
import sys

import pytest
import torch

from lab.machine import keep_memory
from tests.processes import start


def _touch_memory_again_and_again():
    """Ends with an error if memory that was used before is taken anew."""

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            large, larger = torch.ones(2**20), torch.ones(2**24)  # 4 and 64 MB: 17,000 pages of 4 kB
            del large, larger
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    anew = faults()
    keep_memory()
    faults()
    assert faults() < anew / 20, anew


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt"
)
@pytest.mark.slow
def test_freed_memory_is_kept():
    process = start(_touch_memory_again_and_again)
    process.join(timeout=120)
    assert process.exitcode == 0
