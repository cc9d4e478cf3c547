"""What pytest has to know before it collects, and what no test leaves behind."""

import gc
import os
from types import SimpleNamespace

import datasets
import pytest
import torch
from transformers.utils import logging

from lab.release import staging
from lab.training import run_folder
from tests import fresh_processes, processes
from tests.transformers_mixins import markers


def pytest_configure(config):
    for name in markers():
        config.addinivalue_line("markers", f"{name}: of transformers' common tests")


def pytest_collection_finish():
    """Let the collector, which runs at the end of each command, pass by modules and tests, which stay."""
    gc.collect()
    gc.freeze()


# So long it waits at the end of each epoch of a stream, lest the process ends before the threads of pyarrow do.
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0

# A third of the time of a tiny run is its picture; test_what_can_be_watched and tests/training/test_curves.py draw it.
run_folder.draw_curves = processes.draw_a_dot

# A process is started for each folder that is published, to load it; two tests of test_publish.py start it as it is.
staging.subprocess = SimpleNamespace(run=fresh_processes.run)

# Processes of pytest-xdist that all use all cores wait for each other: some tests then take ten times as long.
torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))))

# Commands choose for their process, here that of all tests, what transformers prints and how products are computed.
VERBOSITY, PRECISION, THREADS = logging.get_verbosity(), torch.get_float32_matmul_precision(), torch.get_num_threads()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """A GPU where there is one, so that the tests that ask for it run there unchanged; otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def settings_of_the_process():
    """After each test they are as they were before all tests, also if a fixture of its module ran a command."""
    yield
    logging.set_verbosity(VERBOSITY)
    torch.set_float32_matmul_precision(PRECISION)
    torch.set_num_threads(THREADS)
