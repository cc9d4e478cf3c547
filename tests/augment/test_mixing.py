import pytest
import torch
import torch.nn.functional as F

from lab.augment.mixing import draw_erased, draw_mixed, erase, mix

SIZE = (12, 10)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def rectangles(*sides: tuple[int, int, int, int]) -> torch.Tensor:
    return torch.tensor(sides).T


def sizes(drawn: torch.Tensor) -> torch.Tensor:
    """`(2, n)`, height and width."""
    return torch.stack([drawn[1] - drawn[0], drawn[3] - drawn[2]])


def test_erase_against_slices():
    images = torch.rand(3, 2, *SIZE)
    expected = images.clone()
    expected[0, :, 2:7, 0:10] = 0
    expected[1, :, 11:12, 4:5] = 0
    assert torch.equal(erase(images, rectangles((2, 7, 0, 10), (11, 12, 4, 5), (0, 0, 0, 0))), expected)


def test_erased_rectangles_lie_inside_and_have_the_sizes_of_the_paper():
    drawn = draw_erased(0.25, 4000, (100, 200), generator())
    erased = drawn[:, drawn.any(dim=0)]
    assert 800 < erased.shape[1] < 1200
    assert erased.min() >= 0
    assert (erased.amax(dim=1) <= torch.tensor([100, 100, 200, 200])).all()
    share = sizes(erased).prod(dim=0) / 20_000
    assert 0.015 < share.min() < 0.03
    assert 0.3 < share.max() < 0.34
    assert 0.16 < share.mean() < 0.19
    assert not draw_erased(0.0, 50, SIZE, generator()).any()
    assert draw_erased(1.0, 50, (100, 200), generator()).any(dim=0).all()


def test_mix_against_slices():
    images, targets = torch.rand(4, 3, *SIZE), torch.eye(4)
    whole = (0, SIZE[0], 0, SIZE[1])
    mixed, labels = mix(
        images, targets, rectangles(whole, (3, 9, 0, 5), (0, 0, 0, 0), whole), torch.tensor([0.25, 1.0, 1.0, 1.0])
    )
    torch.testing.assert_close(mixed[0], 0.75 * images[0] + 0.25 * images[1])
    pasted = images[1].clone()
    pasted[:, 3:9, 0:5] = images[0, :, 3:9, 0:5]
    assert torch.equal(mixed[1], pasted)
    assert torch.equal(mixed[2], images[2])
    assert torch.equal(mixed[3], images[2])
    expected = [[0.75, 0.25, 0, 0], [0.25, 0.75, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    torch.testing.assert_close(labels, torch.tensor(expected))


def test_shares_come_from_beta_distributions():
    def opacity_and_area(*alphas):
        drawn, opacity = draw_mixed(*alphas, 4000, (100, 200), generator())
        assert drawn.min() >= 0
        assert (drawn.amax(dim=1) <= torch.tensor([100, 100, 200, 200])).all()
        return opacity, sizes(drawn).prod(dim=0) / 20_000

    opacity, area = opacity_and_area(0.2, 0.0)
    assert (area == 1).all()
    # Of Beta(a, a) mean and variance are 1/2 and 1 / (4 (2 a + 1)).
    assert opacity.mean() == pytest.approx(0.5, abs=0.03)
    assert opacity.var() == pytest.approx(1 / 5.6, rel=0.05)
    opacity, area = opacity_and_area(0.0, 1.0)
    assert (opacity == 1).all()
    # Smaller than the share that was drawn, since rectangles are cut off at the border.
    assert 0.25 < area.mean() < 0.45
    opacity, area = opacity_and_area(0.2, 1.0)
    assert 1800 < (opacity < 1).sum() < 2200
    assert (area[opacity < 1] == 1).all()


def test_a_blended_target_is_a_blend_of_losses():
    """So that a label's share in the loss is its image's share in the pixels, label smoothing or not."""
    logits, targets = torch.randn(2, 4, generator=generator()), torch.eye(4)[:2]
    _, mixed = mix(torch.rand(2, 3, *SIZE), targets, rectangles((0, 3, 0, 10), (0, 12, 0, 10)), torch.ones(2))
    loss = F.cross_entropy(logits, mixed, label_smoothing=0.1, reduction="none")
    of_each = [F.cross_entropy(logits, torch.tensor([i, i]), label_smoothing=0.1, reduction="none") for i in (0, 1)]
    torch.testing.assert_close(loss[0], 0.75 * of_each[0][0] + 0.25 * of_each[1][0])
    torch.testing.assert_close(loss[1], of_each[0][1])
