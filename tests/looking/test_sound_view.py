"""Recordings longer than a model looks at: what attention is drawn on."""

from types import SimpleNamespace

import numpy as np
import pytest

from lab.looking.maps import draw_attention_maps, draw_maps_on
from lab.looking.sound_view import SoundView
from lab.recipe import load_recipe
from lab.tasks import build_task
from tests.task_kinds import KINDS

LENGTH = 160  # of the kinds below


def late_sound(channels):
    """Silence, and then sound, in the last of several windows."""
    samples = np.zeros((channels, 4 * LENGTH), np.float32)
    samples[:, -LENGTH:] = np.random.default_rng(0).normal(size=(channels, LENGTH))
    return samples


@pytest.mark.parametrize(
    ("kind", "channels", "rescaled", "first", "title"),
    [
        ("waveforms", 1, True, 3 * LENGTH, "loudest part"),
        ("spectrograms", 1, True, 3 * LENGTH, "loudest part"),
        ("waveforms", 2, False, 0, "first part"),
    ],
)
def test_of_a_long_recording_one_window_is_drawn(kind, channels, rescaled, first, title):
    settings = [f"feature_extractor.do_rescale={rescaled}", f"feature_extractor.feature_size={channels}"]
    task = build_task(load_recipe(None, [*KINDS[kind].recipe, "data.name=tiny", *settings]))
    model, samples = task.new_model().eval(), late_sound(channels)
    part, named = SoundView.part(task.processor, samples)
    assert named == title and np.array_equal(part, samples[:, first : first + LENGTH])
    long, short = (draw_attention_maps(model, task.processor, one) for one in (samples, part))
    assert [figure.axes[0].get_title() for figure in (long, short)] == [title, "recording"]
    for one, other in zip(long.axes, short.axes, strict=True):
        for left, right in zip(one.images, other.images, strict=True):
            np.testing.assert_array_equal(left.get_array(), right.get_array())
    several = draw_maps_on([samples, part], model, task.processor, SoundView, 1)
    assert [axes.get_ylabel() for axes in several.axes if axes.get_ylabel()] == [title]


def test_an_extractor_without_windows_shows_the_beginning():
    """One of a checkpoint from before there were any, which brings its own code."""
    samples = late_sound(1)
    assert SoundView.part(SimpleNamespace(max_length=LENGTH), samples) == (samples, "recording")
