"""Paths with whatever systems allow in them, other locales, and Windows as far as it can be had here."""

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image

import train
from lab import machine, writing
from lab.checkpoint_names import checkpoint_name
from lab.errors import UserError, run_command
from lab.places import place
from lab.recipe import DEFAULT_RECIPE, load_recipe, recipe_to_yaml
from lab.training.curves import draw_curves
from tests.paths import ROOT, SCRIPTS
from tests.small_data import TINY_RUN, fresh_accelerate, make_image_folder

pytestmark = pytest.mark.slow

ODD = [
    "a b",
    "it's",
    'dou"ble',
    "hash#1",
    "a #b",
    "a: b",
    "c:d",
    "a,b",
    "{x}",
    "k=v",
    "a*b?",
    "~x",
    "ünï-漢",
    "$x$ $",
    "%20",
    "-x",
    "a[b]c",
]
TEXTS = [*ODD, "[ab]", "no", "2024-01-01", "0123", "1e3", "true", "- a", "@x", "&x", "!x", "|"]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("key", ["output_dir", "data.path", "data.cache_dir"])
def test_a_path_is_taken_as_it_stands(key, name, tmp_path):
    """Whatever it would mean in YAML; also when a run's own recipe is read again."""
    recipe = load_recipe(DEFAULT_RECIPE, [f"{key}={tmp_path / name}", f"data.title={name}"])
    section, _, field = key.rpartition(".")
    assert getattr(getattr(recipe, section) if section else recipe, field) == str(tmp_path / name)
    assert recipe.data.title == name
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("text", ["null", "~"])
def test_nothing_is_still_nothing(text):
    assert load_recipe(DEFAULT_RECIPE, [f"data.cache_dir={text}"]).data.cache_dir is None


@pytest.mark.parametrize(
    "key", ["data.path", "data.cache_dir", "pretrained", "data.title", "output_dir", "seed", "model.num_latents"]
)
def test_an_override_without_a_value_is_refused(key):
    """As that of a variable that is not set, which would otherwise be no path, and so scikit-learn's digits."""
    for text in ("", " "):
        with pytest.raises(UserError, match=rf"^{key}= has no value: give one, or {key}=null for none$"):
            load_recipe(DEFAULT_RECIPE, [f"{key}={text}"])


@pytest.mark.parametrize("key", ["data.path", "data.cache_dir", "pretrained", "output_dir"])
def test_an_empty_text_is_no_path(key):
    with pytest.raises(UserError, match=rf"^{key} is an empty text: expected a path, or null$"):
        load_recipe(DEFAULT_RECIPE, [f"{key}=''"])
    with pytest.raises(UserError, match=r"^a path is an empty text: name a file or a folder, or \. for this one$"):
        place("")


def test_quotes_are_those_of_yaml():
    assert load_recipe(DEFAULT_RECIPE, ['data.title="a\\tb"']).data.title == "a\tb"


def test_a_checkpoint_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkpoint_name("~/run") == str(tmp_path / "run")
    assert checkpoint_name("org/name") == "org/name"


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("data: {name: digits, path: ~/data}\n", encoding="utf-8")
    recipe = load_recipe("~/own.yaml", ["output_dir=~/run", "data.cache_dir=~"])
    assert (recipe.output_dir, recipe.data.path) == (str(tmp_path / "run"), str(tmp_path / "data"))
    assert recipe.data.cache_dir is None
    assert place("~/x") == tmp_path / "x"
    with pytest.raises(UserError, match="~nobody-of-this-name/x"):
        place("~nobody-of-this-name/x")


def test_a_path_of_an_archive_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"data.path=.*a::b: .* rename the folder"):
        load_recipe(DEFAULT_RECIPE, [f"data.path={tmp_path / 'a::b'}"])


