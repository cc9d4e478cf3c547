"""What a recipe is merged of: a file, and then overrides."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.errors import UserError, one_line

CONFIGURATION_FOLDER = Path(__file__).resolve().parents[2] / "configuration"


def read_file(path: str | Path, sections: Collection[str]) -> dict:
    """What the file of a recipe says.

    Raises:
        UserError: it is not there, or is no YAML of a recipe.
    """
    try:
        layer = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        presets = ", ".join(sorted(preset.name for preset in CONFIGURATION_FOLDER.glob("*.yaml")))
        raise UserError(f"no recipe at {path}; there are {presets} in {CONFIGURATION_FOLDER.name}/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read as YAML: {one_line(error)}") from None
    if not isinstance(layer, dict):
        raise UserError(f"{path} is not a recipe: expected `key: value` lines, got a list")
    # A section with nothing but comments in it reads as None.
    return {key: {} if value is None and key in sections else value for key, value in layer.items()}


def forget(merged: DictConfig, key: str, layer: dict):
    """Empty what an override of this key replaces as a whole: what stands in braces in a section, and what is empty.

    Otherwise it would be added to what the recipe has: rows would have to fit both conditions, and a task or a column
    that the recipe names could not be taken away. Whole sections are added to, key by key.
    """
    before, given = OmegaConf.select(merged, key), OmegaConf.select(OmegaConf.create(layer), key)
    replaced = isinstance(given, DictConfig) and (not given or "." in key)
    if replaced and isinstance(before, DictConfig) and OmegaConf.get_type(before) is dict:
        OmegaConf.update(merged, key, {}, merge=False)


def texts_in(value: Any) -> Iterator[str]:
    """Keys and texts, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from texts_in(inner)
