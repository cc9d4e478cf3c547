"""docs/extending.md is true: what it says to save and to type works, and is as short as it claims."""

import json
import os
import re
import sys

import pytest
import torch

from lab.errors import UserError
from lab.judging.checkpoints import load_classifier
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.release.card import render_card
from lab.scoring import measures
from lab.tasks import build_task
from tests.fresh_processes import python
from tests.paths import ROOT, SCRIPTS

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.mark.slow
def test_the_page_is_executed(tmp_path):
    assert len(block("python").splitlines()) < 60
    (tmp_path / "dna.py").write_text(block("python"), encoding="utf-8")
    (tmp_path / "dna.yaml").write_text(block("yaml"), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", str(ROOT)]), "ACCELERATE_USE_CPU": "true"}
    typed = [line.split() for line in block("sh").splitlines() if line.startswith("accelerate launch")]
    for _, _, script, *arguments in typed:
        done = python(SCRIPTS.parent / script, *arguments, folder=tmp_path, environment=environment)
        assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "output" / "dna" / "metrics.json").read_text())
    scores = json.loads((tmp_path / "output" / "dna" / "evaluation" / "test" / "evaluation.json").read_text())
    assert metrics["test_accuracy"] == scores["accuracy"] > 0.6, "it has learned something: chance is 0.25"
    assert (tmp_path / "output" / "dna" / "evaluation" / "test" / "confusion_matrix.png").exists()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("nowhere:Task", r"task=nowhere:Task cannot be imported: No module named 'nowhere'"),
        ("lab.errors:Task", r"task=lab.errors:Task cannot be imported: .*has no attribute 'Task'"),
        ("lab.errors:UserError", r"task=lab.errors:UserError: expected a subclass of lab.tasks.task.Task"),
        (
            "nothing",
            r"task=nothing: expected one of image-classification, .*, or module:Class of a task of yours",
        ),
    ],
)
def test_what_is_not_a_task(task, message):
    with pytest.raises(UserError, match=message):
        build_task(load_recipe(DEFAULT_RECIPE, [f"task={task}"]))


OWN = """
from dna import *

class OwnConfig(PerceiverStudyConfig):
    model_type = "perceiver_study_own"
    own_field: int = 4

class OwnModel(PerceiverStudyForImageClassification):
    config_class = OwnConfig

class OwnTask(MostFrequentLetter):
    model_class = OwnModel

    def build_config(self):
        shape = {"num_axes": 1, "num_channels": len(LETTERS), "image_size": LENGTH, "num_labels": len(LETTERS)}
        return build("model", OwnConfig, shape | self.recipe.model)
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The page's recipe; its module, and one with a configuration of its own, are found by Python."""
    (tmp_path / "dna.py").write_text(block("python"), encoding="utf-8")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "dna.yaml").write_text(block("yaml"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "dna.yaml"
    for name in ("dna", "own"):
        sys.modules.pop(name, None)


def test_fields_of_a_configuration_of_ones_own(recipe, tmp_path):
    overrides = ["task=own:OwnTask", "model.own_field=3"]
    task = build_task(load_recipe(recipe, overrides))
    assert task.config.own_field == 3
    task.build_model().save_pretrained(tmp_path / "saved")
    task.processor.save_pretrained(tmp_path / "saved")
    again = build_task(load_recipe(recipe, [overrides[0], f"pretrained={tmp_path / 'saved'}"]))
    assert again.config.own_field == 3
    with pytest.raises(UserError, match="holds a perceiver_study_own model; expected perceiver_study "):
        build_task(load_recipe(recipe, [f"pretrained={tmp_path / 'saved'}"]))


@pytest.mark.parametrize(
    ("overrides", "key", "nearest"),
    [
        (["task=own:OwnTask", "model.own_fild=3"], "model.own_fild", "model.own_field"),
        (["model.own_field=3"], "model.own_field", "model.*"),
        (["model.num_latens=3"], "model.num_latens", "model.num_latents"),
    ],
)
def test_a_field_that_the_configuration_does_not_have(recipe, overrides, key, nearest):
    with pytest.raises(UserError, match=f"unknown key '{key}'; the nearest is '{nearest}'"):
        build_task(load_recipe(recipe, overrides))
    with pytest.raises(UserError, match=r"unknown key 'model.own_field' in model.own_field=3; the nearest is"):
        load_recipe(recipe, ["task=image-classification", "model.own_field=3"])


def test_a_checkpoint_of_a_task_without_a_view(recipe, tmp_path):
    task = build_task(load_recipe(recipe))
    task.build_model().save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "recipe.yaml").write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match="task=dna:MostFrequentLetter has no view, which says how a file is read"):
        load_classifier(str(tmp_path / "saved"))
    type(task).view = type("OwnView", (), {"task": "letters", "settings": {}})
    with pytest.raises(UserError, match="there is no pipeline letters; custom_pipelines of its configuration name one"):
        load_classifier(str(tmp_path / "saved"))


def test_a_card_of_a_task_that_says_little_of_itself(recipe):
    task = build_task(load_recipe(recipe))
    judged = {"logits": torch.eye(4).numpy(), "labels": torch.arange(4).numpy()}
    metrics = {
        **dict.fromkeys(("train_samples", "validation_samples", "test_samples", "epochs", "steps", "best_epoch"), 1),
        **dict.fromkeys(("train_seconds", "parameters", "seed"), 1),
        **{"hardware": "a CPU, 1 thread", "test_accuracy": 1.0, "validation_accuracy": 1.0},
        **{"versions": {"torch": "2", "transformers": "5"}, "git_commit": None},
    }
    card = str(render_card("org/dna", "apache-2.0", task.recipe, task, [metrics], judged, [], {}))
    assert "that classifies pieces of DNA into 4 classes" in card and "look at elements of the input" in card


def test_a_score_of_ones_own(monkeypatch):
    monkeypatch.setattr(measures, "_MEASURES", dict(measures._MEASURES))
    with pytest.raises(UserError, match="endpoint_error is not a known score"):
        measures.measure_of("endpoint_error")
    measures.add_measure("endpoint_error", measures.Measure("end-point error", higher_is_better=False))
    assert measures.is_score("endpoint_error") and measures.measure_of("endpoint_error").title == "end-point error"
