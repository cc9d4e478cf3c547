"""docs/extending.md is true: what it says to save and to type works, and is as short as it claims."""

import json
import os
import re
import subprocess
import sys

import pytest

from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from tests.paths import ROOT, SCRIPTS

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_page_is_executed(tmp_path):
    assert len(block("python").splitlines()) < 60
    (tmp_path / "dna.py").write_text(block("python"), encoding="utf-8")
    (tmp_path / "dna.yaml").write_text(block("yaml"), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", str(ROOT)]), "ACCELERATE_USE_CPU": "true"}
    typed = [line.split() for line in block("sh").splitlines() if line.startswith("accelerate launch")]
    for _, _, script, *arguments in typed:
        command = [sys.executable, str(SCRIPTS.parent / script), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
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
