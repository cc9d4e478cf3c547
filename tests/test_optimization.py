from itertools import pairwise

import pytest
import torch

from optimization import build_optimizer, parameter_groups
from recipe import Optimization
from tests.models import small_model


@pytest.mark.parametrize("fields", [{}, {"position_encoding_type": "learned", "decoder_type": "query"}])
def test_only_matrices_decay(fields):
    model = small_model(**fields)
    decayed, kept = parameter_groups(model, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
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
    settings = Optimization(learning_rate=0.5, warmup=0.2)
    optimizer, schedule = build_optimizer(torch.nn.Linear(2, 2), settings, total_steps=10)
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:3] == [0.0, 0.25, 0.5]
    assert all(later < earlier for earlier, later in pairwise(rates[2:]))
    assert schedule.get_last_lr()[0] == pytest.approx(0)
