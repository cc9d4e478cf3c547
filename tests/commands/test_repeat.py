import json
import subprocess

import pytest

import repeat
from lab.errors import UserError
from lab.recipe import load_recipe
from lab.runs import Runs
from tests.processes import train_quickly
from tests.task_kinds import KINDS, make_sound

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_processes(monkeypatch):
    monkeypatch.setattr(Runs, "train", train_quickly)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repeat")
    (folder / "plain.yaml").write_text("seed: 0\n")
    data = make_sound(folder / "data")
    recipe = [*KINDS["spectrograms"].recipe, "logging.log_with=null", f"data.path={data}"]
    return ["--config", str(folder / "plain.yaml"), *recipe, f"data.cache_dir={folder / 'cache'}"]


def test_seeds(arguments, tmp_path, capsys):
    repeat.main([*arguments, "--seeds", "0", "1", f"output_dir={tmp_path}"])
    result = json.loads((tmp_path / "repeated.json").read_text())
    each = [json.loads((tmp_path / f"seed-{seed}" / "metrics.json").read_text())["test_accuracy"] for seed in (0, 1)]
    assert result["split"] == "test" and list(result["each"]["accuracy"].values()) == each
    assert result["mean"]["accuracy"] == pytest.approx(sum(each) / 2)
    assert result["standard_deviation"]["accuracy"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    assert "| mean | " in capsys.readouterr().out
    before = (tmp_path / "seed-0" / "model.safetensors").stat().st_mtime
    repeat.main([*arguments, f"output_dir={tmp_path}", "--seeds", "0", "01", "00"])  # nothing is trained again
    assert (tmp_path / "seed-0" / "model.safetensors").stat().st_mtime == before


def test_groups(arguments, tmp_path):
    repeat.main([*arguments, "--processes", "2", "--leave_out", "speaker", "b", "c", f"output_dir={tmp_path}"])
    result = json.loads((tmp_path / "repeated.json").read_text())
    assert result["samples"] == {"speaker-b": 20, "speaker-c": 20} and result["runs"] == 2


TEXTS = ["no", "null", "07", "1e3", "3", "a, b", "a: b", "#1", 'say "a"', "[a]", "ä", ""]


@pytest.mark.parametrize("column", ["speaker", "no", "a: b"])
def test_what_is_left_out_is_the_text_that_was_typed(arguments, tmp_path, monkeypatch, column):
    asked = []

    def train(runs, arguments, **_):
        recipe = load_recipe(None, [text for text in arguments if text.startswith("data.")])
        asked.append(recipe.data.hold_out)
        return subprocess.CompletedProcess(arguments, 1)

    monkeypatch.setattr(Runs, "train", train)
    with pytest.raises(UserError, match="did not end well"):
        repeat.main([*arguments, f"output_dir={tmp_path}", "--leave_out", column, *TEXTS])
    assert asked == [{column: text} for text in TEXTS]


def test_a_recipe_that_holds_out_itself(arguments, tmp_path, monkeypatch):
    """Another column would be asked for besides; the same one is replaced."""
    monkeypatch.setattr(Runs, "train", lambda runs, arguments, **_: subprocess.CompletedProcess(arguments, 1))
    given = [*arguments, f"output_dir={tmp_path}", "--leave_out", "speaker", "b"]
    with pytest.raises(UserError, match=r"--leave_out speaker: the recipe's data.hold_out names session, and"):
        repeat.main([*given, "data.hold_out={session: 3}"])
    with pytest.raises(UserError, match="speaker-b did not end well"):
        repeat.main([*given, "data.hold_out={speaker: c}"])


def test_what_is_refused(arguments, tmp_path):
    with pytest.raises(UserError, match="nothing to do"):
        repeat.main(arguments)
    with pytest.raises(UserError, match=r"speaker-nobody did not end well: see .*NAME.log"):
        repeat.main([*arguments, f"output_dir={tmp_path}", "--leave_out", "speaker", "nobody"])
    assert "no row has it" in (tmp_path / "speaker-nobody.log").read_text()
