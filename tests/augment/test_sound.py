"""Random changes of recordings."""

import dataclasses

import numpy as np
import pytest
import torch

from lab.augment.sound import (
    SoundAugmentation,
    TrainingSound,
    add_noise,
    change,
    describe_augmentation,
    draw,
    equalize,
    hide,
    warp_bands,
)
from modeling_perceiver_study import PerceiverStudyFeatureExtractor

RATE = 1000
EXTRACTOR = PerceiverStudyFeatureExtractor(
    sampling_rate=RATE, feature_type="log-mel", num_mel_bins=16, frame_length=64, hop_length=16, max_length=400
)
ALL = SoundAugmentation(
    speed=[0.8, 1.2],
    shift=0.05,
    gain=6,
    noise=[10, 20],
    vocal_tract=[0.8, 1.2],
    equalizer=6,
    time_masks=2,
    band_masks=2,
    mixup_alpha=0.3,
)
SINGLE = {"speed": 0.5, "shift": 0.5, "window": 0.5}


def sounds(count=8, channels=1):
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=(count, 500, channels)).astype(np.float32) / 10)
    lengths = torch.from_numpy(rng.integers(100, 500, count))
    return values * (torch.arange(500)[None, :, None] < lengths[:, None, None]), lengths


def training_sound(settings, extractor=EXTRACTOR, batch_size=8):
    return TrainingSound(settings, extractor, 0, batch_size, lambda labels: torch.eye(3)[labels])


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_batches_in_parts_and_again(parts):
    values, lengths = sounds()
    labels = torch.arange(8) % 3
    whole, targets = training_sound(ALL)(values, lengths, labels, 7, 0)
    size = 8 // parts
    for first in range(0, 8, size):
        rows = slice(first, first + size)
        part, of_part = training_sound(ALL)(values[rows], lengths[rows], labels[rows], 7, first)
        torch.testing.assert_close(of_part, targets[rows])
        width = part["input_values"].shape[1]
        torch.testing.assert_close(part["input_values"], whole["input_values"][rows, :width], rtol=0, atol=1e-4)
        assert torch.equal(part["attention_mask"], whole["attention_mask"][rows, :width])
    other, _ = training_sound(ALL)(values, lengths, labels, 8, 0)
    assert other["input_values"].shape != whole["input_values"].shape or not torch.equal(
        other["input_values"], whole["input_values"]
    )


def test_without_changes_training_sees_what_evaluation_sees():
    values, lengths = sounds()
    lengths = lengths.clamp(max=400)
    values = values[:, :400]
    seen, _ = training_sound(SoundAugmentation())(values, lengths, torch.zeros(8, dtype=torch.long), 0, 0)
    expected, mask = EXTRACTOR.features(values.transpose(1, 2), lengths)
    width = seen["input_values"].shape[1]
    torch.testing.assert_close(seen["input_values"], expected[:, :width], rtol=0, atol=1e-5)
    assert torch.equal(seen["attention_mask"].long(), mask[:, :width])


def test_speed():
    tone = np.sin(2 * np.pi * 50 * np.arange(1000) / RATE)[:, None].astype(np.float32)
    faster = change(tone, SoundAugmentation(speed=[2.0, 2.0]), SINGLE, RATE, None)
    assert abs(len(faster) - 500) <= 1
    peak = np.abs(np.fft.rfft(faster[:, 0])).argmax() * RATE / len(faster)
    assert peak == pytest.approx(100, abs=3)


def test_shift_and_window():
    samples = np.arange(1, 101, dtype=np.float32)[:, None]
    later = change(samples, SoundAugmentation(shift=0.02), {**SINGLE, "shift": 1.0}, RATE, None)
    assert not later[:20].any() and np.array_equal(later[20:], samples)
    sooner = change(samples, SoundAugmentation(shift=0.02), {**SINGLE, "shift": 0.0}, RATE, None)
    assert np.array_equal(sooner, samples[20:])
    assert len(change(samples[:3], SoundAugmentation(shift=1.0), {**SINGLE, "shift": 0.0}, RATE, None)) == 1
    for place, first in ((0.0, 1), (0.999, 61)):
        window = change(samples, SoundAugmentation(), {**SINGLE, "window": place}, RATE, 40)
        assert len(window) == 40 and window[0] == first


