"""Very large inputs, here small ones: what is measured, and what the table says."""

import json

import pytest
import torch

import benchmark_large

pytestmark = pytest.mark.slow


def test_every_input(tmp_path, capsys):
    for library in ("soundfile", "av"):
        pytest.importorskip(library)
    threads = torch.get_num_threads()
    try:
        benchmark_large.main(["--points", "3000", "--hours", "0.001", "--minutes", "0.02", "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / "large.json").read_text())["inputs"]
    assert len(found) == 5
    for one in found.values():
        assert one["seconds"] > 0 and one["megabytes"] >= 0
    results = [one["result_megabytes"] for one in found.values()]
    taken = 1024 * (3 * 4 + 8) / 2**20  # float32 coordinates and a mask of int64
    assert results[:2] == [pytest.approx(taken)] * 2 and results[2] > 2 * taken
    table = (tmp_path / "large.md").read_text()
    assert table in capsys.readouterr().out and "| 3,000 points, 1,024 taken by distance |" in table
