import math
from itertools import pairwise

import pytest
import torch

from lab.recipe import Optimization
from lab.training.learner import schedule
from lab.training.optimization import build_optimizers, parameter_groups
from tests.models import small_model


@pytest.mark.parametrize("fields", [{}, {"position_encoding_type": "learned", "decoder_type": "query"}])
def test_only_matrices_decay(fields):
    model = small_model(**fields)
    decayed, kept = parameter_groups(model, weight_decay=0.1)
    names = {id(weight): name for name, weight in model.named_parameters() if weight.requires_grad}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    for parameter in decayed["params"]:
        name = names.pop(id(parameter))
        assert parameter.ndim == 2 and name.endswith(".weight")
        assert not any(word in name for word in ("norm", "latents", "positions", "query.")), name
    for parameter in kept["params"]:
        name = names.pop(id(parameter))
        assert parameter.ndim == 1 or any(word in name for word in ("latents", "positions", "query.")), name
    assert not names


def test_learning_rate_warms_up_and_goes_to_zero():
    rates = [schedule(step / 10, warmup=0.2) for step in range(11)]
    assert rates[:3] == [0.0, 0.5, 1.0]
    assert all(later < earlier for earlier, later in pairwise(rates[2:]))
    assert rates[-1] == pytest.approx(0)
    assert schedule(0.0, warmup=0.0) == 1.0


def test_learning_rate_falls_along_a_cosine():
    assert schedule(0.4, warmup=0.2) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert schedule(0.6, warmup=0.2) == pytest.approx(0.5)


def test_muon_has_the_matrices_between_layers_and_adamw_the_rest():
    model = small_model()
    settings = Optimization(optimizer="muon", weight_decay=0.1)
    muon, adamw = build_optimizers(model, settings, "classifier")
    names = {id(weight): name for name, weight in model.named_parameters() if weight.requires_grad}
    hidden = [names.pop(id(parameter)) for group in muon.param_groups for parameter in group["params"]]
    rest = {names.pop(id(p)): group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    assert not names
    assert all(name.endswith(("_proj.weight", "fc1.weight", "fc2.weight")) for name in hidden)
    assert not any(name.endswith(("_proj.weight", "fc1.weight", "fc2.weight")) for name in rest)
    assert {name for name, decay in rest.items() if decay} == {"classifier.weight"}
    assert muon.param_groups[0]["weight_decay"] == 0.1


def test_muon_steps_are_as_large_as_adamws_and_orthogonal():
    model = small_model()
    settings = Optimization(optimizer="muon", learning_rate=0.1, weight_decay=0.0, warmup=0.0)
    muon, _ = build_optimizers(model, settings, "classifier")
    weight = model.perceiver.blocks[0][0].mlp.fc1.weight
    before = weight.detach().clone()
    torch.manual_seed(0)
    weight.grad = torch.randn_like(weight) * torch.logspace(-2, 0, weight.shape[1])  # far from orthogonal
    muon.step()
    change = (weight - before).detach()
    # Elements of AdamW move by 0.2 to 0.4 of the learning rate; singular values come out between 0.7 and 1.2.
    assert change.square().mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.15)
    values = torch.linalg.svdvals(change)
    assert values.max() < 2 * values.min()
