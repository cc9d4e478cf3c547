"""Each operation against Pillow, on whose operations the paper's code works."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from lab.augment.trivial_augment import OPERATIONS, STRENGTHS, draw_operations, trivial_augment

SIZE = (20, 24)  # height, width
NAMES = list(OPERATIONS)


def affine(image: Image.Image, *entries: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, entries, Image.Resampling.NEAREST)


def enhance(kind):
    return lambda image, strength: kind(image).enhance(1 + 0.99 * strength)


PILLOW = {
    "identity": lambda image, strength: image,
    "shear_x": lambda image, strength: affine(image, 1, 0.99 * strength, 0, 0, 1, 0),
    "shear_y": lambda image, strength: affine(image, 1, 0, 0, 0.99 * strength, 1, 0),
    "translate_x": lambda image, strength: affine(image, 1, 0, 32 * strength, 0, 1, 0),
    "translate_y": lambda image, strength: affine(image, 1, 0, 0, 0, 1, 32 * strength),
    "rotate": lambda image, strength: image.rotate(135 * strength, Image.Resampling.NEAREST),
    "brightness": enhance(ImageEnhance.Brightness),
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(abs(6 * strength))),
    "solarize": lambda image, strength: ImageOps.solarize(image, 255 * (1 - abs(strength))),
    "auto_contrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
}


def smooth_pixels(count: int, channels: int = 3) -> torch.Tensor:
    """`(n, C, H, W)` uint8 with more than noise in them."""
    coarse = torch.rand(count, channels, 5, 6, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1)
    return (20 + 200 * fine).to(torch.uint8)


def apply(name: str, pixels: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return trivial_augment(pixels, torch.full((len(pixels),), NAMES.index(name)), strength)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_operation_against_pillow(name, channels):
    strength = torch.linspace(-1, 1, 2 * STRENGTHS - 1)
    pixels = smooth_pixels(len(strength), channels)
    changed = apply(name, pixels, strength)
    assert changed.dtype == torch.uint8
    wrong = []
    for image, result, value in zip(pixels, changed, strength.tolist(), strict=True):
        image = Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())
        expected = np.atleast_3d(np.asarray(PILLOW[name](image, value))).transpose(2, 0, 1).astype(int)
        # Pillow rounds between steps; where a coordinate or threshold lies halfway, either side is right.
        wrong.append(np.mean(np.abs(result.numpy().astype(int) - expected) > 1))
    assert max(wrong) < 0.05
    assert np.mean(wrong) < 0.002


def test_no_strength_is_the_image_itself():
    pixels = smooth_pixels(4)
    for name in set(NAMES) - {"auto_contrast", "equalize", "solarize"}:
        assert torch.equal(apply(name, pixels, torch.zeros(4)), pixels), name


def test_images_of_a_batch_do_not_depend_on_each_other():
    pixels = smooth_pixels(200)
    operation, strength = draw_operations(200, torch.Generator().manual_seed(0))
    whole = trivial_augment(pixels, operation, strength)
    for part in (slice(0, 7), slice(7, 200)):
        assert torch.equal(trivial_augment(pixels[part], operation[part], strength[part]), whole[part])
    changed = (whole != pixels).flatten(1).any(dim=1)
    assert not changed[operation == NAMES.index("identity")].any()
    assert changed.float().mean() > 0.75


def test_draws_cover_operations_and_strengths():
    operation, strength = draw_operations(20_000, torch.Generator().manual_seed(0))
    assert torch.bincount(operation).min() > 0.8 * 20_000 / len(NAMES)
    assert sorted({round(30 * value) for value in strength.tolist()}) == list(range(-30, 31))
    assert abs(strength.mean()) < 0.02


def test_deterministic_mode_stays_as_it_was():
    pixels = smooth_pixels(3)
    torch.use_deterministic_algorithms(True)
    try:
        apply("equalize", pixels, torch.ones(3))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    apply("equalize", pixels, torch.ones(3))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_share_of_the_images():
    """The others stay as they are; each gets what it would get if all did."""
    everything, some = (draw_operations(4000, torch.Generator().manual_seed(0), share) for share in (1.0, 0.25))
    identity = NAMES.index("identity")
    chosen = some[0] != identity
    assert torch.equal(some[0][chosen], everything[0][chosen])
    assert abs(chosen.float().mean() - 0.25 * (everything[0] != identity).float().mean()) < 0.02
