"""Random changes of clips."""

import numpy as np
import pytest
import torch

from lab.augment.video import (
    TrainingVideo,
    VideoAugmentation,
    describe_video_augmentation,
    elsewhere,
    hidden,
    in_other_light,
    in_other_time,
)
from modeling_perceiver_study import PerceiverStudyVideoProcessor

ALL = {
    "flip": True,
    "zoom": [0.9, 1.2],
    "shift": 0.1,
    "rotation": 10.0,
    "stretch": 0.1,
    "speed": [0.7, 1.4],
    "time_shift": 2,
    "contrast": 0.2,
    "brightness": 0.1,
    "noise": 0.2,
    "time_masks": 2,
    "time_mask": 0.3,
    "erase": 0.5,
    "mixup_alpha": 0.4,
}


def generators(count, seed=0):
    return [np.random.default_rng([seed, row]) for row in range(count)]


def batch(count=4, frames=8):
    values = torch.randint(0, 256, (count, frames, 3, 12, 16), dtype=torch.uint8)
    lengths = torch.tensor([frames - row % 3 for row in range(count)])
    return values, lengths, torch.arange(count) % 2


def changes(**settings):
    processor = PerceiverStudyVideoProcessor(size={"height": 12, "width": 16}, num_frames=8)
    return TrainingVideo(VideoAugmentation(**settings), processor, 3, lambda labels: torch.eye(2)[labels])


def test_nothing_changes_by_default():
    values, lengths, labels = batch()
    arguments, targets = changes()(values, lengths, labels, 0, 0)
    expected, mask = changes().processor.features(values, lengths)
    assert arguments["pixel_values"].equal(expected) and arguments["attention_mask"].equal(mask)
    assert targets is labels


@pytest.mark.parametrize("name", [name for name in ALL if name != "time_mask"])
def test_each_change_changes_something_and_is_repeated(name):
    torch.manual_seed(0)
    settings = {name: ALL[name]} | ({"time_mask": 0.9} if name == "time_masks" else {})
    values, lengths, labels = batch()
    made = [changes(**settings)(values, lengths, labels, step, 0)[0]["pixel_values"] for step in (5, 5, 6)]
    plain = changes()(values, lengths, labels, 5, 0)[0]["pixel_values"]
    assert made[0].equal(made[1])
    assert made[0].shape != plain.shape or not made[0].equal(plain)
    assert made[0].shape != made[2].shape or not made[0].equal(made[2])
    assert describe_video_augmentation(VideoAugmentation(**settings)).startswith("; ")


def test_all_frames_of_a_clip_change_alike():
    """A clip of one picture again and again stays one."""
    frames = torch.rand(2, 1, 3, 12, 16).expand(-1, 5, -1, -1, -1) * 255
    settings = VideoAugmentation(**{name: ALL[name] for name in ("flip", "zoom", "shift", "rotation", "stretch")})
    moved = elsewhere(frames, settings, generators(2))
    assert moved.equal(moved[:, :1].expand_as(moved)) and not moved.equal(frames)


def test_a_mirrored_clip_is_mirrored():
    clip = torch.rand(1, 2, 1, 6, 8) * 255
    found = {
        bool(
            torch.allclose(elsewhere(clip, VideoAugmentation(flip=True), generators(1, seed)), clip.flip(-1), atol=1e-3)
        )
        for seed in range(8)
    }
    assert found == {True, False}


def test_a_turn_keeps_the_shape_of_things():
    """A disc stays round, though frames are wider than high."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    disc = ((rows - 19.5) ** 2 + (columns - 39.5) ** 2 < 100).float().expand(1, 1, 1, 40, 80)
    for seed in range(3):
        turned = elsewhere(disc, VideoAugmentation(rotation=90.0), generators(1, seed))
        assert (turned - disc).abs().mean() < 0.01


def test_another_speed_and_another_start():
    values = torch.arange(10.0).view(1, 10, 1, 1, 1)
    lengths = torch.tensor([10])
    fast, count = in_other_time(values, lengths, VideoAugmentation(speed=[2.0, 2.0]), None, generators(1))
    assert fast.flatten().tolist() == [0, 2, 4, 6, 8] and count.tolist() == [5]
    slow, count = in_other_time(values, lengths, VideoAugmentation(speed=[0.5, 0.5]), 12, generators(1))
    assert count.tolist() == [12] and slow.flatten().tolist() == sorted(slow.flatten().tolist())
    starts = {
        int(in_other_time(values, lengths, VideoAugmentation(time_shift=2), None, generators(1, seed))[1])
        for seed in range(30)
    }
    assert starts == {8, 9, 10, 11, 12}


def test_mixed_clips_show_both_and_their_labels():
    values, lengths, labels = batch()
    arguments, targets = changes(mixup_alpha=0.5)(values, lengths, labels, 1, 0)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    longest = torch.maximum(lengths, lengths[[1, 0, 3, 2]])
    assert arguments["attention_mask"].sum(dim=1).equal(longest)


def test_zoom_shows_things_larger():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    disc = ((rows - 19.5) ** 2 + (columns - 39.5) ** 2 < 36).float().expand(1, 1, 1, 40, 80)
    larger = elsewhere(disc, VideoAugmentation(zoom=[2.0, 2.0]), generators(1))
    assert larger.sum().item() == pytest.approx(4 * disc.sum().item(), rel=0.1)


def test_another_light_is_as_far_off_as_it_says():
    values = torch.tensor([100.0, 200.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 4, 5)  # of which the first has the mean
    contrast, brightness = generators(1)[0].uniform(-1, 1, 2)
    found = in_other_light(values, VideoAugmentation(contrast=0.5), generators(1))
    torch.testing.assert_close(found, 100 + (values - 100) * (1 + 0.5 * contrast))
    found = in_other_light(values, VideoAugmentation(brightness=0.2), generators(1))
    torch.testing.assert_close(found, values + 51 * brightness)
    for seed in range(8):
        found = in_other_light(values, VideoAugmentation(brightness=1.0), generators(1, seed))
        assert found.min() >= 0 and found.max() <= 255


def test_no_more_is_hidden_than_is_said():
    values, lengths = torch.ones(50, 20, 1, 8, 12), torch.full((50,), 10)
    found = hidden(values, lengths, VideoAugmentation(time_masks=1, time_mask=0.4), generators(50))
    frames = (found == 0).flatten(2).all(dim=2)
    assert frames.any() and frames.sum(dim=1).max() <= 4 and not frames[:, 10:].any()
    boxes = hidden(values, lengths, VideoAugmentation(erase=1.0), generators(50)) == 0
    assert boxes.equal(boxes[:, :1].expand_as(boxes))
    rows, columns = (boxes[:, 0, 0].any(dim=axis).sum(dim=1) for axis in (2, 1))
    assert rows.min() >= 1 and rows.max() <= 4 and columns.min() >= 2 and columns.max() <= 6
