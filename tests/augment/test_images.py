from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.augment.images import Augmentation, Draws, Normalization, TrainingInputs, augment, draw
from lab.augment.seeds import fold_seed
from lab.errors import UserError
from modeling_perceiver_study import PerceiverStudyImageProcessor

BOTH = Augmentation(crop_padding=2, horizontal_flip=True)
EVERYTHING = replace(BOTH, trivial_augment=True, random_erasing=0.5, mixup_alpha=0.8, cutmix_alpha=1.0)
SIZE = (6, 5)


def random_pixels(count: int = 9, channels: int = 3, height: int = 6, width: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def test_crop_and_flip_against_slices():
    pixels = random_pixels()
    draws = draw(BOTH, len(pixels), SIZE, torch.Generator().manual_seed(1))
    augmented = augment(pixels, BOTH, draws)
    assert augmented.dtype == torch.uint8
    for index, image in enumerate(pixels):
        down, right = draws.shift[:, index].tolist()
        padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)))
        expected = padded[:, down : down + 6, right : right + 5]
        # The window is chosen first, then mirrored.
        if draws.flip[index]:
            expected = expected[..., ::-1]
        assert np.array_equal(augmented[index].numpy(), expected)


def test_draws_cover_their_range_and_differ_by_image():
    draws = draw(BOTH, 500, SIZE, torch.Generator().manual_seed(0))
    assert set(draws.shift[0].tolist()) == set(draws.shift[1].tolist()) == set(range(5))
    assert 200 < draws.flip.sum() < 300
    assert not torch.equal(draws.shift[0], draws.shift[1])


@pytest.mark.parametrize("settings", [Augmentation(), Augmentation(crop_padding=2), Augmentation(horizontal_flip=True)])
def test_what_is_off_stays_off(settings):
    pixels = random_pixels()
    draws = draw(settings, len(pixels), SIZE, torch.Generator().manual_seed(3))
    augmented = augment(pixels, settings, draws)
    if not settings.horizontal_flip:
        assert not draws.flip.any()
    if not settings.crop_padding:
        unflipped = torch.where(draws.flip[:, None, None, None], augmented.flip(-1), augmented)
        assert torch.equal(unflipped, pixels)


def test_no_shift_is_the_image_itself():
    pixels = random_pixels()
    middle = Draws(torch.full((2, len(pixels)), 2), torch.zeros(len(pixels), dtype=torch.bool))
    assert torch.equal(augment(pixels, BOTH, middle), pixels)


def training_inputs(settings: Augmentation, seed: int = 5, num_channels: int = 3) -> TrainingInputs:
    statistics = {"num_channels": num_channels, "image_mean": [0.5] * num_channels, "image_std": [0.5] * num_channels}
    normalize = Normalization(PerceiverStudyImageProcessor(**statistics))
    return TrainingInputs(
        settings, normalize, seed, batch_size=8, blendable=lambda labels: torch.nn.functional.one_hot(labels, 4).float()
    )


@pytest.mark.parametrize("settings", [BOTH, EVERYTHING], ids=["crop-flip", "everything"])
def test_parts_of_a_batch_get_what_the_whole_gets(settings):
    pixels, labels = random_pixels(count=8), torch.arange(8) % 4
    inputs = training_inputs(settings)
    images, targets = inputs(pixels, labels, step=3, first=0)
    parts = [inputs(pixels[part], labels[part], 3, part.start) for part in (slice(0, 2), slice(2, 8))]
    assert torch.equal(torch.cat([part[0] for part in parts]), images)
    assert torch.equal(torch.cat([part[1] for part in parts]), targets)
    for other in (inputs(pixels, labels, 4, 0), training_inputs(settings, seed=6)(pixels, labels, 3, 0)):
        assert not torch.equal(other[0], images)


def test_labels_are_probabilities_where_images_mix():
    pixels, labels = random_pixels(count=8), torch.arange(8) % 4
    assert training_inputs(BOTH)(pixels, labels, 3, 0)[1] is labels
    targets = training_inputs(EVERYTHING)(pixels, labels, 3, 0)[1]
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    assert (targets.amax(dim=1) < 1).any()


def test_new_choices_leave_crops_and_flips_as_they_are():
    draws = [draw(settings, 9, SIZE, torch.Generator().manual_seed(1)) for settings in (BOTH, EVERYTHING)]
    assert torch.equal(draws[0].shift, draws[1].shift)
    assert torch.equal(draws[0].flip, draws[1].flip)
    assert draws[0].operation is draws[0].erased is draws[0].mixed is None


def test_trivial_augment_needs_grey_or_colour():
    with pytest.raises(UserError, match=r"trivial_augment works on .* not model\.num_channels=4"):
        training_inputs(EVERYTHING, num_channels=4)
    training_inputs(replace(EVERYTHING, trivial_augment=False), num_channels=4)


def test_seeds_differ():
    seeds = [fold_seed(seed, step, place) for seed in range(3) for step in range(20) for place in (0, 32)]
    assert len(set(seeds)) == len(seeds)
    assert fold_seed(1, 2) == fold_seed(1, 2) != fold_seed(2, 1)


@pytest.mark.parametrize("settings", [{}, {"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 0.5}])
def test_normalization_is_the_image_processors(settings):
    processor = PerceiverStudyImageProcessor(
        size=8, crop_size=8, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], **settings
    )
    pixels = random_pixels(height=8, width=8)
    expected = processor(list(pixels), input_data_format="channels_first")["pixel_values"]
    normalized = Normalization(processor)(pixels)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized, expected, rtol=1e-5, atol=1e-5)
