"""Recipes of several kinds beside other Perceivers on the same array: what is measured, and what the table says."""

import json
from importlib.util import find_spec

import pytest
import torch

import benchmark_arrays
from lab.peers.arrays import ARRAY, ONE_CROSS_ATTEND, OTHERS, OURS, Transformers
from lab.recipe import load_recipe
from lab.tasks import build_task
from tests.task_kinds import KINDS

pytestmark = pytest.mark.slow
HERE = [name for name in OTHERS if name != "perceiver-pytorch" or find_spec("perceiver_pytorch")]
SHAPE = ["model.num_blocks=2", "model.num_cross_attends=2", "model.cross_attention_shape_for_attention=q"]


@pytest.mark.parametrize("kind", ["images", "spectrograms", "points", "text", "video", "multimodal"])
def test_every_kind_of_input(kind, tmp_path, capsys):
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    overrides = [*KINDS[kind].recipe, "data.path=nowhere", *SHAPE]
    command = ["--config", str(tmp_path / "plain.yaml"), "--rounds", "2", "--batch_size", "3", "--others", *HERE]
    threads = torch.get_num_threads()
    try:
        benchmark_arrays.main([*command, "--output", str(tmp_path), *overrides])
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / "cost.json").read_text())
    assert list(found["contenders"]) == [OURS, ONE_CROSS_ATTEND, *HERE, ARRAY]
    for name, one in found["contenders"].items():
        assert one["forward"] > 0 and one["step"] > 0 and (one["parameters"] > 0 or name == ARRAY)
    assert found["contenders"][OURS]["ratio"] == 1
    table = (tmp_path / "cost.md").read_text()
    assert table in capsys.readouterr().out
    assert f"{found['elements']:,} elements of {found['width']} channels, batches of 3, medians of 2 rounds" in table


def test_what_is_compared_is_of_the_same_size():
    """transformers' has the shapes of ours with one cross-attend, but for what makes elements and answers."""
    overrides = ["data.path=nowhere", *KINDS["images"].recipe, SHAPE[-1]]
    task = build_task(load_recipe(None, overrides))
    ours, theirs = task.new_model().perceiver, Transformers(task.config, task.config.num_input_channels).model

    def shapes(model, *unlike):
        return sorted(tuple(weight.shape) for name, weight in model.named_parameters() if not name.startswith(unlike))

    assert shapes(ours, "inputs") == shapes(theirs, "decoder")
