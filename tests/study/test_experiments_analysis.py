"""The experiments of scripts/study.py that look into models."""

import importlib
import json
import math

import numpy as np
import pytest
import torch

from lab.looking.logit_parts import logit_parts
from lab.study import (
    attention_maps,
    complexity,
    content_position,
    elastic,
    latents,
    positions,
    query_tuning,
    weight_sharing,
)
from lab.study.comparison import FAILS, HOLDS, IN_PART, OPEN, conclude
from lab.study.setting import Setting
from lab.study.training import Samples, load_samples, train_on
from lab.tasks import build_task
from tests.checkpoints import save_checkpoint
from tests.models import pixels, small_model
from tests.small_data import fresh_accelerate

pytestmark = pytest.mark.slow

TINY = (
    "model.num_latents=3",
    "model.d_latents=16",
    "data.train_samples=50",
    "data.validation_samples=30",
    "optimization.batch_size=25",
    "optimization.epochs=1",
)


@pytest.fixture(autouse=True)
def one_accelerator():
    fresh_accelerate()
    yield
    fresh_accelerate()


@pytest.fixture
def setting(tmp_path):
    return Setting(overrides=TINY, seeds=(0, 1), cache=tmp_path / "cache", processes=1)


@pytest.fixture
def small_sizes(monkeypatch):
    """Of what the complexity is measured on."""
    for name, values in {
        "SIDES": (8, 12, 16),
        "TRANSFORMER_SIDES": (4, 6, 8),
        "LATENTS": (4, 6, 8),
        "DEPTHS": (1, 2, 3),
    }.items():
        monkeypatch.setattr(complexity, name, values)
    monkeypatch.setattr(complexity, "_SECONDS", 0.001)
    monkeypatch.setattr(complexity, "_ROUNDS", 1)
    monkeypatch.setattr(query_tuning, "STEPS", 2)
    monkeypatch.setattr(query_tuning, "RATES", {query_tuning.QUERY: (0.01, 0.1), query_tuning.ALL: (0.01,)})


@pytest.mark.parametrize(
    "name", ["attention_maps", "complexity", "content_position", "latents", "query_tuning", "elastic"]
)
def test_measured_drawn_and_judged_from_json_alone(name, setting, small_sizes):
    experiment = importlib.import_module(f"lab.study.{name}")
    text = json.dumps(experiment.run(setting), allow_nan=False)
    assert len(text) < 100_000
    result = json.loads(text)
    figure = experiment.draw(result)
    figure.draw_without_rendering()
    assert all(axes.has_data() for axes in figure.axes)
    assert experiment.tabulate(result).startswith(("|", "Shares"))
    verdict, reason = conclude(experiment.judge(result))
    assert verdict in (HOLDS, FAILS, IN_PART, OPEN)
    assert reason.endswith(".") and "nan" not in reason
    assert experiment.TITLE and experiment.CLAIM.endswith(".") and experiment.SOURCE


def test_attention_maps_of_a_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "model", "model.num_blocks=2", "model.num_cross_attends=2")
    setting = Setting(overrides=TINY, checkpoint=str(tmp_path / "model"), cache=tmp_path / "cache")
    result = json.loads(json.dumps(attention_maps.run(setting)))
    assert [len(run["cross_attends"]) for run in result["runs"]] == [2]
    assert [line["cross_attend"] for line in result["runs"][0]["example"]["lines"]] == [1, 2]
    assert conclude(attention_maps.judge(result))[0] == OPEN, "one model decides nothing"
    attention_maps.draw(result).draw_without_rendering()


def describe(logits, intensity):
    centred = logits - logits.mean(dim=(-2, -1), keepdim=True)
    return attention_maps.describe(centred, intensity)


