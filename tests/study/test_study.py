import importlib
import json
import re
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy import stats

import study
import train
from lab.errors import UserError
from lab.recipe import CONFIGURATION_FOLDER, DEFAULT_RECIPE, flatten, load_recipe
from lab.study import comparison, permutation, report, training
from lab.study.comparison import (
    FAILS,
    HOLDS,
    IN_PART,
    OPEN,
    Finding,
    conclude,
    difference,
    is_above,
    is_larger,
    is_true,
)
from lab.study.setting import Setting
from lab.study.training import Job, run_all, train_small
from lab.tasks import build_task
from tests.small_data import CLASSES, TINY_RUN, fresh_accelerate, make_parquet
from tests.task_kinds import KINDS

pytestmark = pytest.mark.slow

TRAINED = ["weight_sharing", "cross_attends", "positions", "permutation", "latents_depth"]
TINY = (
    "model.num_latents=2",
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


def double(recipe, plus=0):
    """Work that needs no training; in a module, so that other processes find it."""
    return {"twice": 2 * recipe.seed + plus, "threads": recipe.optimization.cpu_threads}


def test_an_unknown_experiment_is_refused():
    with pytest.raises(UserError, match=r"unknown experiment 'permuation'.*nearest is 'permutation'"):
        study.parse(["permuation"])


def test_the_command_line():
    names, setting, output = study.parse(["positions", "optimization.epochs=3", "weight_sharing", "--seeds", "4", "5"])
    assert names == ["weight_sharing", "positions"]
    assert setting.recipe(seed=5).optimization.epochs == 3
    assert setting.seeds == (4, 5)
    assert output != study.DEFAULT_OUTPUT  # which has the results of the recipe as it is
    assert study.parse([])[::2] == (list(study.EXPERIMENTS), study.DEFAULT_OUTPUT)


def test_an_experiment_wins_over_the_command_line():
    setting = Setting(overrides=("model.num_latents=2",))
    assert setting.recipe("model.num_latents=3").model["num_latents"] == 3
    # One kind of positions can start so and another cannot, which would be no comparison.
    local = Setting(config=CONFIGURATION_FOLDER / "cifar10-study.yaml").recipe("model.position_encoding_type=learned")
    assert build_task(local).config.local_start_width is None
    tuned = Setting(config=CONFIGURATION_FOLDER / "digits-finetune.yaml").recipe()
    assert tuned.pretrained is not None and build_task(tuned).config.local_start_width is None
    with pytest.raises(UserError, match="no local start"):
        Setting(overrides=("model.local_start_reach=0.1",))
    with pytest.raises(UserError, match="--seeds"):
        Setting(overrides=("seed=1",))
    with pytest.raises(UserError, match="--seeds"):
        Setting(seeds=())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_welch_interval(count):
    """Against the formulas of Welch and Satterthwaite."""
    rng = np.random.default_rng(count)
    first, second = rng.normal(0.9, 0.01, count), rng.normal(0.8, 0.03, 4)
    shares = [sample.var(ddof=1) / len(sample) for sample in (first, second)]  # variances of the means
    freedom = sum(shares) ** 2 / (shares[0] ** 2 / (count - 1) + shares[1] ** 2 / 3)
    found = difference(first.tolist(), second.tolist())
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert found.margin == pytest.approx(stats.t.ppf(0.975, freedom) * sum(shares) ** 0.5)


def test_interval_of_a_sample_without_variance():
    """The other sample decides, as in a test of one sample; without any variance there is no margin."""
    interval = stats.ttest_1samp([0.90, 0.92, 0.94], 0.8).confidence_interval(0.95)
    found = difference([0.90, 0.92, 0.94], [0.8] * 3)
    assert found.mean == pytest.approx(0.12) and 2 * found.margin == pytest.approx(interval.high - interval.low)
    assert difference([0.9] * 3, [0.8] * 3).margin == 0


def test_verdicts():
    high, low, wide = [0.90, 0.91, 0.92], [0.80, 0.81, 0.82], [0.60, 0.85, 1.00]
    assert is_larger("so it is", high, low).verdict == HOLDS
    assert is_larger("so it is", low, high).verdict == FAILS
    assert is_larger("so it is", high, wide).verdict == OPEN
    assert is_larger("so it is", high[:1], low[:1]).verdict == OPEN
    assert is_larger("so it is", [0.9, 0.9], [0.9, 0.9]).verdict == OPEN
    assert is_larger("so it is", high, low).text == "so it is: +10.0 ± 2.3 points (holds)"
    in_seconds = is_larger("so it is", [90, 91, 92], [80, 81, 82], unit="seconds", scale=1)
    assert in_seconds.text == "so it is: +10.0 ± 2.3 seconds (holds)"
    assert is_above("so it is", high, 0.9).verdict == OPEN
    assert is_above("so it is", high, 0.8).verdict == HOLDS
    assert is_true("so it is", False) == Finding("so it is (does not hold)", FAILS)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([HOLDS, HOLDS], HOLDS),
        ([HOLDS, FAILS], IN_PART),
        ([OPEN, HOLDS], IN_PART),
        ([OPEN, OPEN], OPEN),
        ([OPEN, FAILS], FAILS),
    ],
)
def test_a_claim_of_several_statements(verdicts, expected):
    assert conclude([Finding("so it is", verdict) for verdict in verdicts]) == (expected, "So it is; so it is.")


