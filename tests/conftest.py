"""What pytest has to know before it collects."""

from tests.transformers_mixins import markers


def pytest_configure(config):
    for name in markers():
        config.addinivalue_line("markers", f"{name}: of transformers' common tests")