def test_maps_that_are_all_of_one_kind():
    generator = torch.Generator().manual_seed(0)
    intensity = torch.rand(5, 8, 6, generator=generator)
    rows, columns = torch.randn(2, 4, 8, 1, generator=generator), torch.randn(2, 4, 1, 6, generator=generator)
    of_image = describe(3 * intensity[:, None, None], intensity)
    assert of_image["image"] == pytest.approx(1) and of_image["changing"] > 0.5
    plaid = describe((rows + columns).expand(5, -1, -1, -1, -1), intensity)
    assert plaid["plaid"] == pytest.approx(1) and plaid["changing"] == pytest.approx(0, abs=1e-4)
    checkers = (-1.0) ** (torch.arange(8)[:, None] + torch.arange(6))
    fine = describe(checkers.expand(5, 1, 1, 8, 6), intensity)
    assert fine["high"] == pytest.approx(1) and fine["plaid"] == pytest.approx(0, abs=1e-4)
    slow = torch.cos(2 * torch.pi * torch.arange(8) / 8)[:, None].expand(5, 1, 1, 8, 6)
    assert describe(slow, intensity)["high"] == pytest.approx(0, abs=1e-4)


def test_maps_of_noise_have_the_shares_that_are_documented():
    logits = torch.randn(50, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    found = describe(logits, torch.rand(50, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert found["image"] == pytest.approx(1 / 63, abs=0.005)
    assert found["plaid"] == pytest.approx(14 / 63, abs=0.005)


def test_heads_kept_to_one_kind_stay_so(setting):
    """Through a training step with weight decay, and in what the model computes."""
    model = small_model(share_cross_attend_weights=False)
    content_position.keep_apart(model, content_position.APART)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    inputs = pixels(model.config)
    for _ in range(2):
        model(pixel_values=inputs).logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for layer in model.perceiver.cross_attends:
        first, second = layer.attention.k_proj.weight.chunk(2)  # of two heads
        assert not first[:, 3:].any() and first[:, :3].all()
        assert not second[:, :3].any() and second[:, 3:].all()
    content, position, _ = logit_parts(model, inputs)[0].shares(over=(0, 2))
    assert content[0] > 0.8 and position[1] > 0.8
    assert abs(position[0]) < 0.2 and abs(content[1]) < 0.2


def test_heads_that_know_both_are_left_alone():
    model, untouched = small_model(), small_model()
    content_position.keep_apart(model, content_position.BOTH)
    for parameter, same in zip(model.parameters(), untouched.parameters(), strict=True):
        assert parameter.equal(same) and not parameter._backward_hooks


def content_result(content, kinds, apart):
    """Three seeds with two cross-attends; `apart` is what heads of one kind gain."""
    runs = []
    for keys, gain in ((content_position.BOTH, 0.0), (content_position.APART, apart)):
        for seed in range(3):
            shares = [[content, 1 - content, 0.0]] * 2
            runs.append(
                {
                    "keys": keys,
                    "seed": seed,
                    "validation_accuracy": 0.9 + gain + 0.001 * seed,
                    "history": [{"step": 0, "shares": shares}, {"step": 5, "shares": shares}],
                    "kinds": [dict(zip(("content", "position"), kinds, strict=True))] * 2,
                }
            )
    return {"runs": runs}


@pytest.mark.parametrize(
    ("content", "kinds", "apart", "verdict", "block"),
    [
        (0.4, (0.5, 0.5), 0.05, HOLDS, "are better"),
        (0.4, (0.5, 0.5), -0.05, IN_PART, "are worse"),
        (0.01, (0.0, 0.05), -0.05, IN_PART, "are worse"),  # most of it is position
        (0.4, (0.0, 0.3), 0.0, IN_PART, "cannot tell the difference"),
    ],
)
def test_verdict_on_two_kinds(content, kinds, apart, verdict, block):
    result = content_result(content, kinds, apart)
    assert conclude(content_position.judge(result))[0] == verdict
    assert block in content_position.verdict_on_block(result)


def test_similarity_of_latents():
    same = torch.randn(2, 1, 7).expand(-1, 5, -1)
    assert latents.mean_cosine(same).item() == pytest.approx(1)
    assert latents.effective_rank(same).item() == pytest.approx(1, abs=0.01)
    orthogonal = 3 * torch.eye(5, 7).expand(2, -1, -1)
    assert latents.mean_cosine(orthogonal).item() == pytest.approx(0)
    assert latents.effective_rank(orthogonal).item() == pytest.approx(5)
    opposite = torch.tensor([[[1.0, 0.0], [-2.0, 0.0]]])
    assert latents.mean_cosine(opposite).item() == pytest.approx(-1)


def test_fields_of_latents():
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 3] = 0.5  # a single pixel at the top right
    maps[1] = 1.0
    point, even = latents.fields(maps)
    assert point == {"row": 0.125, "column": 0.875, "width": 0.0}
    assert even["row"] == even["column"] == 0.5
    assert even["width"] == pytest.approx(math.sqrt(2 * (1 - 1 / 16) / 12), abs=1e-4)


def test_states_have_the_names_of_their_layers(setting):
    recipe = setting.recipe("model.num_blocks=3", "model.num_cross_attends=2", "model.num_self_attends_per_block=2")
    images = load_samples(recipe)
    config = small_model(
        num_blocks=3, num_cross_attends=2, num_self_attends_per_block=2, image_size=8, num_channels=1
    ).config
    names = latents.layer_names(config)
    assert names == ["cross 1", "self 1", "self 2", "cross 2", "self 3", "self 4", "self 5", "self 6"]
    model = small_model(**{name: getattr(config, name) for name in ("num_cross_attends", "image_size", "num_channels")})
    states = latents.hidden_states(model, images.validation, images.task)
    assert len(states) == config.num_hidden_layers == len(names)
    batch = images.validation.__getitems__(range(30))
    with torch.no_grad():
        last = model.perceiver(pixel_values=images.task.normalize(batch["pixels"])).last_hidden_state
    torch.testing.assert_close(states[-1], last)


def test_a_probe_scores_images_that_it_was_not_fitted_on():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    states = torch.from_numpy(np.eye(3, 6)[labels] + 0.01 * rng.normal(size=(90, 6))).float()[:, None].expand(-1, 2, -1)
    train, validation = slice(60), slice(60, 90)
    assert latents.probe(states[train], labels[train], states[validation], labels[validation]) == 1
    assert latents.probe(states[train], labels[train], states[validation], (labels[validation] + 1) % 3) == 0


def test_exponents_of_power_laws():
    points = [{"value": value, "seconds": 3 * value**1.5} for value in (10, 20, 40)]
    slope, error = complexity.fit(points, "seconds")
    assert slope == pytest.approx(1.5) and error == pytest.approx(0, abs=1e-6)


def test_counted_products_are_those_of_the_arithmetic():
    tower = complexity.Series("self-attends", complexity.tower, "L", (3,), 1)
    point = complexity.count(*tower.part(3))
    n, d = complexity._LATENTS, complexity.WIDTH
    assert point["gflop"] == pytest.approx(3 * (2 * 6 * n * d**2 + 2 * 2 * n**2 * d) / 1e9)
    plain = complexity.Series("transformer", complexity.transformer, "M", (8,), 2)
    m, channels, depth = 64, 3 + 2 * 33, complexity._DEPTH
    expected = 2 * m * channels * d + depth * (2 * 6 * m * d**2 + 2 * 2 * m**2 * d)
    assert complexity.count(*plain.part(8))["gflop"] == pytest.approx(expected / 1e9)


def growth(name, variable, claimed, measured):
    points = [{"value": value, "seconds": value**measured, "megabytes": float(value)} for value in (8, 16, 32)]
    return {"name": name, "variable": variable, "exponent": claimed, "points": points}


@pytest.mark.parametrize(("quadratic", "verdict"), [(2.0, HOLDS), (2.5, IN_PART)])
def test_verdict_on_growth(quadratic, verdict):
    series = [
        growth("cross-attend", "M", 1, 1.0),
        growth("self-attends", "N", 2, quadratic),
        growth("whole Perceiver", "M", 1, 0.8),
        growth("transformer on pixels", "M", 2, 1.9),
    ]
    found, reason = conclude(complexity.judge({"series": series}))
    assert found == verdict
    assert "to the 1.90, of a whole Perceiver to the 0.80" in reason


def test_what_learns_from_few_images(setting):
    """Of the pretrained model the query and the head, or all weights, from the images that were drawn alone."""
    recipe = setting.recipe(*query_tuning.SHAPE, seed=1)
    samples = load_samples(recipe)
    rows = np.flatnonzero(samples.train.labels >= 5)
    places = [query_tuning.drawn_evenly(samples.train.labels[rows], shots, seed=1) for shots in (1, 2)]
    assert [len(place) for place in places] == [5, 10] and set(places[0]) < set(places[1])
    some = query_tuning.OfClasses(samples.train, rows[places[1]], first=5)
    batch = some.__getitems__([3, 0])
    assert batch["labels"].tolist() == [1, 0] and batch["pixels"].shape == (2, 1, 8, 8)
    pretrained = query_tuning.with_head(samples.task, 5)
    before = {name: weight.clone() for name, weight in pretrained.state_dict().items()}
    moved = {}
    for way in query_tuning.RATES:
        task = load_samples(query_tuning.few_shot_recipe(recipe, way, 0.01, len(some))).task
        tuned = train_on(
            Samples(some, some, task), build=lambda task: query_tuning.with_head(task, 5, pretrained)
        ).model
        moved[way] = {name for name, weight in tuned.state_dict().items() if not weight.equal(before[name])}
    assert moved[query_tuning.QUERY] == {"decoder.query.weight", "classifier.weight", "classifier.bias"}
    assert moved[query_tuning.ALL] > moved[query_tuning.QUERY]


def test_a_rate_is_judged_on_images_that_did_not_choose_it():
    tried = [
        {"way": way, "shots": 1, "rate": rate, "right": right}
        for way in (query_tuning.QUERY, query_tuning.ALL, query_tuning.PROBE)
        for rate, right in ((0.1, [9, 1]), (0.2, [2, 8]))
    ]
    found = query_tuning.accuracies({"runs": [{"tried": tried, "images": [10, 10]}]})
    assert found[query_tuning.QUERY] == {1: [(2 + 1) / 20]}


def test_budgets_of_a_recipe(setting):
    assert elastic.budgets(setting.recipe("model.num_latents=8")) == [(2, 1), (4, 1), (4, 2), (8, 2), (8, 4)]
    recipe = setting.recipe(*elastic.shape(elastic.BLOCKS))
    samples = load_samples(recipe)
    model = samples.task.build_model().eval()
    costs = [elastic.cost(model, samples, *place) for place in ((1, 1), (2, 1), (2, 2), (3, 4))]
    assert costs == sorted(costs) and costs[1] == pytest.approx(costs[2] / 2, rel=0.05)
    _, blocks, _ = elastic.measure(lambda inputs: elastic.classify_early(model, 0.0, **inputs), model, samples)
    assert blocks.tolist() == [1] * 30


def test_what_is_compared_is_what_the_claims_say(monkeypatch):
    jobs = []
    for module in (elastic, weight_sharing):
        monkeypatch.setattr(module, "run_all", lambda found, *_: jobs.extend(found) or [])
    weight_sharing.run(Setting(seeds=(0,)))
    with torch.device("meta"):
        shared, apart = (build_task(job.recipe).new_model().num_parameters() for job in jobs)
    assert jobs[0].names["weights"] == weight_sharing.SHARED and shared < apart
    assert positions._nyquist(Setting()) == 4  # of 8 x 8 pixels
    jobs.clear()
    elastic.run(Setting(overrides=("model.num_latents=8", "optimization.epochs=2"), seeds=(0,)))
    longest, short, *fixed = (job.recipe for job in jobs)
    assert [one.optimization.epochs for one in (longest, short, *fixed)] == [10, 2, 2, 2, 2, 2, 2]
    assert longest.model["training_latents"] == [2, 8] and longest.model["training_blocks"] == [1, 4]
    places = [(one.model["num_latents"], one.model["num_blocks"]) for one in fixed]
    assert places == [(2, 1), (4, 1), (4, 2), (8, 2), (8, 4)]
    assert all(one.model["training_latents"] is None for one in fixed)