@pytest.mark.parametrize("name", ["a b #1", "it's [x]*?", 'dou"ble: {y}', "~ünï-漢 $x$ $", "-%20,k=v"])
def test_training_from_and_into_odd_places(name, tmp_path, monkeypatch):
    """Pictures with odd names in a folder with an odd name, decoded into an odd cache, and a run that goes on."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = make_image_folder(tmp_path / name / name)
    for folder in (data / "train").iterdir():
        picture = min(folder.iterdir())
        picture.rename(picture.with_name(f"{name}[1].png"))
    output = tmp_path / name / "runs" / name
    arguments = [*TINY_RUN, "data.validation_samples=3", "optimization.batch_size=3", "checkpoint.every_steps=2"]
    arguments += [f"data.path={data}", f"data.cache_dir={tmp_path / name / 'decoded'}", "data.max_memory_gb=0"]
    for more in ([], ["--resume", "--accept_changes", "optimization.epochs=3"]):
        fresh_accelerate()
        train.main([*arguments, f"output_dir={output}", *more])
    results = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert (results["train_samples"], results["steps"]) == (9, 9)


def test_a_title_is_no_formula(tmp_path):
    lines = [{"kind": "epoch", "step": 1, "epoch": 1, "validation_accuracy": 0.5, "validation_loss": 1.0}]
    (tmp_path / "log").write_text(json.dumps(lines[0]) + "\n", encoding="utf-8")
    draw_curves(tmp_path / "log", tmp_path / "picture.png", title="$_{$ of \\frac", best="accuracy")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (1500, 600)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def launched_in_ascii(*arguments: str, tmp_path: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, **ASCII, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    environment.pop("LANG", None)
    command = [sys.executable, str(SCRIPTS / "train.py"), *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300)


def test_an_ascii_locale(tmp_path):
    """A text of the recipe is not ASCII, nor is what is printed."""
    data = make_image_folder(tmp_path / "data")
    (tmp_path / "own.yaml").write_text(f"data: {{path: {data}, title: ± Bücher × 漢}}\n", encoding="utf-8")
    arguments = [*TINY_RUN, "data.validation_samples=3", "optimization.batch_size=3"]
    done = launched_in_ascii("--config", "own.yaml", *arguments, "output_dir=run", tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert "images of ? B?cher ? ? (best epoch" in done.stdout.decode("ascii")
    assert load_recipe(tmp_path / "run" / "recipe.yaml").data.title == "± Bücher × 漢"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("output_dir=rün", "error: r\\udcc3\\udcbcn cannot be read as ascii.*PYTHONUTF8=1"),
        ("data.path=data", "error: data.path=data: split train cannot be loaded"),
    ],
)
def test_paths_that_an_ascii_locale_cannot_name_are_one_clear_line(argument, message, tmp_path):
    data = make_image_folder(tmp_path / "data")
    (data / "train" / "red").rename(data / "train" / "rötlich")
    done = launched_in_ascii(*TINY_RUN, argument, tmp_path=tmp_path)
    assert done.returncode == 1
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), done.stderr.decode("ascii").splitlines()[-1])


def test_what_cannot_be_printed_is_a_question_mark(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    run_command(lambda: print("98.4 ± 0.8 %"))
    stdout.flush()
    assert stdout.buffer.getvalue() == b"98.4 ? 0.8 %\n"


OTHERS = ("os", "Image", "av", "fsspec", "tarfile", "zipfile")  # whose `open` is not for text
SOURCES = sorted([*SCRIPTS.rglob("*.py"), *(ROOT / "modeling_perceiver_study").glob("*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_of_text_are_utf8_whatever_the_locale(path):
    """`read_text`, `write_text` and `open` say so, unless they are for bytes or another library's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if name not in ("open", "read_text", "write_text") or owner in OTHERS:
            continue
        binary = any(isinstance(value, ast.Constant) and "b" in str(value.value) for value in node.args[:2])
        encoded = any(keyword.arg == "encoding" for keyword in node.keywords)
        assert encoded or (name == "open" and binary), f"{path.name}:{node.lineno}"


def test_windows_opens_no_folder_and_flushes_only_what_may_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    real, opened = os.open, []

    def windows(path, flags, *more):
        if Path(path).is_dir() or not flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        opened.append(Path(path).name)
        return real(path, flags, *more)

    monkeypatch.setattr(writing.os, "open", windows)
    monkeypatch.setattr(writing.sys, "platform", "win32")
    writing.flush(tmp_path / "file")
    writing.flush(tmp_path)
    monkeypatch.undo()
    assert opened == ["file"]


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_have_no_glibc_and_may_not_say_which_cores(platform, monkeypatch):
    def refuse(name):
        raise TypeError("LoadLibrary() argument 1 must be str, not None")

    monkeypatch.setattr(machine.sys, "platform", platform)
    monkeypatch.setattr(machine.ctypes, "CDLL", refuse)
    monkeypatch.delattr(machine.os, "sched_getaffinity", raising=False)
    machine.keep_memory()
    cores = machine.available_cores()
    monkeypatch.undo()
    assert cores == os.cpu_count()
