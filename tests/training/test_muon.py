"""Muon's step is torch's, in a dtype to choose, and processes share its work."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lab.training.muon import Muon, orthogonalize, shares
from tests.processes import run_together

SHAPES = [(24, 24), (40, 16), (16, 40)]
RATE, DECAY = 0.02, 0.1


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def take_steps(optimizer, numbers):
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def ours(dtype):
    return Muon(parameters(), RATE, DECAY, dtype)


def torchs():
    return torch.optim.Muon(parameters(), RATE, DECAY, adjust_lr_fn="match_rms_adamw")


def values(optimizer):
    return [parameter.detach() for parameter in optimizer.param_groups[0]["params"]]


def test_in_bfloat16_it_is_torchs():
    mine, theirs = ours(torch.bfloat16), torchs()
    take_steps(mine, range(5))
    take_steps(theirs, range(5))
    assert all(map(torch.equal, values(mine), values(theirs)))


def test_in_float32_it_differs_from_torchs_by_the_rounding_of_bfloat16():
    mine, theirs = ours(torch.float32), torchs()
    before = [value.clone() for value in values(mine)]
    take_steps(mine, range(1))
    take_steps(theirs, range(1))
    for start, value, other in zip(before, values(mine), values(theirs), strict=True):
        assert (value - other).norm() < 0.03 * (value - start).norm()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_orthogonalisation_against_float64(shape, dtype, tolerance):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact, found = orthogonalize(matrix, torch.float64), orthogonalize(matrix.float(), dtype)
    assert found.dtype == dtype
    assert (found - exact).norm() < tolerance * exact.norm()
    singular = torch.linalg.svdvals(exact)
    assert singular.min() > 0.4 and singular.max() < 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_left_alone(dtype):
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = matrix.clone()
    orthogonalize(matrix, dtype)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("first", [ours, lambda dtype: torchs()], ids=["its own", "torch's"])
def test_it_goes_on_from_a_state_exactly(first):
    dtype = torch.bfloat16
    whole, begun, resumed = ours(dtype), first(dtype), ours(dtype)
    take_steps(whole, range(6))
    take_steps(begun, range(3))
    with torch.no_grad():
        for value, source in zip(values(resumed), values(begun), strict=True):
            value.copy_(source)
    resumed.load_state_dict(begun.state_dict())
    take_steps(resumed, range(3, 6))
    assert all(map(torch.equal, values(whole), values(resumed)))


def test_a_step_in_float32_makes_nothing_in_bfloat16():
    """Not even for a moment: without bfloat16 units each such product takes many times as long."""
    seen = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            seen.update(leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
            return result

    with Watch():
        take_steps(ours(torch.float32), range(1))
    assert seen == {torch.float32}
    with Watch():
        take_steps(torchs(), range(1))
    assert torch.bfloat16 in seen


def shared_steps(path: str, dtype: torch.dtype):
    torch.distributed.init_process_group("gloo")
    optimizer = ours(dtype)
    take_steps(optimizer, range(3))
    rank = torch.distributed.get_rank()
    save_file({str(number): value for number, value in enumerate(values(optimizer))}, f"{path}-{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [2, 4])  # of four processes, one has no matrix
def test_processes_that_share_the_work_take_the_steps_of_one(tmp_path, dtype, count):
    path = str(tmp_path / "weights")
    assert run_together(count, shared_steps, path, dtype) == [0] * count
    alone = ours(dtype)
    take_steps(alone, range(3))
    for rank in range(count):
        together = load_file(f"{path}-{rank}")
        assert all(torch.equal(value, together[str(number)]) for number, value in enumerate(values(alone)))


def step_without_gradients():
    torch.distributed.init_process_group("gloo")
    optimizer = ours(torch.float32)
    optimizer.step()
    assert all(map(torch.equal, values(optimizer), values(ours(torch.float32))))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_step_over_a_group_without_gradients():
    assert run_together(2, step_without_gradients) == [0, 0]


def test_shares_are_of_about_as_much_work_each():
    shapes = [(256, 256)] * 16 + [(1024, 256)] * 4 + [(256, 1024)] * 4
    found = shares(shapes, 2)
    assert sorted(found[0] + found[1]) == list(range(24))
    assert [sum(len(set(shapes[number])) == 2 for number in share) for share in found] == [4, 4]
    assert shares([(3, 4)], 2) == [[0], []]
