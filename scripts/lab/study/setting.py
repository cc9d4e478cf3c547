"""The settings of a study."""

from dataclasses import dataclass
from pathlib import Path

from lab.errors import UserError
from lab.layers import CONFIGURATION_FOLDER
from lab.recipe import Recipe, architecture_keys, effective, load_recipe
from lab.training.precision import settle_precision

DEFAULT_CONFIG = CONFIGURATION_FOLDER / "study-digits.yaml"


@dataclass(frozen=True)
class Setting:
    """The recipe that all experiments vary, and how to run them.

    Attributes:
        config: file of the recipe.
        overrides: `key=value` texts that hold for every run of every experiment.
        seeds: every comparison is repeated with each of them.
        checkpoint: folder or Hub name of a trained model for the experiments that can inspect one; None trains one.
        cache: folder of finished training runs.
        processes: how many runs train side by side on a CPU; None is one for each core.
        again: train again what is in the cache.

    Raises:
        UserError: the overrides set the seed or a local start, or there are no seeds, or one is there twice.
    """

    config: Path = DEFAULT_CONFIG
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoint: str | None = None
    cache: Path = Path("output/study-cache")
    processes: int | None = None
    again: bool = False

    def __post_init__(self):
        if any(text.startswith("seed=") for text in self.overrides):
            raise UserError("seed= cannot be set in a study, which has several seeds: give --seeds")
        if any(text.startswith("model.local_start_") for text in self.overrides):
            raise UserError("model.local_start_...= cannot be set in a study, whose models have no local start")
        if not self.seeds or len({*self.seeds}) < len(self.seeds):
            given = " ".join(map(str, self.seeds))
            raise UserError(f"--seeds {given}: expected at least one, and each once, as twice the same says nothing")

    def recipe(self, *overrides: str, seed: int = 0) -> Recipe:
        """Return the study's recipe with the overrides of an experiment, which win over the study's own.

        A precision of `auto` is settled for this machine, so that it is part of what a run is remembered by. The recipe
        has no local start: some of the compared models cannot have one, and the claims are about models without one.
        """
        recipe = load_recipe(self.config, [*self.overrides, *overrides, f"seed={seed}"])
        recipe.model = {field: value for field, value in recipe.model.items() if not field.startswith("local_start_")}
        if recipe.pretrained is not None:  # whose configuration may say otherwise
            recipe.model |= {field: None for field in architecture_keys() if field.startswith("local_start_")}
        return settle_precision(recipe)

    def for_training(self, *overrides: str) -> dict:
        """Return what decides the results of an experiment that trains: its recipe, with all keys, and the seeds.

        Args:
            overrides: what the experiment changes in all its runs.
        """
        return {"recipe": effective(self.recipe(*overrides)), "seeds": list(self.seeds)}

    def for_checkpoint(self) -> dict:
        """Return what decides the results of an experiment that inspects a checkpoint: its name and the data."""
        data = {key: value for key, value in effective(self.recipe()).items() if key.startswith("data.")}
        return {"checkpoint": self.checkpoint, "data": data}
