import json

import pytest

import gather
from lab.errors import UserError


def test_a_table_of_files_of_all_three_kinds(tmp_path):
    contents = {
        "metrics": {"test_accuracy": 0.5, "validation_accuracy": 0.9},
        "evaluation": {"accuracy": 0.7},
        "fused": {"scores": {"one": {"accuracy": 0.1}, "mean": {"accuracy": 0.9}}},
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [str(tmp_path / f"{name}.json") for name in contents]
    gather.main(["--line", "all", *files, "--line", "one", files[0], "--output", str(tmp_path / "table.md")])
    assert (tmp_path / "table.md").read_text().splitlines() == [
        "| | accuracy | seeds |",
        "|---|---:|---:|",
        "| all | 70.00 ± 20.00 % | 3 |",
        "| one | 50.00 % | 1 |",
    ]
    assert json.loads((tmp_path / "table.json").read_text())["all"] == [0.5, 0.7, 0.9]


def test_files_without_a_score_are_refused(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    for file, message in ((tmp_path / "other.json", "has no accuracy"), (tmp_path / "none.json", "cannot be read")):
        with pytest.raises(UserError, match=message):
            gather.main(["--line", "x", str(file), "--output", str(tmp_path / "table.md")])
