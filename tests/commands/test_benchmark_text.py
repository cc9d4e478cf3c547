"""The benchmark of masked language models, tiny."""

import pytest

from lab.peers.masked_lm import OFFICIAL, masked_lm_table, measure

TINY = OFFICIAL | {
    "num_latents": 8,
    "d_latents": 32,
    "d_model": 16,
    "num_self_attends_per_block": 1,
    "qk_channels": 16,
    "v_channels": 32,
    "max_position_embeddings": 64,
}


@pytest.mark.slow
def test_a_tiny_run():
    lengths = measure(TINY, [10, 64], rounds=1)
    assert list(lengths) == ["10", "64"]
    for contenders in lengths.values():
        ours, theirs = contenders.values()
        assert ours["parameters"] == theirs["parameters"] and ours["step_times_ours"] == 1
        assert all(value >= 0 for value in theirs.values())
    about = {"hardware": "one", "cores": 2, "load_average": 9.0, "rounds": 1, "lengths": lengths}
    table = masked_lm_table(about)
    assert "at a load of 9.0" in table and len(table.splitlines()) == 8
