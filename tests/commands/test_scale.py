import pytest

import scale
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from tests.small_data import TINY_RUN

COST = scale.Cost(
    parameters=1_000_000,
    forward_flops=400 * 10**9,
    step_flops=1200 * 10**9,
    activation_bytes=500 * 10**6,
    fixed_bytes=10 * 10**6,
)


def recipe(*overrides):
    return load_recipe(DEFAULT_RECIPE, [*TINY_RUN, *overrides])


def task(*overrides):
    return build_task(recipe(*overrides))


def test_flops_of_the_latents_are_those_of_arithmetic():
    """What another layer adds, of which all products are known: the cross-attend is not among them."""
    latents, width, widening, pixels = 4, 16, 2, 64
    costs = [scale.measure(task(f"model.num_self_attends_per_block={depth}")) for depth in (1, 2)]
    products = 4 * latents * width**2 + 2 * latents**2 * width + 2 * widening * latents * width**2
    assert costs[1].forward_flops - costs[0].forward_flops == 2 * products
    assert costs[1].step_flops - costs[0].step_flops == 3 * 2 * products
    assert costs[0].forward_flops > 2 * latents * pixels * 3


def test_activations_are_counted_once_and_without_weights():
    costs = [scale.measure(task(f"model.num_self_attends_per_block={depth}")) for depth in (1, 2, 3)]
    each = costs[1].activation_bytes - costs[0].activation_bytes
    assert costs[2].activation_bytes - costs[1].activation_bytes == each
    latents_bytes = 4 * 16 * 4
    # Two norms, queries, keys, values, attended, two of the MLP twice as wide, and little else.
    assert 10 * latents_bytes < each < 24 * latents_bytes


def test_half_precision_keeps_less():
    full, half = (scale.measure(task(f"optimization.mixed_precision={dtype}")) for dtype in ("no", "bf16"))
    assert half.activation_bytes < full.activation_bytes
    assert half.step_flops == full.step_flops


def test_memory():
    table = scale.memory_table(COST, recipe("optimization.batch_size=64"), processes=8)
    assert "| weights | 1,000,000 x 4 bytes | 0.00 |" in table
    assert "| activations | 8 samples x 500 MB | 4.00 |" in table
    assert "| **sum** |  | 4.03 |" in table
    halved = recipe("optimization.batch_size=64", "optimization.gradient_accumulation_steps=2")
    assert "| activations | 4 samples x 500 MB | 2.00 |" in scale.memory_table(COST, halved, processes=8)


def test_days():
    table = scale.time_table(COST, recipe("optimization.epochs=120"), samples=1_000_000, processes=8)
    # 120e6 images x 1.2e12 FLOP / (8 x 100e12 FLOP/s) = 180,000 s
    assert "| 100, an assumption | 667 | 2.1 |" in table
    table = scale.time_table(COST, recipe("optimization.epochs=120"), samples=1_000_000, processes=8, measured=500.0)
    assert "| 75.0, from the measured throughput | 500 | 2.8 |" in table and "assumption" not in table


def test_the_command(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {name: digits, train_samples: 48}\n")
    scale.main(["--config", str(path), "--processes", "2", *TINY_RUN])
    printed = capsys.readouterr().out
    assert "2 epochs of 48 samples" in printed and "\n0 GFLOP" not in printed


@pytest.mark.parametrize("speed", ["0", "-5", "nan", "inf", "fast"])
def test_a_speed_that_is_none(speed, capsys):
    with pytest.raises(SystemExit):
        scale.main(["--samples_per_second", speed, *TINY_RUN])
    assert f"{speed}: expected a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "how long is an epoch"), (["--train_samples", "9", "--processes", "3"], "--processes 3 does not cut")],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        scale.main([*options, *TINY_RUN])
