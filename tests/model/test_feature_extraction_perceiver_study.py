"""Waveforms and spectrograms: against plain arithmetic, padded and alone."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, DataCollatorWithPadding
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from modeling_perceiver_study import PerceiverStudyFeatureExtractor

RATE = 8000
LOG_MEL = {"feature_type": "log-mel", "num_mel_bins": 20, "frame_length": 200, "hop_length": 80}
KINDS = {"waveform": {}, "log-mel": LOG_MEL, "log-mel of 20 dB": {**LOG_MEL, "dynamic_range": 20.0}}


def noise(length, channels=None, seed=0):
    size = length if channels is None else (channels, length)
    return np.random.default_rng(seed).normal(size=size).astype(np.float32) / 10


def extractor(**settings):
    return PerceiverStudyFeatureExtractor(sampling_rate=RATE, **settings)


def test_spectrograms_are_those_of_transformers():
    """Whose function loops over frames in numpy."""
    samples = noise(1000)
    ours = extractor(**LOG_MEL | {"frame_length": 256}, normalize=None)(samples)["input_values"][0]
    filters = mel_filter_bank(129, 20, 20.0, 4000.0, RATE, norm=None, mel_scale="htk")
    theirs = spectrogram(
        samples,
        window_function(256, "hann"),
        frame_length=256,
        hop_length=80,
        power=2.0,
        pad_mode="constant",
        mel_filters=filters,
        mel_floor=1e-10,
        log_mel="log",
    )
    assert ours.shape == (13, 20)
    np.testing.assert_allclose(ours, theirs.T, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("normalize", ["recording", "channel", "training", None])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind, normalize, channels):
    extract = extractor(feature_size=channels, normalize=normalize, mean=0.1, std=2.0, **KINDS[kind])
    recordings = [noise(length, channels, seed=length) for length in (700, 1, 333)]
    recordings = [one[0] if channels == 1 else one for one in recordings]
    batch = extract(recordings, return_tensors="pt")
    axis = 1 if channels == 1 else 2
    for row, recording in enumerate(recordings):
        alone = extract(recording, return_tensors="pt")["input_values"]
        count = int(batch["attention_mask"][row].sum())
        assert alone.shape[axis] == count
        shown = batch["input_values"][row : row + 1].narrow(axis, 0, count)
        torch.testing.assert_close(alone, shown, rtol=0, atol=1e-5)
        assert not batch["input_values"][row].narrow(axis - 1, count, batch["input_values"].shape[axis] - count).any()


@pytest.mark.parametrize("kind", KINDS)
def test_normalization(kind):
    samples = noise(4000) + (3 if kind == "waveform" else 0)
    values = extractor(normalize="recording", **KINDS[kind])(samples)["input_values"]
    assert abs(values.mean()) < 1e-4 and abs(values.std() - 1) < 1e-4
    if kind != "waveform":
        values = extractor(normalize="channel", **KINDS[kind])(samples)["input_values"][0]
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.0, 0.7, 1e-30])
@pytest.mark.parametrize("normalize", ["recording", "channel"])
@pytest.mark.parametrize("length", [1, 900])
def test_silence_and_constants_are_finite(kind, level, normalize, length):
    values = extractor(normalize=normalize, **KINDS[kind])(np.full(length, level))["input_values"]
    assert np.isfinite(values).all()
    if kind == "waveform" or level == 0.0:
        assert not values.any()


def test_what_is_too_soft_is_raised():
    samples = np.concatenate([noise(2000), noise(2000) * 1e-4])
    plain = extractor(**LOG_MEL, normalize=None)(samples)["input_values"]
    raised = extractor(**LOG_MEL, normalize=None, dynamic_range=30)(samples)["input_values"]
    floor = plain.max() - 30 * np.log(10) / 10
    np.testing.assert_allclose(raised, np.maximum(plain, floor), atol=1e-5)
    assert (raised == raised.min()).mean() > 0.4


def test_forms_of_a_batch():
    extract = extractor()
    two = np.stack([noise(50, seed=1), noise(50, seed=2)])
    expected = extract([two[0], two[1]])["input_values"]
    for given in (two, torch.from_numpy(two), two.tolist(), [{"array": one, "sampling_rate": RATE} for one in two]):
        np.testing.assert_allclose(extract(given)["input_values"], expected, atol=1e-6)
    assert extract(two[0].tolist())["input_values"].shape == (1, 50)
    assert extract(two[0])["attention_mask"].dtype == np.int64
    assert "attention_mask" not in extract(two, return_attention_mask=False)
    assert extractor(feature_size=2)(two)["input_values"].shape == (1, 2, 50)
    assert extractor(feature_size=2)(two[None])["input_values"].shape == (1, 2, 50)
    with pytest.raises(ValueError, match="There are no recordings"):
        extract([])


def test_cutting_and_padding_to_a_length():
    extract = extractor(max_length=100)
    assert extract(noise(300))["input_values"].shape == (1, 100)
    assert extract(noise(300), truncation=False)["input_values"].shape == (1, 300)
    assert extract(noise(30), padding="max_length")["input_values"].shape == (1, 100)
    assert extract(noise(30), padding="max_length", max_length=40)["attention_mask"].sum() == 30
    assert [len(one) for one in extract([noise(30), noise(40)], padding=False)["input_values"]] == [30, 40]
    with pytest.raises(ValueError, match="needs max_length"):
        extractor()(noise(30), padding="max_length")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["waveform", "log-mel"])
def test_padding_to_a_multiple(kind, channels):
    extract = extractor(feature_size=channels, padding_value=0.5, max_length=750, **KINDS[kind])
    recordings = [noise(length, channels, seed=length) for length in (700, 333)]
    recordings = [one[0] if channels == 1 else one for one in recordings]
    made = extract(recordings, return_tensors="pt")
    axis = -2 if kind == "log-mel" else -1
    for padding in (True, "max_length"):
        found = extract(recordings, padding=padding, pad_to_multiple_of=64, return_tensors="pt")
        length = found["attention_mask"].shape[1]
        assert (
            length
            == found["input_values"].shape[axis]
            == (64 if kind == "log-mel" else 704 if padding is True else 768)
        )
        for name, value, one in (("input_values", 0.5, axis), ("attention_mask", 0, 1)):
            shown = made[name].shape[one]
            torch.testing.assert_close(found[name].narrow(one, 0, shown), made[name], rtol=0, atol=1e-5)
            assert (found[name].narrow(one, shown, length - shown) == value).all()
    plain = extract(recordings, padding=False, pad_to_multiple_of=64)["attention_mask"]
    assert [mask.sum() for mask in plain] == made["attention_mask"].sum(dim=1).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_rate": 8000}, "sample_rate: expected no arguments but raw_speech, sampling_rate, padding"),
        ({"do_normalize": False}, "do_normalize: expected no arguments but"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of=0: expected None or a whole number"),
        ({"pad_to_multiple_of": 2.5}, r"pad_to_multiple_of=2\.5: expected"),
    ],
)
def test_arguments_of_a_call_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        extractor()(noise(30), **arguments)


def test_arguments_that_pipelines_give():
    """Those of transformers for speech, in full."""
    arguments = {"truncation": False, "padding": "longest", "return_attention_mask": True, "return_tensors": "pt"}
    assert extractor()(noise(30), sampling_rate=RATE, **arguments)["input_values"].shape == (1, 30)


def single(extract, recordings):
    """What is made of each recording, as data sets hold it before a collator makes batches."""
    made = [extract(one) for one in recordings]
    return [{name: values[0] for name, values in one.items()} for one in made]


@pytest.mark.parametrize("as_what", [lambda values: values, torch.from_numpy, np.ndarray.tolist])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_single_recordings_are_padded_as_batches_are(kind, channels, as_what):
    extract = extractor(feature_size=channels, padding_value=0.5, **KINDS[kind])
    recordings = [noise(length, channels, seed=length) for length in (700, 1, 333)]
    recordings = [one[0] if channels == 1 else one for one in recordings]
    expected = extract(recordings, return_tensors="pt")
    given = [{name: as_what(value) for name, value in one.items()} for one in single(extract, recordings)]
    labelled = [{**one, "label": label} for label, one in enumerate(given)]
    found = DataCollatorWithPadding(extract)(labelled)
    assert found["labels"].tolist() == [0, 1, 2]
    of_lists = {name: [one[name] for one in given] for name in given[0]}
    for batch in (found, extract.pad(of_lists, return_tensors="pt")):
        torch.testing.assert_close(batch["input_values"], expected["input_values"], rtol=0, atol=1e-5)
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    for one in given:
        del one["attention_mask"]
    assert torch.equal(extract.pad(given, return_tensors="pt")["attention_mask"], expected["attention_mask"])
    assert set(extract.pad(single(extract, recordings), return_attention_mask=False)) == {"input_values"}


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, 9),
        ({"pad_to_multiple_of": 4}, 12),
        ({"padding": "max_length", "max_length": 11}, 11),
        ({"padding": "max_length", "max_length": 11, "pad_to_multiple_of": 5}, 15),
        ({"padding": "max_length"}, 13),  # of the extractor
        ({"truncation": True, "max_length": 4}, 4),
        ({"truncation": True, "padding": "max_length", "max_length": 4}, 4),
        ({"truncation": True}, 9),
    ],
)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["waveform", "log-mel"])
def test_lengths_of_what_is_padded(kind, channels, side, options, length):
    settings = LOG_MEL | {"max_length": 12 * 80} if kind == "log-mel" else {"max_length": 13}
    extract = extractor(feature_size=channels, padding_side=side, padding_value=-1.0, **settings)
    lengths, bands = (9, 6), (20,) if kind == "log-mel" else ()
    sizes = [(*((channels,) if channels > 1 else ()), count, *bands) for count in lengths]
    given = [{"input_values": np.random.default_rng(0).random(size, np.float32)} for size in sizes]
    found = extract.pad(given, return_tensors="np", **options)
    axis = -2 if kind == "log-mel" else -1
    assert found["input_values"].shape[axis] == found["attention_mask"].shape[1] == length
    for one, values, mask in zip(given, found["input_values"], found["attention_mask"], strict=True):
        shown = min(one["input_values"].shape[axis], length)
        assert mask.tolist() == ([0] * (length - shown) + [1] * shown)[:: 1 if side == "left" else -1]
        values, first = np.moveaxis(values, axis, 0), np.moveaxis(one["input_values"], axis, 0)
        np.testing.assert_array_equal(values[mask == 1], first[:shown])
        assert (values[mask == 0] == -1).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, LOG_MEL], ids=["waveform", "log-mel"])
def test_recordings_are_padded_on_the_side_that_is_said(channels, settings):
    extract = extractor(feature_size=channels, padding_side="left", padding_value=-1.0, **settings)
    recordings = [noise(700, channels), noise(300, channels)]
    found = extract(recordings, return_tensors="pt", pad_to_multiple_of=4)
    expected = extract.pad(single(extract, recordings), return_tensors="pt", pad_to_multiple_of=4)
    torch.testing.assert_close(found["input_values"], expected["input_values"], rtol=0, atol=1e-5)
    assert torch.equal(found["attention_mask"], expected["attention_mask"]) and not found["attention_mask"][1, 0]


def test_what_is_not_padded():
    extract = extractor(**LOG_MEL)
    made = single(extract, [noise(700), noise(300)])
    assert [one.shape for one in extract.pad(made, padding=False)["input_values"]] == [(9, 20), (4, 20)]
    with pytest.raises(ValueError, match=r"shape \(1, 9, 20\): expected \(T, F\), without an axis for a batch"):
        extract.pad([dict(extract(noise(700)))])
    with pytest.raises(ValueError, match="attention_mask of a recording has 700 entries: expected 9"):
        extract.pad([{**made[0], "attention_mask": np.ones(700, np.int64)}])
    with pytest.raises(ValueError, match="make sure that max_length is defined"):
        extract.pad(made, padding="max_length")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("length", [1, 5, 9, 17, 40])
def test_recordings_are_stretched_to_one_length(length, channels):
    samples = np.linspace(-1, 2, length, dtype=np.float32) * np.arange(1, channels + 1, dtype=np.float32)[:, None]
    made = extractor(feature_size=channels, normalize=None, stretch_to=9, max_length=12)
    batch = made([samples, samples[:, : 1 + length // 2]])
    assert batch["attention_mask"].all() and batch["input_values"].shape[-1] == 9
    first = batch["input_values"][0].reshape(channels, 9)
    expected = [np.interp(np.linspace(0, length - 1, 9), np.arange(length), row) for row in samples]
    np.testing.assert_allclose(first, expected, atol=1e-6)
    np.testing.assert_array_equal(first[:, [0, -1]], samples[:, [0, -1]])


@pytest.mark.parametrize(
    ("size", "starts"),
    [(5, [0]), (10, [0]), (11, [0, 1]), (15, [0, 5]), (25, [0, 5, 10, 15]), (31, [0, 4, 8, 13, 17, 21])],
)
def test_windows_cover_a_recording_evenly(size, starts):
    samples = torch.arange(2.0 * size).reshape(2, size)
    windows, shares = extractor(feature_size=2, max_length=10).windows(samples)
    assert [int(one[0, 0]) for one in windows] == starts
    assert all(one.shape == (2, min(size, 10)) for one in windows) and windows[-1][0, -1] == size - 1
    assert len(shares) == len(windows) and shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_pauses_count_nothing_among_windows(level, scale):
    """Whatever a microphone has for a level of nothing; of series that are not sound all windows count alike."""
    samples = torch.full((1, 40), level)
    samples[0, 20:] += torch.tensor([1.0, -1.0]).repeat(10)
    _, shares = extractor(max_length=10).windows(scale * samples)
    torch.testing.assert_close(shares, torch.tensor([0, 0, 0, 1, 2, 2, 2], dtype=torch.float64) / 7, atol=0.05, rtol=0)
    for is_sound, given in ((False, samples), (True, torch.full_like(samples, level))):
        _, shares = extractor(max_length=10, do_rescale=is_sound).windows(given)
        torch.testing.assert_close(shares, torch.full((7,), 1 / 7, dtype=torch.float64))


@pytest.mark.parametrize("as_what", [np.asarray, torch.from_numpy])
def test_an_array_with_its_channels_last_is_not_many_recordings(as_what):
    stereo = np.stack([noise(900), noise(900, seed=1)], axis=1)
    with pytest.raises(ValueError, match=r"raw_speech has shape \(900, 2\), as if its rows were recordings"):
        extractor()(as_what(stereo))
    mean = extractor()([as_what(stereo.T.copy())])["input_values"]
    np.testing.assert_allclose(mean, extractor()(stereo.mean(axis=1))["input_values"], atol=1e-6)
    assert extractor()(as_what(stereo.T.copy()))["input_values"].shape == (2, 900)
    assert extractor(do_rescale=False)(as_what(stereo))["input_values"].shape == (900, 2)


def test_another_rate_is_resampled():
    samples = noise(2000)
    ours = extractor(normalize=None)
    assert ours(samples, sampling_rate=2 * RATE)["input_values"].shape == (1, 1000)
    assert ours(samples, sampling_rate=RATE)["input_values"].shape == (1, 2000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_type": "mel"}, "feature_type='mel'"),
        ({"normalize": "all"}, "normalize='all'"),
        ({"feature_size": 0}, "feature_size=0"),
        (
            {**LOG_MEL, "max_frequency": 5000},
            "max_frequency=5000.*expected None or at most 4000, half the sampling_rate",
        ),
        ({**LOG_MEL, "min_frequency": 5000}, "min_frequency=5000.*below max_frequency, which is 4000"),
        ({**LOG_MEL, "min_frequency": 50, "max_frequency": 50}, "min_frequency=50.*below max_frequency, which is 50"),
        ({**LOG_MEL, "min_frequency": -1}, "min_frequency=-1.*at least 0"),
        ({"std": 0.0}, r"std=0\.0"),
        ({"mean": [1.0, 2.0]}, "mean="),
        ({"dynamic_range": 0}, "dynamic_range=0"),
        ({"stretch_to": 0}, "stretch_to=0"),
        ({"stretch_to": 9, "max_length": 8}, "stretch_to=9 .* up to max_length=8"),
        ({"max_length": 0}, "max_length=0"),
        ({"hop_length": 1.5}, r"hop_length=1\.5"),
        ({"do_rescale": "false"}, "do_rescale='false'.*True or False"),
        ({"padding_side": "middle"}, "padding_side='middle'"),
        ({"padding_value": "0"}, "padding_value='0'.*a finite number"),
        ({"mean": float("nan")}, "mean=nan.*a finite number"),
        ({"mean": "3"}, "mean='3'"),
        ({"std": float("inf")}, "std=inf"),
        ({"dynamic_range": "40"}, "dynamic_range='40'"),
        ({"dynamic_range": True}, "dynamic_range=True"),
        ({**LOG_MEL, "min_frequency": "3"}, "min_frequency='3'"),
        ({**LOG_MEL, "max_frequency": "3"}, "max_frequency='3'"),
        ({**LOG_MEL, "frame_length": 1}, "frame_length=1.*at least 2"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        extractor(**settings)


def test_saved_and_loaded(tmp_path):
    first = extractor(**LOG_MEL, max_length=4000)
    first.save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path, trust_remote_code=True)
    assert again.to_dict() | {"feature_extractor_type": ""} == first.to_dict() | {"feature_extractor_type": ""}
    np.testing.assert_array_equal(again(noise(900))["input_values"], first(noise(900))["input_values"])


def test_a_saved_extractor_takes_another_rate(tmp_path):
    """Its highest band, if none was named, follows the rate; a named one is refused by its own name."""
    first = PerceiverStudyFeatureExtractor(**LOG_MEL)
    first.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "preprocessor_config.json").read_text())["max_frequency"] is None
    again = PerceiverStudyFeatureExtractor.from_pretrained(tmp_path / "half", sampling_rate=RATE)
    samples = noise(900)
    np.testing.assert_array_equal(again(samples)["input_values"], extractor(**LOG_MEL)(samples)["input_values"])
    PerceiverStudyFeatureExtractor(**LOG_MEL, max_frequency=8000).save_pretrained(tmp_path / "named")
    with pytest.raises(ValueError, match=r"max_frequency=8000.*half the sampling_rate"):
        PerceiverStudyFeatureExtractor.from_pretrained(tmp_path / "named", sampling_rate=RATE)


@pytest.mark.parametrize(("kind", "count"), [("waveform", 2), ("log-mel", 20)])
def test_normalization_by_numbers_that_are_given(kind, count):
    samples, mean, std = noise(900, 2), np.linspace(-1, 2, count), np.linspace(0.5, 3, count)
    plain = extractor(feature_size=2, normalize=None, **KINDS[kind])(samples)["input_values"]
    settings = {"normalize": "training", "mean": mean.tolist(), "std": std.tolist()}
    found = extractor(feature_size=2, **settings, **KINDS[kind])(samples)["input_values"]
    shape = (2, 1) if kind == "waveform" else (20,)
    np.testing.assert_allclose(found, (plain - mean.reshape(shape)) / std.reshape(shape), rtol=1e-5, atol=1e-5)


def test_ranges_at_the_ends_of_float32():
    """Of the largest numbers differences are infinite; what rounding alone tells apart is the same."""
    extractor = PerceiverStudyFeatureExtractor()
    found = extractor(np.array([-3e38, 3e38, 0], np.float32), sampling_rate=extractor.sampling_rate)["input_values"]
    np.testing.assert_allclose(found[0], np.array([-1, 1, 0]) * 1.5**0.5, rtol=1e-6)
    nearly = np.float32(1000) + np.array([0, 6e-5, 0], np.float32)
    assert nearly[0] != nearly[1]
    assert not extractor(nearly, sampling_rate=extractor.sampling_rate)["input_values"].any()


@pytest.mark.parametrize("as_what", [list, lambda samples: {"input_values": [one["input_values"] for one in samples]}])
@pytest.mark.parametrize("padding", [False, "do_not_pad"])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_not_padded_stays_a_list(channels, padding, as_what):
    shapes = [(channels, length)[channels == 1 :] for length in (5, 7)]
    samples = [{"input_values": np.ones(shape, np.float32)} for shape in shapes]
    made = extractor(feature_size=channels, do_rescale=False).pad(as_what(samples), padding=padding)
    assert [values.shape for values in made["input_values"]] == shapes
    assert [mask.tolist() for mask in made["attention_mask"]] == [[1] * 5, [1] * 7]
