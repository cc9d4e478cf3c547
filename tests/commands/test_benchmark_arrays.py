"""Recipes of several kinds beside other Perceivers on the same array: what is measured, and what the table says."""

import json
from importlib.util import find_spec

import pytest
import torch

import benchmark_arrays
from lab.peers.arrays import ARRAY, ONE_CROSS_ATTEND, OTHERS, OURS, Transformers, measure
from lab.recipe import load_recipe
from lab.tasks import build_task
from modeling_perceiver_study import PerceiverStudyModel
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


@pytest.mark.skipif(not find_spec("perceiver_pytorch"), reason="perceiver-pytorch is not installed")
@pytest.mark.parametrize("factors", [(1, 1), (2, 3), (4, 4)])
def test_mlps_of_perceiver_pytorch_are_as_wide_as_the_recipes(factors):
    of_cross, of_self = (f"model.{name}_attention_widening_factor" for name in ("cross", "self"))
    wide = [f"{of_cross}={factors[0]}", f"{of_self}={factors[1]}"]
    task = build_task(load_recipe(None, ["data.path=nowhere", *KINDS["images"].recipe, *SHAPE, *wide]))
    config = task.config
    model = OTHERS["perceiver-pytorch"](config, config.num_input_channels).model
    width = config.d_latents
    inner = {layer.in_features for layer in model.modules() if isinstance(layer, torch.nn.Linear)}
    assert {factor * width for factor in factors} <= inner and (4 in factors) == (4 * width in inner)
    assert model(torch.randn(2, 7, config.num_input_channels)).shape == (2, config.num_labels)


def test_what_training_leaves_out_is_computed(monkeypatch):
    """As that is what the others compute."""
    seen = []
    forward = PerceiverStudyModel.forward

    def watched(self, *arguments, **kwargs):
        found = forward(self, *arguments, **kwargs)
        seen.append(found.last_hidden_state.shape[1])
        return found

    monkeypatch.setattr(PerceiverStudyModel, "forward", watched)
    overrides = ["data.path=nowhere", *KINDS["images"].recipe, *SHAPE, "model.training_latents=1"]
    task = build_task(load_recipe(None, overrides))
    measure(task, 2, 1, [])
    assert {*seen} == {task.config.num_latents} != {1}
