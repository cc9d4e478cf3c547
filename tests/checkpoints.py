"""A small untrained checkpoint on disk, for tests."""

from pathlib import Path

import torch

from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from modeling_perceiver_study import PerceiverStudyForImageClassification
from tests.small_data import CLASSES, TINY_RUN


def save_checkpoint(folder: Path, *overrides: str) -> PerceiverStudyForImageClassification:
    """The model of `TINY_RUN` with `overrides`, which it returns, and its image processor."""
    recipe = load_recipe(DEFAULT_RECIPE, [*TINY_RUN, *overrides])
    config = build_task(recipe).config
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: label for label, name in config.id2label.items()}
    torch.manual_seed(0)
    model = PerceiverStudyForImageClassification(config).eval()
    model.save_pretrained(folder)
    build_task(recipe).processor.save_pretrained(folder)
    return model
