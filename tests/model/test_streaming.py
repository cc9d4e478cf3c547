import pytest
import torch

from modeling_perceiver_study import streaming
from modeling_perceiver_study.streaming import GridAttention, logits_with_map, sums_with_map


def random_arguments(questions: int = 2, features: int = 2, batch: int = 2, grid=(4, 3), seed: int = 0, **kwargs):
    """Arguments of `GridAttention`: `questions` and `features` are 1 or the batch."""
    torch.manual_seed(seed)
    asking, channels, row_features, column_features = 6, 2, 5, 4
    kwargs = {"dtype": torch.float64, "requires_grad": True, **kwargs}
    inverse_deviation = (torch.rand(batch, *grid, dtype=kwargs["dtype"]) + 0.5).requires_grad_(kwargs["requires_grad"])
    return (
        torch.randn(questions, asking, channels, **kwargs),
        torch.randn(questions, asking, row_features, **kwargs),
        torch.randn(questions, asking, column_features, **kwargs),
        torch.randn(batch, channels, *grid, **kwargs),
        torch.randn(features, grid[0], row_features, **kwargs),
        torch.randn(features, grid[1], column_features, **kwargs),
        inverse_deviation,
    )


def random_mask(batch: int = 2, grid=(4, 3)) -> torch.Tensor:
    attended = torch.rand(batch, *grid, generator=torch.Generator().manual_seed(3)) > 0.4
    attended[:, -1, -1] = True
    return attended


@pytest.mark.parametrize("elements", [1, 40, 10**6], ids=["one by one", "some latents", "all at once"])
@pytest.mark.parametrize("masked", [False, True], ids=["all points", "masked"])
@pytest.mark.parametrize(("questions", "features"), [(1, 1), (2, 2), (1, 2)])
@pytest.mark.slow
def test_gradients(monkeypatch, elements, masked, questions, features):
    """Against finite differences, for every argument."""
    monkeypatch.setattr(streaming, "_FEWEST_ROWS", 1)
    monkeypatch.setitem(streaming._BLOCK_ELEMENTS, "cpu", elements)
    mask = random_mask() if masked else None
    assert torch.autograd.gradcheck(
        lambda *arguments: GridAttention.apply(*arguments, mask), random_arguments(questions, features)
    )


@pytest.mark.parametrize("elements", [1, 40, 10**6])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_stored_map(monkeypatch, elements, masked):
    monkeypatch.setattr(streaming, "_FEWEST_ROWS", 1)
    monkeypatch.setitem(streaming._BLOCK_ELEMENTS, "cpu", elements)
    mask = random_mask() if masked else None
    arguments = random_arguments()
    queries, grid = tuple(part[:, None] for part in arguments[:3]), arguments[3:]
    expected = sums_with_map(logits_with_map(queries, grid, mask).softmax(dim=-1), grid)
    for actual, wanted in zip(GridAttention.apply(*arguments, mask), expected, strict=True):
        torch.testing.assert_close(actual, wanted.squeeze(1), rtol=0, atol=1e-12)


def test_rows_that_are_all_masked():
    """As if they were not there."""
    mask = torch.ones(2, 4, 3, dtype=torch.bool)
    mask[:, :2] = False
    arguments = random_arguments()
    cut = [
        part[:, :, 2:] if index == 3 else part[:, 2:] if index in (4, 6) else part
        for index, part in enumerate(arguments)
    ]
    for masked, without in zip(GridAttention.apply(*arguments, mask), GridAttention.apply(*cut, None), strict=True):
        torch.testing.assert_close(masked, without, rtol=0, atol=1e-12)


def test_large_logits_do_not_overflow():
    arguments = [part * 1e3 if index < 3 else part for index, part in enumerate(random_arguments(dtype=torch.float32))]
    for part in GridAttention.apply(*arguments, None):
        assert part.isfinite().all()


def test_nothing_of_the_size_of_the_map_is_kept(monkeypatch):
    monkeypatch.setitem(streaming._BLOCK_ELEMENTS, "cpu", 2**10)
    kept = []
    arguments = random_arguments(grid=(64, 64))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        GridAttention.apply(*arguments, None)
    assert max(kept) <= 2 * 2 * 64 * 64 < 6 * 64 * 64  # the pixels themselves, not the map


@pytest.mark.parametrize("elements", [1, 40, 10**6])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.slow
def test_the_logarithm_of_the_sum(monkeypatch, elements, masked):
    """Its value, its gradients against finite differences, and theirs."""
    monkeypatch.setattr(streaming, "_FEWEST_ROWS", 1)
    monkeypatch.setitem(streaming._BLOCK_ELEMENTS, "cpu", elements)
    mask = random_mask() if masked else None
    arguments = random_arguments(grid=(2, 3))
    mask = None if mask is None else mask[:, -2:]
    asked, grid = tuple(part[:, None] for part in arguments[:3]), arguments[3:]
    expected = streaming.logits_with_map(asked, grid, mask).logsumexp(dim=-1).squeeze(1)
    *sums, actual = GridAttention.apply(*arguments, mask, True)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    for one, other in zip(sums, GridAttention.apply(*arguments, mask), strict=True):
        assert torch.equal(one, other)
    assert torch.autograd.gradcheck(lambda *parts: GridAttention.apply(*parts, mask, True), arguments)
    if elements == 40:
        assert torch.autograd.gradgradcheck(lambda *parts: GridAttention.apply(*parts, mask, True), arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_shows_nothing_has_the_lowest_sum_and_no_nan(dtype):
    arguments = random_arguments(dtype=dtype)
    mask = torch.zeros(2, 4, 3, dtype=torch.bool)
    mask[0] = True
    *sums, log_sum = GridAttention.apply(*arguments, mask, True)
    assert (log_sum[1] == torch.finfo(dtype).min).all() and log_sum[0].abs().max() < 1e3
    share = torch.stack([log_sum, torch.zeros_like(log_sum)]).softmax(dim=0)
    assert (share[0, 1] == 0).all()
    (share[0][..., None] * sums[0]).sum().backward()
    for argument in arguments:
        assert argument.grad.isfinite().all()
    assert (arguments[3].grad[1] == 0).all() and (arguments[6].grad[1] == 0).all()


def test_gradients_where_a_sample_shows_nothing():
    """They are those of the map itself, where hidden points have weights in a sample that shows none."""
    mask = torch.ones(2, 4, 3, dtype=torch.bool)
    mask[1] = False
    arguments = random_arguments()
    streamed = sum(part.square().sum() for part in GridAttention.apply(*arguments, mask))
    asked, grid = tuple(part[:, None] for part in arguments[:3]), arguments[3:]
    weights = logits_with_map(asked, grid, mask).softmax(dim=-1)
    mapped = sum(part.square().sum() for part in sums_with_map(weights, grid))
    torch.testing.assert_close(streamed, mapped)
    found, expected = (torch.autograd.grad(loss, arguments) for loss in (streamed, mapped))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
