import json
import subprocess
from types import SimpleNamespace

import pytest

import repeat
from lab.errors import UserError
from tests.processes import run_script
from tests.task_kinds import KINDS, make_sound

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_processes(monkeypatch):
    monkeypatch.setattr(repeat, "subprocess", SimpleNamespace(run=run_script, STDOUT=subprocess.STDOUT))


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
    repeat.main([*arguments, f"output_dir={tmp_path}", "--seeds", "0", "1"])  # nothing is trained again
    assert (tmp_path / "seed-0" / "model.safetensors").stat().st_mtime == before


def test_groups(arguments, tmp_path):
    repeat.main([*arguments, "--processes", "2", "--leave_out", "speaker", "b", "c", f"output_dir={tmp_path}"])
    result = json.loads((tmp_path / "repeated.json").read_text())
    assert result["samples"] == {"speaker-b": 20, "speaker-c": 20} and result["runs"] == 2


def test_what_is_refused(arguments, tmp_path):
    with pytest.raises(UserError, match="nothing to do"):
        repeat.main(arguments)
    with pytest.raises(UserError, match=r"speaker-nobody did not end well: see .*NAME.log"):
        repeat.main([*arguments, f"output_dir={tmp_path}", "--leave_out", "speaker", "nobody"])
    assert "no row has it" in (tmp_path / "speaker-nobody.log").read_text()
