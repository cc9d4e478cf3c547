"""A finished run is judged on the validation samples that it had, of every kind, or not at all."""

import datasets
import pytest

from lab.errors import UserError
from lab.recipe import load_recipe
from lab.tasks import build_task
from tests.task_kinds import KINDS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_other_validation_samples_are_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    KINDS[kind].write_data(tmp_path / "data")
    recipe = [*KINDS[kind].recipe, f"data.path={tmp_path / 'data'}"]
    kept = build_task(load_recipe(None, recipe)).load_splits()
    task = build_task(load_recipe(None, recipe))
    task.fit(kept)
    assert len(task.load_split("validation")) == len(kept.validation)  # of a run that kept nothing
    task.validated = kept.validated
    assert task.validated and len(task.load_split("validation")) == len(kept.validation)
    other = build_task(load_recipe(None, [*recipe, "data.split_seed=1"]))
    other.fit(kept)
    other.validated = kept.validated
    with pytest.raises(UserError, match=r"the validation samples of .* are not those of the run"):
        other.load_split("validation")
    assert len(other.load_split("test")) == len(kept.test)
