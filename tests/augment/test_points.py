"""Random changes of clouds: what each does, and that they do not depend on how a batch is divided."""

import numpy as np
import pytest
import torch

from lab.augment.points import (
    PointAugmentation,
    PointTrainingInputs,
    describe_point_augmentation,
    draw_matrix,
    rotation_about,
    rotation_in_plane,
)
from lab.errors import UserError
from modeling_perceiver_study import PerceiverStudyPointCloudProcessor

ALL = {
    "num_points": 12,
    "mirror": [0, 1],
    "rotation": 30,
    "tilt": 10,
    "stretch": 0.2,
    "point_scale": 0.01,
    "jitter": 0.02,
    "shift": 0.1,
    "mix_alpha": 1.0,
}


def build(axes=3, features=0, center="mean", scale="sphere", **settings):
    processor = PerceiverStudyPointCloudProcessor(num_axes=axes, num_features=features, center=center, scale=scale)

    def blendable(labels):
        return torch.nn.functional.one_hot(labels, 4).float()

    return PointTrainingInputs(PointAugmentation(**settings), processor, seed=3, blendable=blendable)


@pytest.fixture
def batch():
    values = torch.randn(8, 20, 5, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([20, 7, 13, 1, 20, 12, 5, 16])
    return values * (torch.arange(20) < lengths[:, None])[..., None], lengths, torch.arange(8) % 4


@pytest.mark.parametrize("settings", [{}, ALL, {name: value for name, value in ALL.items() if name != "num_points"}])
def test_parts_of_a_batch_are_changed_as_the_whole(batch, settings):
    change = build(features=2, **settings)
    whole = change(*batch, step=5, first=0)
    parts = [change(*(part[first : first + 2] for part in batch), step=5, first=first) for first in range(0, 8, 2)]
    for row, (values, lengths, targets) in enumerate(parts):
        rows = slice(2 * row, 2 * row + 2)
        assert torch.equal(lengths, whole[1][rows]) and torch.equal(targets, whole[2][rows])
        longest = values.shape[1]
        torch.testing.assert_close(values, whole[0][rows, :longest])
        assert not whole[0][rows, longest:].any()


def test_the_same_step_repeats_and_others_differ(batch):
    change = build(features=2, **ALL)
    first, again, other = (change(*batch, step=step, first=0)[0] for step in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_nothing_is_changed_without_settings(batch):
    values, lengths, labels = batch
    changed, same, targets = build(features=2, center=None, scale=None)(*batch, step=0, first=0)
    torch.testing.assert_close(changed, values)
    assert torch.equal(same, lengths) and torch.equal(targets, labels)


def test_clouds_are_normalised_as_by_the_processor_afterwards(batch):
    values, lengths, _ = batch
    settings = {name: ALL[name] for name in ("mirror", "rotation", "tilt", "stretch", "point_scale", "jitter")}
    changed, *_ = build(features=2, **settings)(*batch, step=0, first=0)
    processor = PerceiverStudyPointCloudProcessor()
    for cloud, length in zip(changed, lengths, strict=True):
        torch.testing.assert_close(processor(cloud[:length, :3])["points"][0], cloud[:length, :3], atol=1e-5, rtol=0)
        assert not cloud[length:].any()
    torch.testing.assert_close(changed[..., 3:], values[..., 3:])


def test_points_are_chosen_with_their_features(batch):
    values, lengths, _ = batch
    chosen, counts, _ = build(features=2, center=None, scale=None, num_points=6)(*batch, step=0, first=0)
    assert counts.tolist() == [6, 6, 6, 1, 6, 6, 5, 6] and chosen.shape == (8, 6, 5)
    for row in range(8):
        rows = {tuple(point) for point in values[row, : lengths[row]].tolist()}
        found = [tuple(point) for point in chosen[row, : counts[row]].tolist()]
        assert len({*found}) == len(found) and {*found} <= rows


def test_mixed_clouds_keep_shares_of_labels(batch):
    values, lengths, labels = batch
    mixed, counts, targets = build(features=2, center=None, scale=None, mix_alpha=1.0)(*batch, step=0, first=0)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    for row in range(8):
        own = {tuple(point) for point in values[row, : lengths[row]].tolist()}
        found = [tuple(point) for point in mixed[row, : counts[row]].tolist()]
        share = sum(point in own for point in found) / len(found)
        assert targets[row, labels[row]] == pytest.approx(share)
        assert counts[row] <= lengths[row] and not mixed[row, counts[row] :].any()


def test_rotations_turn():
    turn = np.array([1.0, 0, 0]) @ rotation_in_plane(3, 0, 1, 90)
    np.testing.assert_allclose(turn, [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(np.array([1.0, 0, 0]) @ rotation_about(np.array([0, 0, 2.0]), 90), [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_matrices_keep_shapes(axes):
    settings = PointAugmentation(mirror=[0], rotation=180, vertical_axis=1)
    for seed in range(20):
        matrix = draw_matrix(settings, axes, np.random.default_rng(seed))
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(axes), atol=1e-12)
        assert axes == 2 or matrix[1, 1] == 1


@pytest.mark.parametrize("settings", [{"mirror": [3]}, {"rotation": 5, "vertical_axis": 3}, {"tilt": 5, "axes": 2}])
def test_settings_that_do_not_fit(settings):
    with pytest.raises(UserError, match="augmentation"):
        build(**settings)


TURNS = {
    "mirrored": {"mirror": [0, 1]},
    "rotated": {"rotation": 180},
    "tilted": {"tilt": 90},
    "stretched": {"stretch": 0.5},
    "all": {"mirror": [0], "rotation": 180, "tilt": 90, "stretch": 0.5},
}


@pytest.mark.parametrize("settings", TURNS.values(), ids=TURNS)
def test_normals_turn_with_their_points(settings):
    """Of a plane each normal stays at a right angle to all lines in it, and as long as it was."""
    rng = np.random.default_rng(0)
    lines = np.linalg.qr(rng.standard_normal((3, 3)))[0][:, :2].T
    points = rng.standard_normal((8, 30, 2)) @ lines
    colour = rng.random((8, 30, 1))
    normals = np.broadcast_to(0.7 * np.cross(*lines), points.shape)
    values = torch.from_numpy(np.concatenate([points, colour, normals], axis=2))
    lengths, labels = torch.full((8,), 30), torch.zeros(8, dtype=torch.long)
    change = build(features=4, normals=1, **settings)
    changed, *_ = change(values, lengths, labels, 2, 0)
    assert not torch.allclose(changed[..., :3], change.normalize(values[..., :3], torch.ones(8, 30) > 0))
    torch.testing.assert_close(changed[..., 3], values[..., 3])
    torch.testing.assert_close(changed[..., 4:].norm(dim=-1), values[..., 4:].norm(dim=-1))
    angles = (changed[:, 1:, :3] - changed[:, :-1, :3]) @ changed[:, 0, 4:, None]
    torch.testing.assert_close(angles, torch.zeros_like(angles), rtol=0, atol=1e-10)


def test_normals_are_found_by_their_name():
    names = ["red", "nx", "ny", "nz"]
    processor = PerceiverStudyPointCloudProcessor(num_features=4, feature_names=names)
    assert PointTrainingInputs(PointAugmentation(), processor, 0, lambda labels: labels).normals == 1
    with pytest.raises(UserError, match=r"augmentation.normals=2: a normal has 3 numbers, and points have 4 features"):
        PointTrainingInputs(PointAugmentation(normals=2), processor, 0, lambda labels: labels)


def test_description():
    assert describe_point_augmentation(PointAugmentation()) == ""
    assert "512 points" in describe_point_augmentation(PointAugmentation(num_points=512))
