"""Pauses around recordings, and noise."""

import json

import numpy as np
import pytest

import robustness
import train
from lab.errors import UserError
from lab.study.sounds import DECIBELS, PAUSES, in_noise, in_silence
from tests.small_data import fresh_accelerate
from tests.task_kinds import KINDS


@pytest.mark.parametrize("channels", [1, 2])
def test_silence_around_a_recording(channels):
    samples = np.ones((10, channels), np.float32)
    changed = in_silence(samples, 3)
    assert changed.shape == (16, channels) and changed.dtype == np.float32
    assert changed[3:13].all() and not changed[:3].any() and not changed[13:].any()


@pytest.mark.parametrize("decibels", [0.0, 20.0])
@pytest.mark.parametrize("length", [1, 2, 8000])
def test_noise_lies_as_far_below_as_it_says(length, decibels):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(length, 1)).astype(np.float32)
    noise = in_noise(samples, decibels, rng) - samples
    assert noise.dtype == np.float32 and np.isfinite(noise).all()
    if length > 2:
        assert 10 * np.log10(samples.var() / noise.var()) == pytest.approx(decibels, abs=0.1)
        loud = np.abs(np.fft.rfft(noise[:, 0])) ** 2
        assert loud[100:200].mean() / loud[1600:3200].mean() == pytest.approx(16, rel=0.3)
    assert np.array_equal(in_noise(0 * samples, decibels, rng), 0 * samples)


@pytest.mark.slow
def test_the_command(tmp_path):
    KINDS["spectrograms"].write_data(tmp_path / "data")
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    where = [f"data.path={tmp_path / 'data'}", "logging.log_with=null"]
    fresh_accelerate()
    run, command = str(tmp_path / "run"), [f"--config={tmp_path / 'plain.yaml'}", *where, *KINDS["spectrograms"].recipe]
    train.main([*command, "optimization.epochs=10", f"output_dir={run}"])
    robustness.main([run, "--output", str(tmp_path / "found")])
    results = json.loads((tmp_path / "found" / "robustness.json").read_text())
    silent, noisy = results["pauses"]
    (noise,) = results["noise"]
    tested = json.loads((tmp_path / "run" / "metrics.json").read_text())["test_accuracy"]
    assert silent["places"] == noisy["places"] == list(PAUSES) and silent["accuracies"][0] == pytest.approx(tested)
    assert noise["places"] == list(DECIBELS) and noise["accuracies"][0] == pytest.approx(tested, abs=0.05)
    table = (tmp_path / "found" / "robustness.md").read_text()
    assert f"| 0 s | {100 * tested:.1f} %" in table and "| 0 dB below |" in table
    assert (tmp_path / "found" / "robustness.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="--samples is for images: leave it out for recordings"):
        robustness.main([run, "--samples", "5"])
