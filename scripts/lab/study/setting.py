"""What a study is run with."""

from dataclasses import dataclass
from pathlib import Path

from lab.errors import UserError
from lab.recipe import CONFIGURATION_FOLDER, Recipe, load_recipe
from lab.training.precision import settle_precision

DEFAULT_CONFIG = CONFIGURATION_FOLDER / "study-digits.yaml"


@dataclass(frozen=True)
class Setting:
    """The recipe that all experiments vary, and how.

    Attributes:
        config: file of the recipe.
        overrides: `key=value`, for every run of every experiment.
        seeds: each comparison is repeated with all of them.
        checkpoint: folder or Hub name of a trained model for the experiments that look into one; None trains one.
        cache: folder of finished training runs.
        processes: how many train side by side on a CPU; None is one for each core.
        again: train anew what is in the cache.

    Raises:
        UserError: overrides set the seed or a local start, or there are no seeds.
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
            raise UserError("seed= is no override of a study, which has several: give --seeds")
        if any(text.startswith("model.local_start_") for text in self.overrides):
            raise UserError("model.local_start_...= is no override of a study, whose models have no local start")
        if not self.seeds:
            raise UserError("--seeds: expected at least one")

    def recipe(self, *overrides: str, seed: int = 0) -> Recipe:
        """The study's recipe with what an experiment changes, which wins over the study's own overrides.

        Without a local start: not all that is compared can have one, and the claims are of models that had none. A
        precision of `auto` is settled for this machine, so that it is part of what a run is remembered by.
        """
        recipe = load_recipe(self.config, [*self.overrides, *overrides, f"seed={seed}"])
        for field in ("local_start_width", "local_start_reach"):
            recipe.model.pop(field, None)
        return settle_precision(recipe)
