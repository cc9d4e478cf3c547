"""Several inputs beside others, and many output queries: tiny ones, and what the tables say of them."""

import json

import pytest
import torch

import benchmark_inputs
from lab.errors import UserError
from lab.peers import several_inputs, several_measured
from lab.peers.contenders import GENERAL, OURS
from lab.peers.decoding import AT_ONCE, CHUNKS, measure_decoding
from lab.peers.results import decoding_table, inputs_table
from lab.peers.several_inputs import TRANSFORMERS, VideoWithSound, agreement
from lab.peers.several_measured import measure_series

pytestmark = pytest.mark.slow

TINY = {"size": 16, "samples": 64, "num_latents": 4, "d_latents": 16, "num_frequency_bands": 3}
RUN = {"hardware": "a machine", "load_average": 5.0, "cores": 2, "limit_gigabytes": 6.0, "rounds": 1}
NAMES = [OURS, GENERAL, TRANSFORMERS]


@pytest.mark.parametrize("patch", [(1, 1, 1), (2, 4, 4)], ids=str)
def test_contenders_do_the_same_work(patch):
    assert agreement(VideoWithSound(4, patch, **TINY)) < 1e-5


def test_contenders_that_do_other_work_are_refused(monkeypatch):
    monkeypatch.setattr(several_inputs, "_copy_weights", lambda ours, their: None)
    with pytest.raises(UserError, match="latents differ"):
        agreement(VideoWithSound(4, **TINY))


def test_what_no_longer_fits_is_recorded(monkeypatch):
    taken = {OURS: 1.0, GENERAL: 2048.0, TRANSFORMERS: 4000.0}
    monkeypatch.setattr(
        several_measured, "in_own_process", lambda _, name, *__: dict.fromkeys(("forward", "step"), taken[name])
    )
    series = [VideoWithSound(frames, **TINY) for frames in (2, 4, 8)]
    results = dict(measure_series(series, NAMES, "cpu", 1, limit_gigabytes=4.0, timed_frames=4))
    two, four, eight = results.values()
    assert set(two["step"]) == set(NAMES) and two["step"][OURS]["times_ours"] == 1
    growth = series[1].elements / series[0].elements
    assert four["does_not_fit"] == {TRANSFORMERS: pytest.approx(4000 / 1024 * growth)}
    assert set(four["step"]) == {OURS, GENERAL}
    assert "milliseconds" in four["step"][OURS] and "milliseconds" not in eight["step"][OURS]
    table = inputs_table(RUN | {"cases": results})
    assert "2 cores at a load of 5.0, so compare times only within a case" in table
    assert "more than 6 GB does not fit" in table
    assert f"| {TRANSFORMERS} | | | | does not fit: {4000 / 1024 * growth:.1f} GB for a step | | |" in table


def test_memory_of_an_array_is_seen():
    case = VideoWithSound(4, size=96, samples=64, num_latents=32, d_latents=64)
    ours, theirs = (several_measured._peaks(name, case, "cpu") for name in (OURS, TRANSFORMERS))
    assert theirs["forward"] > 2 * case.array_megabytes > 4 * ours["forward"]
    assert theirs["step"] > theirs["forward"]


def test_the_command_writes_and_prints_tables(tmp_path, monkeypatch, capsys):
    def tiny(frames, *arguments, **sound):
        return VideoWithSound(frames, *arguments, **sound | TINY)

    monkeypatch.setattr(benchmark_inputs, "VideoWithSound", tiny)
    monkeypatch.setattr(several_measured, "in_own_process", lambda *_: dict.fromkeys(("forward", "step"), 1.0))
    options = ["--frames", "1", "--rounds", "1", "--contenders", OURS, "--edges", "4", "--output", str(tmp_path)]
    benchmark_inputs.main(options)
    printed = capsys.readouterr().out
    for name, table in (("inputs", inputs_table), ("decoding", decoding_table)):
        assert table(json.loads((tmp_path / f"{name}.json").read_text())) in printed


def test_memory_of_decoding_is_measured():
    results = measure_decoding([4, 40], "cpu", limit_gigabytes=1e-9)
    assert set(results) == {"16", "1600"}
    assert results["1600"][CHUNKS]["step_megabytes"] >= 0
    assert results["1600"][AT_ONCE].keys() == {"does_not_fit"}
    table = decoding_table(RUN | {"queries": results})
    assert table.count("| 1,600 |") == 2 and "does not fit" in table


def test_inputs_are_of_the_size_that_they_say():
    case = VideoWithSound(16)
    video, sound = case.clip("cpu")
    assert video.shape == (1, 16, 3, 224, 224) and sound.shape == (1, 16_000)
    assert case.elements == 802_816 + 1_000
    assert VideoWithSound(16, (2, 8, 8)).elements == 6_272 + 1_000
    array = VideoWithSound(2, **TINY)
    model = several_inputs.Ours(array, "general")
    with torch.no_grad():
        assert model(*array.clip("cpu")).shape == (1, 4, 16)