@pytest.mark.parametrize("from_silence", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "most", "expected"),
    [(0.5, 0.2, None, (0, 0)), (1.0, 0.75, None, (20, 10)), (1.0, 1.0, 106, (3, 3)), (0.9, 0.0, 100, (0, 0))],
)
def test_silence_goes_where_there_is_room(before, after, most, expected, from_silence):
    """Of a draw the lower half is none, so that half of the recordings begin, and end, as they are."""
    samples = np.arange(1, 101, dtype=np.float32)[:, None]
    draws = {**SINGLE, "before": before, "after": after}
    changed = change(samples, SoundAugmentation(silence=0.02), draws, RATE, most, from_silence)
    ends = (0, 0) if from_silence else (1, 100)
    assert np.array_equal(changed[:, 0], np.pad(samples[:, 0], expected, constant_values=ends))


def test_silence_leaves_the_other_choices_as_they_are():
    with_it = draw(dataclasses.replace(ALL, silence=0.5), 8, torch.Generator().manual_seed(0))
    without = draw(dataclasses.replace(ALL, silence=0.0), 8, torch.Generator().manual_seed(0))
    assert with_it.keys() - without.keys() == {"before", "after"}
    assert all(torch.equal(numbers, with_it[name]) for name, numbers in without.items())


def test_noise_is_as_far_below_as_it_says():
    values, lengths = sounds(64)
    samples = values.transpose(1, 2)
    settings = SoundAugmentation(noise=[12, 12])
    noisy = add_noise(samples, lengths, settings, draw(settings, 64, torch.Generator().manual_seed(0)))
    noise = (noisy - samples).square().sum(dim=(1, 2))
    decibels = 10 * torch.log10(samples.square().sum(dim=(1, 2)) / noise)
    assert decibels.mean() == pytest.approx(12, abs=0.2)
    for row, length in enumerate(lengths):
        assert not (noisy[row, :, length:]).any()


def test_noise_of_a_series_does_not_know_its_mean():
    values, lengths = sounds(64, channels=2)
    settings = SoundAugmentation(noise=[12, 12])
    draws = draw(settings, 64, torch.Generator().manual_seed(0))
    samples = values.transpose(1, 2).double()
    shown = (torch.arange(500) < lengths[:, None])[:, None]
    samples = (samples - samples.sum(dim=2, keepdim=True) / lengths[:, None, None]) * shown
    added = add_noise(samples, lengths, settings, draws) - samples
    far = (samples + torch.tensor([20.0, -300.0])[:, None]) * shown
    torch.testing.assert_close(add_noise(far, lengths, settings, draws) - far, added, rtol=1e-6, atol=1e-6)


def test_a_series_does_not_come_from_silence():
    samples = np.arange(1, 101, dtype=np.float32)[:, None]
    settings = SoundAugmentation(shift=0.02)
    later = change(samples, settings, {**SINGLE, "shift": 1.0}, RATE, None, from_silence=False)
    assert (later[:20] == 1).all() and np.array_equal(later[20:], samples)


@pytest.mark.parametrize("speed", [0.5, 0.9, 2.0])
@pytest.mark.parametrize("linear", [False, True])
def test_a_series_keeps_its_ends_at_any_speed(speed, linear):
    samples = np.stack([np.full(100, 20.0), 20 + 0.1 * np.arange(100)], axis=1).astype(np.float32)
    settings = SoundAugmentation(speed=[speed, speed], linear_speed=linear)
    changed = change(samples, settings, SINGLE, RATE, None, from_silence=False)
    np.testing.assert_allclose(changed[:, 0], 20, rtol=1e-6)
    np.testing.assert_allclose(changed[[0, -1], 1], [20, 29.9], atol=0.2)


@pytest.mark.parametrize("speed", [0.5, 2.0, 2.5])
@pytest.mark.parametrize("linear", [False, True])
def test_a_single_sample_is_played_at_any_speed(speed, linear):
    settings = SoundAugmentation(speed=[speed, speed], linear_speed=linear)
    assert len(change(np.ones((1, 1), np.float32), settings, SINGLE, RATE, None)) >= 1


def test_gain():
    values, lengths = sounds()
    settings = SoundAugmentation(gain=6)
    draws = {**draw(settings, 8, torch.Generator()), "gain": torch.ones(8)}
    louder = add_noise(values.transpose(1, 2), lengths, settings, draws)
    torch.testing.assert_close(louder, values.transpose(1, 2) * 10 ** (6 / 20))


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_vocal_tract_moves_a_tone(factor):
    """A spectrogram of a tone, its frequencies multiplied, is that of a tone of so many times the frequency."""
    time = torch.arange(400) / RATE

    def of(frequency):
        tone = torch.sin(2 * torch.pi * frequency * time)[None, None]
        return EXTRACTOR.extracted(tone, torch.tensor([400]))[0][..., 10, :].argmax().item()

    values, _ = EXTRACTOR.extracted(torch.sin(2 * torch.pi * 200 * time)[None, None], torch.tensor([400]))
    warped = warp_bands(values, torch.tensor([factor]), EXTRACTOR)
    assert abs(warped[..., 10, :].argmax().item() - of(200 * factor)) <= 1
    if factor == 1.0:
        torch.testing.assert_close(warped, values, rtol=0, atol=1e-4)


