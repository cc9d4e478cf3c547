"""Clouds of points as pictures, through the commands that look at one sample."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lab.errors import UserError
from lab.looking.maps import draw_attention_maps
from lab.looking.points_view import PointsView, projected
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForPointCloudClassification,
    PerceiverStudyPointCloudProcessor,
)


@pytest.fixture
def cloud():
    return np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


def build(**fields):
    torch.manual_seed(0)
    small = {"num_latents": 4, "d_latents": 16, "num_self_attention_heads": 2, "max_frequencies": 4}
    config = PerceiverStudyConfig(input_type="points", **{"num_axes": 3, "num_channels": 0} | small | fields)
    return PerceiverStudyForPointCloudClassification(config).eval()


def test_files_are_opened(cloud, tmp_path):
    np.save(tmp_path / "cloud.npy", cloud)
    processor = PerceiverStudyPointCloudProcessor()
    np.testing.assert_array_equal(PointsView.read(tmp_path / "cloud.npy", processor), cloud)
    (tmp_path / "text.npy").write_text("nothing")
    np.save(tmp_path / "two.npy", np.stack([cloud, cloud]))
    refused = {"missing.npy": "no such file", "text.npy": "not a readable cloud", "two.npy": "expected one cloud"}
    for name, message in refused.items():
        with pytest.raises(UserError, match=message):
            PointsView.read(tmp_path / name, processor)


@pytest.mark.parametrize("num_axes", [1, 2, 3, 4])
def test_any_number_of_coordinates_is_drawn(num_axes):
    points = np.random.default_rng(0).normal(size=(9, num_axes))
    places, depths = projected(points)
    assert places.shape == (9, 2) and depths.shape == (9,)
    assert PointsView(points).overlay(np.full(9, 1 / 9)).size == (500, 500)


def test_projection_keeps_distances():
    points = np.random.default_rng(0).normal(size=(9, 3))
    places, depths = projected(points)
    np.testing.assert_allclose(np.linalg.norm(np.c_[places, depths], axis=1), np.linalg.norm(points, axis=1))
    assert projected(np.array([[0.0, 0, 1], [0, 0, 0]]))[0][0, 1] > 0, "the third axis goes up"


def test_maps_are_drawn(cloud):
    figure = draw_attention_maps(build(), PerceiverStudyPointCloudProcessor(num_points=20), cloud, latents=[1, 4])
    assert [axes.get_title() for axes in figure.axes] == ["cloud", "all latents", "latent 1", "latent 4"]
    shown = figure.axes[2].collections[0]
    assert len(shown.get_offsets()) == 20 and shown.get_array().sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("num_channels", [0, 2])
def test_examples_fit_the_model(num_channels):
    model = build(num_channels=num_channels)
    assert model(**PointsView.example(model.config, 3)).logits.shape == (3, 2)


def test_what_is_near_and_what_is_attended_to():
    around, above = np.deg2rad([-50.0, 25.0])
    eye = np.array([np.cos(above) * np.cos(around), np.cos(above) * np.sin(around), np.sin(above)])
    places, depths = projected(np.stack([eye, -eye]))
    np.testing.assert_allclose(places, 0, atol=1e-12)
    np.testing.assert_allclose(depths, [1, -1])
    axes = Figure().subplots()
    PointsView(np.random.default_rng(0).normal(size=(9, 3))).paint(axes, np.linspace(1, 0, 9))
    weights, sizes = axes.collections[0].get_array(), axes.collections[0].get_sizes()
    assert (np.diff(weights) > 0).all() and sizes[-1] == pytest.approx(6 * sizes[0])
