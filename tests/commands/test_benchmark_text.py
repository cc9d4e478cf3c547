"""The benchmark of masked language models and tokenizers, tiny."""

import pytest

import benchmark_text
from lab.errors import UserError
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


@pytest.mark.parametrize("from_file", [True, False])
def test_tokenizers_give_the_same_ids(from_file, tmp_path, capsys):
    arguments = ["--part", "tokenizer", "--lines", "30", "--rounds", "1"]
    if from_file:
        (tmp_path / "lines.txt").write_text("two\n\nlinés [MASK]\n", encoding="utf-8")
        arguments += ["--data", str(tmp_path / "lines.txt")]
    benchmark_text.main(arguments)
    printed = capsys.readouterr().out
    assert printed.startswith("2 lines of 8 bytes" if from_file else "30 lines of ")
    assert printed.count("lines a second") == 2 and "same ids" in printed


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe"])
def test_a_file_without_text(content, tmp_path):
    if content is not None:
        (tmp_path / "lines.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"--data .*lines.txt (is not a readable|holds no) text"):
        benchmark_text.main(["--part", "tokenizer", "--data", str(tmp_path / "lines.txt")])
