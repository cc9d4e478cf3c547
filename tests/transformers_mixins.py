"""Loads transformers' common tests (see `fetch_transformers_tests`), from which ours inherit.

Their files import a few neighbours that the source distribution leaves out. Nothing of those is needed here, so empty
classes stand in where they are missing.
"""

import importlib
import re
import sys
import types
from pathlib import Path
from unittest import mock

import pytest
import transformers

from tests.fetch_transformers_tests import MARKER, tests_folder

PACKAGE = "transformers_common_tests"
# Values other than the defaults, which every config has to take and keep.
CONFIG_COMMON_KWARGS = {
    "architectures": ["AnArchitecture"],
    "chunk_size_feed_forward": 2,
    "dtype": "float16",
    "id2label": {0: "cat", 1: "dog", 2: "frog"},
    "label2id": {"cat": 0, "dog": 1, "frog": 2},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "multi_label_classification",
    "return_dict": False,
}
STAND_INS = {
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": CONFIG_COMMON_KWARGS},
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
}


def load(module: str) -> types.ModuleType:
    """The module of that name, without `.py`; skips the importing test file if the common tests are not there."""
    folder = tests_folder()
    if not (folder / MARKER).is_file():
        pytest.skip(
            f"transformers' common tests are not in {folder}: run python tests/fetch_transformers_tests.py",
            allow_module_level=True,
        )
    if PACKAGE not in sys.modules:
        _add_package(PACKAGE, folder)
        for name, attributes in STAND_INS.items():
            _add_stand_in(name, attributes, folder)
    # They append to sys.path, and look for transformers beside themselves.
    with (
        mock.patch.object(sys, "path", list(sys.path)),
        mock.patch.object(transformers.utils, "direct_transformers_import", lambda *args, **kwargs: transformers),
    ):
        return importlib.import_module(f"{PACKAGE}.{module}")


def markers() -> set[str]:
    """Names of the pytest markers that transformers' common tests use."""
    files = [*tests_folder().glob("test_*.py"), Path(transformers.__file__).with_name("testing_utils.py")]
    return {name for file in files for name in re.findall(r"\bmark\.(\w+)", file.read_text(encoding="utf-8"))}


def _add_package(name: str, folder: Path):
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def _add_stand_in(name: str, attributes: dict, folder: Path):
    *parents, _ = name.removeprefix(f"{PACKAGE}.").split(".")
    if parents and folder.joinpath(*parents).is_dir():  # a full checkout has the real one
        return
    if parents:
        _add_package(f"{PACKAGE}.{'.'.join(parents)}", folder.joinpath(*parents))
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
