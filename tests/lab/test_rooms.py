"""The rule of imports: rooms of scripts/lab know only rooms below them, and nobody imports a command."""

import ast
import importlib.metadata
import sys
from pathlib import Path

import pytest

from tests.paths import SCRIPTS

LAB = SCRIPTS / "lab"

# From the lowest up: a file imports only from its own room and from those before it.
ROOMS = [
    "errors",
    "writing",
    "waiting",
    "machine",
    "provenance",
    "places",
    "runs",
    "checkpoint_names",
    "changes",
    "layers",
    "recipe",
    "arguments",
    "augment",
    "data",
    "looking",
    "scoring",
    "tasks",
    "judging",
    "training",
    "peers",
    "release",
    "study",
]
COMMANDS = sorted(path.stem for path in SCRIPTS.glob("*.py"))
FILES = sorted(SCRIPTS.rglob("*.py"))
MOST_LINES = 400


def name_of(path: Path) -> str:
    return path.relative_to(SCRIPTS).as_posix()


def imports(path: Path) -> list[tuple[int, str]]:
    """Lines and full names of modules that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} is relative: say where it is from"
            # `from lab import recipe` imports a module too.
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "lab" else [node.module]
            found += [(node.lineno, name) for name in names]
    return found


def room_of(path: Path) -> str:
    return path.relative_to(LAB).parts[0].removesuffix(".py")


def test_every_room_has_a_place_in_the_order():
    assert sorted({room_of(path) for path in LAB.rglob("*.py")}) == sorted(ROOMS)


@pytest.mark.parametrize("path", sorted(LAB.rglob("*.py")), ids=name_of)
def test_imports_point_down(path):
    own = ROOMS.index(room_of(path))
    for line, name in imports(path):
        if name.split(".")[0] == "lab":
            room = name.split(".")[1]
            assert ROOMS.index(room) <= own, f"line {line} imports {name}, from a room above {ROOMS[own]}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_command_is_imported(path):
    for line, name in imports(path):
        assert name.split(".")[0] not in COMMANDS, f"line {line} imports the command {name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_paths_of_imports_are_left_alone(path):
    """Python finds what is beside a command by itself, and the package because it is installed."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_it = isinstance(node, ast.Attribute) and node.attr == "path" and getattr(node.value, "id", "") == "sys"
        assert not is_it, f"line {node.lineno} uses sys.path"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_nothing_is_called_like_something_installed():
    """A command `evaluate.py` would hide the library of that name from all others."""
    ours = {*COMMANDS, "lab"}
    assert not ours & set(sys.stdlib_module_names)
    editable = {"modeling_perceiver_study"}
    assert not ours & (set(importlib.metadata.packages_distributions()) - editable)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import lab.recipe", ["lab.recipe"]),
        ("from lab import recipe, errors", ["lab.recipe", "lab.errors"]),
        ("def f():\n    from train import main", ["train"]),
    ],
)
def test_the_reader_of_imports_misses_none(source, names, tmp_path):
    (tmp_path / "file.py").write_text(source, encoding="utf-8")
    assert [name for _, name in imports(tmp_path / "file.py")] == names
