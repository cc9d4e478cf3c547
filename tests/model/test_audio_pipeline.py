"""`pipeline("audio-classification")` with everything that a recording may be, as the Hub's widget and people use it."""

import io
import os

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForAudioClassification, pipeline

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyFeatureExtractor,
    PerceiverStudyForAudioClassification,
)
from tests.fresh_processes import python
from tests.model.test_loading import ASSERT_NOT_IMPORTABLE

pytestmark = pytest.mark.slow

RATE, LENGTH = 8000, 2000
SETTINGS = {
    "waveform": ({}, {"num_axes": 1, "image_size": LENGTH, "patch_size": 100}),
    "log-mel": (
        {"feature_type": "log-mel", "num_mel_bins": 8, "frame_length": 200, "hop_length": 100},
        {"num_axes": 2, "image_size": [21, 8], "patch_size": [1, 4]},
    ),
}


def save(folder, kind, channels=1):
    of_extractor, of_model = SETTINGS[kind]
    extractor = PerceiverStudyFeatureExtractor(channels, RATE, max_length=LENGTH, **of_extractor)
    config = PerceiverStudyConfig(
        input_name="input_values",
        num_channels=channels,
        num_latents=6,
        d_latents=16,
        num_self_attends_per_block=1,
        num_self_attention_heads=2,
        num_frequency_bands=3,
        num_labels=4,
        initializer_range=0.3,
        **of_model,
    )
    torch.manual_seed(0)
    model = PerceiverStudyForAudioClassification(config).eval()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model, extractor


@pytest.fixture(scope="module", params=SETTINGS)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    model, extractor = save(folder, request.param)
    classify = pipeline("audio-classification", model=str(folder), trust_remote_code=True)
    return folder, model, extractor, classify


def noise(length, seed=0):
    return np.random.default_rng(seed).normal(size=length).astype(np.float32) / 10


