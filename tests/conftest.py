"""What pytest has to know before it collects, and what no test leaves behind."""

import pytest
from transformers.utils import logging

from tests.transformers_mixins import markers


def pytest_configure(config):
    for name in markers():
        config.addinivalue_line("markers", f"{name}: of transformers' common tests")


@pytest.fixture(autouse=True)
def verbosity():
    """Commands silence transformers for their whole process, which here is that of all tests."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)