def test_trains_as_train_does(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    overrides = [*TINY_RUN, f"data.path={make_parquet(tmp_path / 'data')}", f"output_dir={tmp_path / 'run'}"]
    overrides += ["optimization.epochs=1", "optimization.gradient_accumulation_steps=2", "augmentation.crop_padding=1"]
    train.main(overrides)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    fresh_accelerate()

    steps = []
    (tmp_path / "data" / "test.parquet").unlink()  # not read
    recipe = load_recipe(DEFAULT_RECIPE, overrides)
    run = train_small(recipe, watch=lambda step, model: steps.append((step, model.training)))
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())
    assert run.validation["accuracy"] == metrics["validation_accuracy"]
    assert run.parameters == metrics["parameters"]
    assert steps == [(step, False) for step in range(metrics["steps"] + 1)]
    samples = training.load_samples(recipe)
    assert samples.task.label_names == CLASSES
    arguments, labels = samples.task.inputs(samples.train.__getitems__(list(range(len(samples.train)))))
    with torch.no_grad():
        right = (run.model(**arguments).logits.argmax(dim=-1) == labels).double().mean().item()
    assert run.train == pytest.approx(right)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_each_kind_are_kept(kind, tmp_path, monkeypatch):
    """And read again where the reading is another."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    KINDS[kind].write_data(tmp_path / "data")
    given = [*KINDS[kind].recipe, "data.name=made-up", f"data.path={tmp_path / 'data'}"]
    first = training.load_samples(load_recipe(None, given)).train
    assert training.load_samples(load_recipe(None, [*given, "seed=3"])).train is first
    assert training.load_samples(load_recipe(None, [*given, "data.split_seed=3"])).train is not first


def test_texts_in_pieces_are_not_those_in_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    KINDS["masked-lm"].write_data(tmp_path / "data")
    given = [*KINDS["masked-lm"].recipe, "data.name=made-up", f"data.path={tmp_path / 'data'}"]
    rows = training.load_samples(load_recipe(None, given)).train
    assert training.load_samples(load_recipe(None, [*given, "tokenizer.join=true"])).train is not rows


@pytest.mark.parametrize(("kind", "best"), [("text", "accuracy"), ("masked-lm", "bits_per_byte")])
def test_a_study_of_texts_trains(kind, best, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    KINDS[kind].write_data(tmp_path / "data")
    given = [*KINDS[kind].recipe, "data.name=made-up", f"data.path={tmp_path / 'data'}", "optimization.epochs=1"]
    assert np.isfinite(train_small(load_recipe(None, given)).scores()[f"train_{best}"])


def test_runs_are_remembered(setting, monkeypatch):
    jobs = [Job({"name": seed}, setting.recipe(seed=seed), double) for seed in (3, 1, 3)]
    expected = [{"name": 3, "twice": 6}, {"name": 1, "twice": 2}, {"name": 3, "twice": 6}]
    found = run_all(jobs, setting, "doubles")
    assert [{key: run[key] for key in ("name", "twice")} for run in found] == expected
    assert len(list(setting.cache.iterdir())) == 2  # the same run twice is one
    monkeypatch.setattr(Job, "__call__", lambda job: pytest.fail("it was done before"))
    assert run_all(jobs, setting, "doubles") == found
    with pytest.raises(pytest.fail.Exception):
        run_all(jobs, Setting(cache=setting.cache, processes=1, again=True), "doubles")


def test_what_a_run_is_remembered_by(setting):
    def identity(*overrides, **changes):
        return Job({}, setting.recipe(*overrides), double, **changes).identity()

    assert identity("optimization.cpu_threads=2", "output_dir=elsewhere") == identity()
    assert "matmul_precision" not in identity()  # a key that comes later, with a default, changes nothing
    different = [identity(), identity("model.num_latents=3"), identity(arguments={"plus": 1})]
    assert len(set(different)) == 3


def test_a_study_that_stopped_goes_on(setting):
    def stop(recipe):
        if recipe.seed == 1:
            raise UserError("stopped")
        return {"done": recipe.seed}

    jobs = [Job({}, setting.recipe(seed=seed), stop) for seed in (0, 1, 2)]
    with pytest.raises(UserError, match="stopped"):
        run_all(jobs, setting, "stops")
    assert [json.loads(path.read_text())["result"] for path in setting.cache.iterdir()] == [{"done": 0}]


def test_side_by_side(tmp_path):
    setting = Setting(cache=tmp_path, processes=2)
    jobs = [
        Job({"seed": seed}, setting.recipe("optimization.cpu_threads=7", seed=seed), double, {"plus": 1})
        for seed in range(3)
    ]
    assert run_all(jobs, setting, "doubles") == [
        {"seed": seed, "twice": 2 * seed + 1, "threads": 1} for seed in range(3)
    ]


@pytest.mark.parametrize("name", TRAINED)
def test_an_experiment(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [name, *TINY, "--seeds", "0", "1", "--processes", "1", "--output", "out"]
    study.main(command)
    measured = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    module = importlib.import_module(f"lab.study.{name}")
    page = (tmp_path / "out" / report.REPORT).read_text()
    verdict, reason = comparison.conclude(module.judge(measured["result"]))
    assert verdict in (HOLDS, FAILS, IN_PART, OPEN)
    assert f"**Verdict: {verdict}.** {reason}" in page
    assert module.tabulate(measured["result"]) in page
    assert {run["seed"] for run in measured["result"]["runs"]} == {0, 1}
    with Image.open(tmp_path / "out" / f"{name}.png") as picture:
        assert picture.width > 500


def test_a_finished_experiment_is_only_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["weight_sharing", *TINY, "--seeds", "0", "--processes", "1", "--output", "out"]
    study.main(command)
    picture = tmp_path / "out" / "weight_sharing.png"
    picture.unlink()
    fresh_accelerate()
    module = importlib.import_module("lab.study.weight_sharing")
    monkeypatch.setattr(module, "run", lambda setting: pytest.fail("it was measured before"))
    study.main(command)
    assert picture.exists()
    for changed in ("--again", "--seeds=1", "optimization.learning_rate=0.1"):
        fresh_accelerate()
        with pytest.raises(pytest.fail.Exception):
            study.main([*command, changed])


def test_permuted_byte_arrays_have_the_same_logits(setting):
    recipe = setting.recipe("optimization.epochs=2", seed=1)
    model = train_small(recipe).model
    found = permutation.compare_permuted(model, recipe)
    assert found["largest_difference"] < 1e-5 * max(1, found["largest_logit"])
    order = permutation.permutation(model.config.grid, recipe.seed)
    assert sorted(order.tolist()) == list(range(64))
    pixels = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        moved = model(pixel_values=pixels.flatten(2)[..., order].view_as(pixels)).logits
        assert (moved - model(pixel_values=pixels).logits).abs().max() > 1e-2  # pixels alone


def test_a_convolution_sees_permuted_neighbours(setting):
    recipe = setting.recipe(seed=1)
    torch.manual_seed(0)
    plain = permutation.ConvNet(build_task(recipe), permuted=False)
    permuted = permutation.ConvNet(build_task(recipe), permuted=True)
    permuted.layers = plain.layers
    seen = []
    plain.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(2)))
    pixels = torch.randn(2, 1, 8, 8)
    logits = [model(pixels).logits for model in (plain, permuted)]
    assert torch.equal(seen[0][..., permuted.order], seen[1])
    assert not torch.allclose(*logits, atol=1e-3)


def test_varied_settings(monkeypatch):
    """What the experiments vary, without training."""
    setting = Setting(seeds=(5,))
    for name in TRAINED:
        module = importlib.import_module(f"lab.study.{name}")
        recipes = {}

        def collect(jobs, setting, title, recipes=recipes):
            for job in jobs:
                names = {key: value for key, value in job.names.items() if key != "seed"}
                recipes.setdefault(json.dumps(names), []).append(job)
            return []

        monkeypatch.setattr(module, "run_all", collect)
        module.run(setting)
        assert all([job.recipe.seed for job in jobs] == [5] for jobs in recipes.values()), name
        kinds = [
            json.dumps([flatten(jobs[0].recipe), jobs[0].work.__name__, jobs[0].arguments]) for jobs in recipes.values()
        ]
        # The recipe's own number of bands and Nyquist stand in all parts of an experiment.
        repeated = {"positions": 2, "latents_depth": 3}.get(name, 0)
        assert len(kinds) - len(set(kinds)) == repeated, name


def test_settings_say_what_was_done():
    """Nothing more: what trains nothing names no recipe, and what trains names the models that are trained."""
    for name, experiment in study.load_experiments().items():
        settings = experiment.settings(Setting(seeds=(3,)))
        assert ("recipe" in settings) == ("seeds" in settings) == (name != "complexity")
    complexity, maps = (importlib.import_module(f"lab.study.{name}") for name in ("complexity", "attention_maps"))
    words = set(re.findall(r"[a-z]+", report.describe(complexity.settings(Setting()))))
    assert "trained" in words and not words & {"epochs", "batches", "digits", "seeds"}
    assert "4 cross-attends and 8 self-attends" in report.describe(maps.settings(Setting()))
    looked_into = maps.settings(Setting(checkpoint="org/name"))
    assert set(looked_into) == {"checkpoint", "data"} and all(key.startswith("data.") for key in looked_into["data"])
    assert report.describe(looked_into) == "Nothing is trained: the checkpoint org/name, on digits."


@pytest.mark.parametrize("folder", [study.DEFAULT_OUTPUT, study.DEFAULT_OUTPUT / "cifar10"], ids=lambda path: path.name)
def test_the_report_is_what_the_measurements_say(folder):
    experiments = study.load_experiments()
    text = (folder / report.REPORT).read_text()
    assert text == report.report(folder, experiments), "run: python scripts/study.py"
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (folder / link).exists(), link


def test_each_experiment_is_kept():
    for name in study.load_experiments():
        assert all((study.DEFAULT_OUTPUT / f"{name}.{ending}").exists() for ending in ("json", "png")), name


def test_names_of_the_registry():
    assert comparison.RULE in report.report(study.DEFAULT_OUTPUT, {})
    assert set(TRAINED) < set(study.EXPERIMENTS)


def test_samples_are_altered_in_evaluation_too():
    task = SimpleNamespace(
        best="accuracy", inputs=lambda batch: (batch, "t"), training_inputs=lambda batch, *_: (batch, "t")
    )
    altered = training.Altered(task, lambda given: {name: value + 1 for name, value in given.items()})
    assert altered.inputs({"x": 1}) == altered.training_inputs({"x": 1}, 0, 0) == ({"x": 2}, "t")
    assert altered.best == "accuracy"


@pytest.mark.parametrize("seeds", [(), (0, 0), (1, 2, 1)])
def test_each_seed_counts_once(seeds):
    with pytest.raises(UserError, match="expected at least one, and each once"):
        Setting(seeds=seeds)
