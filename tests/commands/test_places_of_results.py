"""Commands that measure for long see to it before that what they find can be written."""

import importlib

import pytest

from lab.errors import UserError
from lab.peers.contenders import OURS
from tests.paths import ROOT

ARRAYS = ["--config", str(ROOT / "configuration" / "fsdd.yaml")]


def too_early(*_, **__):
    raise AssertionError("nobody has asked yet whether results can be written")


@pytest.mark.parametrize(
    ("command", "work", "arguments"),
    [
        ("benchmark", "product_rates", []),
        ("benchmark_arrays", "measure", ARRAYS),
        ("benchmark_inputs", "measure_series", []),
        ("benchmark_large", "measure_large", []),
        ("benchmark_text", "measure", []),
        ("study", "measure", []),
        ("time_to_accuracy", "measure", ["--racers", OURS]),
    ],
)
def test_a_file_is_no_folder_for_results(command, work, arguments, tmp_path, monkeypatch):
    command = importlib.import_module(command)
    monkeypatch.setattr(command, work, too_early)
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(UserError, match=r"^--output .*file.* cannot be made a folder .*: name another$"):
        command.main([*arguments, "--output", str(file)])
    assert file.read_text() == "old"
