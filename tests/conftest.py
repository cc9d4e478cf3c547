"""What pytest has to know before it collects, and what no test leaves behind."""

import pytest
import torch
from transformers.utils import logging

from tests.transformers_mixins import markers


def pytest_configure(config):
    for name in markers():
        config.addinivalue_line("markers", f"{name}: of transformers' common tests")


@pytest.fixture(autouse=True)
def settings_of_the_process():
    """Commands silence transformers and choose the precision of products for their process, here that of all tests."""
    verbosity, precision = logging.get_verbosity(), torch.get_float32_matmul_precision()
    yield
    logging.set_verbosity(verbosity)
    torch.set_float32_matmul_precision(precision)
