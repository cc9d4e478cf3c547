import json
import shutil

import numpy as np
import pytest

import fuse
import train
from lab.errors import UserError
from tests.small_data import TINY_RUN, fresh_accelerate, make_parquet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuse")
    make_parquet(folder / "data")
    make_parquet(folder / "fewer", test=20)
    for name, data, seed in (("one", "data", 0), ("two", "data", 1), ("other", "fewer", 0)):
        fresh_accelerate()
        common = [f"data.path={folder / data}", "logging.log_with=null", f"seed={seed}"]
        train.main([*TINY_RUN, *common, f"output_dir={folder / name}"])
    return folder


def test_the_mean_of_two_models(runs, tmp_path, capsys):
    fresh_accelerate()
    fuse.main([str(runs / "one"), str(runs / "two"), "-o", str(tmp_path / "fused.json")])
    scores = json.loads((tmp_path / "fused.json").read_text())["scores"]
    assert list(scores) == [str(runs / "one"), str(runs / "two"), "mean"]
    kept = [json.loads((runs / name / "metrics.json").read_text())["test_loss"] for name in ("one", "two")]
    assert [scores[str(runs / name)]["loss"] for name in ("one", "two")] == pytest.approx(kept, abs=1e-4)
    assert scores["mean"]["loss"] < np.mean(kept)  # of a mean of probabilities it is never more
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_other_samples_of_the_same_labels_are_refused(runs):
    """Stratified splits of sorted samples have equal labels, whichever samples they are."""
    recipe = runs / "two" / "recipe.yaml"
    kept = recipe.read_text()
    try:
        recipe.write_text(kept.replace("split_seed: 0", "split_seed: 1"))
        assert recipe.read_text() != kept
        fresh_accelerate()
        with pytest.raises(UserError, match=r"validation samples .* are not those of the run"):
            fuse.main([str(runs / "one"), str(runs / "two"), "--split", "validation"])
    finally:
        recipe.write_text(kept)


def test_other_samples_are_refused(runs):
    fresh_accelerate()
    with pytest.raises(UserError, match="has other samples than"):
        fuse.main([str(runs / "one"), str(runs / "other")])


def test_answers_that_are_no_labels_are_refused_before_any_is_judged(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(fuse, "predict", lambda *_: pytest.fail("judged"))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text("task: masked-lm\ndata: {name: made-up}\n")
    fresh_accelerate()
    with pytest.raises(UserError, match="is of task=masked-lm, whose samples have no labels"):
        fuse.main([str(runs / "one"), str(tmp_path)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{folder}/one", "{folder}/one/"], "one/ is named twice"),
        (["{folder}/one", "mean"], r"mean is what .* are called: give that checkpoint as \./mean"),
        (["{folder}/one", "-o", "{folder}"], "cannot be written: it is a folder"),
        (["{folder}/one", "-o", "{folder}/nowhere/fused.json"], "cannot be written: there is no folder"),
    ],
)
def test_mistakes_are_named_before_any_is_judged(runs, monkeypatch, options, message):
    monkeypatch.setattr(fuse, "predict", lambda *_: pytest.fail("judged"))
    fresh_accelerate()
    with pytest.raises(UserError, match=message):
        fuse.main([text.format(folder=runs) for text in options])


def test_classes_in_another_order_are_refused(runs, tmp_path):
    shutil.copytree(runs / "two", tmp_path / "two")
    settings = json.loads((tmp_path / "two" / "config.json").read_text())
    settings |= {"id2label": {"0": "blue", "1": "red", "2": "green"}, "label2id": {}}
    (tmp_path / "two" / "config.json").write_text(json.dumps(settings))
    fresh_accelerate()
    with pytest.raises(UserError, match=r"two has classes blue, red, green, and .*one has red, green, blue"):
        fuse.main([str(runs / "one"), str(tmp_path / "two")])