def encoded(samples, rate=RATE, format="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype="FLOAT" if format == "WAV" else None)
    return file.getvalue()


def expected(model, extractor, samples):
    """Probabilities by name: the mean of the logits of windows that cover the recording, with their shares."""
    channels = torch.as_tensor(samples, dtype=torch.float32).reshape(extractor.feature_size, -1)
    windows, shares = extractor.windows(channels)
    with torch.no_grad():
        logits = torch.cat([model(**extractor(window[None], return_tensors="pt")).logits for window in windows])
    logits = (shares[:, None].float() * logits).sum(dim=0)
    return {f"LABEL_{number}": score for number, score in enumerate(logits.softmax(dim=-1).tolist())}


def assert_answers(answers, probabilities, tolerance=1e-5):
    scores = [entry["score"] for entry in answers]
    assert scores == sorted(scores, reverse=True) and len(answers) == 4
    for entry in answers:
        assert entry["score"] == pytest.approx(probabilities[entry["label"]], abs=tolerance)


@pytest.mark.parametrize("form", ["array", "tensor", "bytes", "path", "Path", "dict", "dict of bytes"])
def test_forms(saved, form, tmp_path):
    _, model, extractor, classify = saved
    samples = noise(1500)
    path = tmp_path / "sound.wav"
    path.write_bytes(encoded(samples))
    given = {
        "array": samples,
        "tensor": torch.from_numpy(samples),
        "bytes": encoded(samples),
        "path": str(path),
        "Path": path,
        "dict": {"array": samples, "sampling_rate": RATE},
        "dict of bytes": {"bytes": encoded(samples), "path": None},
    }[form]
    assert_answers(classify(given), expected(model, extractor, samples))


def test_other_rates_and_channels(saved):
    _, model, extractor, classify = saved
    samples = noise(3000)
    for given in (encoded(samples, 2 * RATE), {"array": samples, "sampling_rate": 2 * RATE}):
        assert_answers(classify(given), expected(model, extractor, extractor.read(given)))
    stereo = np.stack([noise(1000), noise(1000, 1)])
    mean = expected(model, extractor, stereo.mean(axis=0))
    for given in ({"array": stereo, "sampling_rate": RATE}, encoded(stereo.T)):
        assert_answers(classify(given), mean)
    assert_answers(classify([stereo])[0], mean)


def test_an_array_of_two_axes(saved):
    """To a model of one channel the extractor takes it for recordings, and files of that shape are channels of one."""
    _, model, extractor, classify = saved
    waves = np.stack([noise(1000), noise(1000, 1)])
    for given in (waves, torch.from_numpy(waves)):
        with pytest.raises(ValueError, match=r"inputs have shape \(2, 1000\), which may be .* expected list\(inputs\)"):
            classify(given)
        for answers, samples in zip(classify(list(given)), waves, strict=True):
            assert_answers(answers, expected(model, extractor, samples))
        assert classify(given[:1]) == classify(waves[0])
        for answers in classify(torch.from_numpy(np.stack([waves, waves]))):
            assert_answers(answers, expected(model, extractor, waves.mean(axis=0)))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_and_long_recordings(saved, batch_size):
    _, model, extractor, classify = saved
    recordings = [noise(length, seed=length) for length in (300, 7 * LENGTH + 13, LENGTH, LENGTH + 1, 1)]
    for answers, samples in zip(classify(recordings, batch_size=batch_size), recordings, strict=True):
        assert_answers(answers, expected(model, extractor, samples), 1e-4)


def test_options(saved):
    classify = saved[-1]
    assert len(classify(noise(500), top_k=2)) == 2
    raw = classify(noise(500), function_to_apply="none")
    assert sum(entry["score"] for entry in raw) != pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(saved, dtype):
    folder, model, extractor, _ = saved
    classify = pipeline("audio-classification", model=str(folder), trust_remote_code=True, dtype=dtype)
    assert_answers(classify(noise(1500)), expected(model, extractor, noise(1500)), 0.05)


@pytest.mark.parametrize("given", [np.zeros(0), np.array([np.nan]), b"no sound", "/nowhere.wav", {"array": noise(9)}])
def test_what_is_refused(saved, given):
    with pytest.raises(ValueError, match="recording"):
        saved[-1](given)


@pytest.mark.parametrize("is_cut", [True, False])
@pytest.mark.parametrize("kind", ["waveform", "log-mel"])
def test_several_channels(tmp_path, kind, is_cut):
    model, extractor = save(tmp_path, kind, channels=2)
    classify = pipeline("audio-classification", model=str(tmp_path), trust_remote_code=True)
    if not is_cut:  # then windows are as long as recordings
        extractor.max_length = classify.feature_extractor.max_length = None
    recordings = [np.stack([noise(length), noise(length, 1)]) for length in (300, 900, 2 * LENGTH)]
    for answers, samples in zip(classify(recordings, batch_size=3), recordings, strict=True):
        assert_answers(answers, expected(model, extractor, samples))


def test_it_loads_without_the_package(saved, tmp_path):
    folder, model, extractor, _ = saved
    program = f"""{ASSERT_NOT_IMPORTABLE}
import numpy as np
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline
folder = sys.argv[1]
answers = pipeline("audio-classification", model=folder, trust_remote_code=True)(np.load(sys.argv[2]))
print(answers[0]["label"], answers[0]["score"])
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
for auto_class in (AutoModel, AutoModelForAudioClassification):
    auto_class.from_pretrained(folder, trust_remote_code=True)(**extractor(np.ones(300), return_tensors="pt"))
"""
    np.save(tmp_path / "sound.npy", noise(1500))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    arguments = ["-c", program, str(folder), str(tmp_path / "sound.npy")]
    done = python(*arguments, folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    label, score = done.stdout.split()
    assert float(score) == pytest.approx(expected(model, extractor, noise(1500))[label], abs=1e-5)


def test_a_device_map(saved):
    folder, model, extractor, _ = saved
    loaded = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True, device_map="auto")
    features = extractor(noise(700), return_tensors="pt").to(loaded.device)
    torch.testing.assert_close(loaded(**features).logits.cpu(), model(**features.to("cpu")).logits)