def test_equalizer():
    values = torch.zeros(2, 1, 3, 11)
    changed = equalize(values, torch.tensor([[10.0] * 6, [0, 10, 0, 0, 0, 0]]))
    torch.testing.assert_close(changed[0], torch.full((1, 3, 11), 2.302585))
    assert changed[1, 0, 0].tolist() == pytest.approx([0, 1.151, 2.303, 1.151, *[0] * 7], abs=1e-3)


def test_masks_hide_no_more_than_they_say():
    values, sizes = torch.ones(500, 20, 3), torch.full((500,), 20)
    generator = torch.Generator().manual_seed(0)
    hidden = hide(values, 1, torch.rand(500, 2, 2, generator=generator), sizes, 0.25)[..., 0] == 0
    assert hidden.sum(dim=1).max() <= 10 and hidden.any(dim=1).float().mean() > 0.5
    sizes = torch.full((500,), 10)  # the rest is padding
    assert not (hide(values, 1, torch.rand(500, 2, 2, generator=generator), sizes, 0.5)[:, 10:] == 0).any()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["waveform", "log-mel"])
def test_masks_become_the_mean_of_what_is_not_normalised(kind, channels):
    """0 is loud in the logarithm, and nothing in particular of sensors."""
    extractor = PerceiverStudyFeatureExtractor(
        channels, RATE, feature_type=kind, num_mel_bins=16, frame_length=64, hop_length=16, normalize=None
    )
    settings = SoundAugmentation(time_masks=2, time_mask=0.4, band_masks=2 * (kind == "log-mel" or channels > 1))
    values, lengths = sounds(channels=channels)
    values[..., 0] += 5 * (values[..., 0] != 0)
    given = values, lengths, torch.arange(8) % 3, 1, 0
    plain = training_sound(SoundAugmentation(), extractor)(*given)[0]["input_values"]
    hidden = training_sound(settings, extractor)(*given)[0]["input_values"]
    time = plain.ndim - (2 if kind == "log-mel" else 1)
    for whole, masked, length in zip(plain, hidden, lengths.tolist(), strict=True):
        whole = whole.narrow(time - 1, 0, length // 16 + 1 if kind == "log-mel" else length)
        masked = masked.narrow(time - 1, 0, whole.shape[time - 1])
        mean = whole.mean() if kind == "log-mel" else whole.mean(dim=-1, keepdim=True)
        changed = masked != whole
        assert changed.any()
        torch.testing.assert_close(masked[changed], mean.expand_as(masked)[changed], rtol=1e-4, atol=1e-4)


def test_mixing_blends_neighbours():
    values, lengths = sounds()
    labels = torch.arange(8) % 3
    plain, _ = training_sound(SoundAugmentation())(values, lengths, labels, 0, 0)
    mixed, targets = training_sound(SoundAugmentation(mixup_alpha=1.0))(values, lengths, labels, 0, 0)
    assert torch.equal(mixed["attention_mask"][0], plain["attention_mask"][0] | plain["attention_mask"][1])
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    own = targets[0, labels[0]]
    expected = torch.lerp(plain["input_values"][1], plain["input_values"][0], own)
    torch.testing.assert_close(mixed["input_values"][0], expected, rtol=0, atol=1e-5)


def test_words():
    assert describe_augmentation(SoundAugmentation()) == ""
    assert describe_augmentation(ALL).startswith("; speed 0.8 to 1.2, shifts by up to 0.05 s, gain of up to 6 dB")


def test_a_share_of_the_recordings_gets_noise():
    values, lengths = sounds(200)
    samples, settings = values.transpose(1, 2), SoundAugmentation(noise=[12, 12], noise_share=0.3)
    draws = draw(settings, 200, torch.Generator().manual_seed(0))
    noisy = (add_noise(samples, lengths, settings, draws) != samples).flatten(1).any(dim=1)
    assert torch.equal(noisy, draws["has_noise"] < 0.3) and 0.15 < noisy.double().mean() < 0.45
