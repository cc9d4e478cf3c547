"""What trackers are told; those that are not installed here are stood in for."""

import pytest
from accelerate import Accelerator, tracking
from accelerate.tracking import GeneralTracker

import train
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.training.trackers import chosen_tracker, start_trackers
from tests.small_data import fresh_accelerate


class Recorder(GeneralTracker):
    """What accelerate gives a tracker."""

    requires_logging_directory = False
    started = []

    def __init__(self, project, **settings):
        super().__init__(_blank=True)
        self.started.append((project, settings))

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.started[-1] += (values,)


@pytest.mark.parametrize(
    ("tracker", "key"),
    [("wandb", "name"), ("trackio", "name"), ("mlflow", "run_name"), ("swanlab", "experiment_name")],
)
@pytest.mark.parametrize("run", [None, "first try"])
def test_names_reach_the_tracker(monkeypatch, tracker, key, run):
    fresh_accelerate()
    Recorder.started.clear()
    accelerator = Accelerator(cpu=True)
    accelerator.log_with = [tracker]
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, tracker, Recorder)
    overrides = [f"logging.log_with={tracker}", "logging.project=ours", f"logging.run_name={run or 'null'}"]
    recipe = load_recipe(DEFAULT_RECIPE, overrides)
    assert chosen_tracker(recipe.logging) == tracker
    start_trackers(accelerator, recipe)
    ((project, settings, configuration),) = Recorder.started
    assert (project, settings) == ("ours", {key: run} if run else {})
    assert configuration["seed"] == "0"


@pytest.mark.parametrize(("run", "folder"), [(None, "ours"), ("first", "ours/first")])
def test_tensorboard_has_a_folder_for_each_run(tmp_path, run, folder):
    fresh_accelerate()
    more = ["model.num_latents=4", "optimization.epochs=1", "checkpoint.every_steps=0", "logging.log_with=tensorboard"]
    names = ["logging.project=ours", f"logging.run_name={run or 'null'}"]
    train.main([*more, *names, f"output_dir={tmp_path / 'run'}"])
    events = [path for path in (tmp_path / "run" / folder).iterdir() if path.name.startswith("events.out")]
    assert events


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["logging.project=a/b"], r"logging.project=a/b: expected a name without / and \\"),
        (["logging.run_name=.."], r"logging.run_name=..: expected a name"),
        (["logging.run_name=x", "logging.log_with=aim"], r"logging.run_name=x: aim takes none .* wandb do"),
    ],
)
def test_names_that_cannot_be(overrides, message):
    with pytest.raises(UserError, match=message):
        chosen_tracker(load_recipe(DEFAULT_RECIPE, overrides).logging)
