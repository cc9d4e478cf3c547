import numpy as np
import pytest

from lab.augment.crops import RATIOS, random_box
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task

SIZE = (500, 375)


def boxes(scale, size=SIZE, count=2000):
    return np.array([random_box(size, scale, 0, 0, row) for row in range(count)])


def test_areas_and_ratios_cover_their_ranges_evenly():
    left, top, right, bottom = boxes((0.08, 0.5)).T
    width, height = right - left, bottom - top
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= SIZE[0] and bottom.max() <= SIZE[1]
    share, ratio = width * height / (SIZE[0] * SIZE[1]), width / height
    assert 0.078 < share.min() < 0.09 and 0.49 < share.max() < 0.505
    assert share.mean() == pytest.approx(0.29, abs=0.01)
    assert RATIOS[0] * 0.98 < ratio.min() < 0.77 and 1.3 < ratio.max() < RATIOS[1] * 1.02
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.02)
    assert np.histogram(left / (SIZE[0] - width), bins=4, range=(0, 1))[0].min() > 400  # anywhere


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1000, 10), (493, 0, 506, 10)),  # the largest crop of 4 : 3 in the middle
        ((10, 1000), (0, 493, 10, 506)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_images_that_no_crop_fits_into(size, expected):
    assert all(random_box(size, (1.0, 1.0), row) == expected for row in range(20))


def test_each_place_has_a_crop_of_its_own():
    """The same one each time."""
    places = [(seed, epoch, row) for seed in range(3) for epoch in range(3) for row in range(3)]
    found = [random_box(SIZE, (0.08, 1.0), *place) for place in places]
    assert len(set(found)) == len(places)
    assert found == [random_box(SIZE, (0.08, 1.0), *place) for place in places]


@pytest.mark.parametrize("scale", ["[0.5]", "[0, 1]", "[0.6, 0.5]", "[0.5, 1.5]", "[]"])
def test_what_is_not_a_range_of_areas(scale):
    recipe = load_recipe(DEFAULT_RECIPE, [f"augmentation.random_resized_crop={scale}"])
    with pytest.raises(UserError, match=r"augmentation.random_resized_crop=.*: expected null, or the lowest"):
        build_task(recipe)
