"""Every key of a recipe is in the table of what may change when a run is resumed."""

import dataclasses
from fnmatch import fnmatchcase

import pytest

from lab import changes
from lab.changes import ACCEPTED, FREE, refusals, verdict
from lab.recipe import DEFAULT_RECIPE, Recipe, _known_keys, flatten, load_recipe
from lab.tasks import TASKS, build_task


def all_keys() -> set[str]:
    """Those of the recipe, of the model, and of the sections of all tasks."""
    sections = {field.name for field in dataclasses.fields(Recipe) if field.default_factory is not dataclasses.MISSING}
    keys = set(flatten(Recipe())) | set(_known_keys())
    keys |= set(flatten(build_task(load_recipe(DEFAULT_RECIPE)).recipe))
    for task in TASKS.values():
        keys |= {f"{task.processor_section}.any"}  # verbatim to the processor
        keys |= {f"augmentation.{field.name}" for field in dataclasses.fields(task.augmentation_class)}
    return {key for key in keys if key not in sections}


KEYS = sorted(all_keys())


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_verdict(key):
    assert verdict(key) != changes._UNKNOWN, f"say in lab/changes.py whether a run may be resumed with another {key}"


@pytest.mark.parametrize("pattern", changes._VERDICTS)
def test_every_verdict_is_of_some_key(pattern):
    assert any(fnmatchcase(key, pattern) for key in KEYS)


def test_sections_that_every_recipe_has_are_listed_key_by_key():
    """A new key of these is then missing from the table, and not allowed or refused by a pattern that fits it."""
    assert not [key for key in changes._VERDICTS if "*" in key and key.startswith(("data", "optimization"))]


def test_masks_also_ask_validation_texts():
    assert refusals(["augmentation.share"]) == []
    (refused,) = refusals(["augmentation.share"], "masked-lm")
    assert refused.startswith("augmentation.share (it decides which bytes of the validation texts are asked for")


def test_what_is_not_in_the_table_is_refused():
    assert verdict("optimization.new") not in (FREE, ACCEPTED)
    assert refusals(["seed", "output_dir", "optimization.epochs", "model.num_latents"]) == [
        "seed (it decides in which order samples come, so an epoch would have some twice and others not at all)",
        "model.num_latents (the weights that the run has are those of another model)",
    ]
