"""Commands that measure for long see to it before that what they find can be written."""

import importlib

import pytest

from lab.errors import UserError
from tests.paths import ROOT

ARRAYS = ["--config", str(ROOT / "configuration" / "fsdd.yaml")]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("benchmark", []),
        ("benchmark_arrays", ARRAYS),
        ("benchmark_inputs", []),
        ("benchmark_large", []),
        ("benchmark_text", []),
        ("study", []),
        ("time_to_accuracy", []),
    ],
)
def test_a_file_is_no_folder_for_results(command, arguments, tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(UserError, match=r"^--output .*file.* cannot be made a folder .*: name another$"):
        importlib.import_module(command).main([*arguments, "--output", str(file)])
    assert file.read_text() == "old"
