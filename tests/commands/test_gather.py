import json

import pytest

import gather
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe, recipe_to_yaml


def gathered(folder, contents, *options):
    """What the command writes as JSON for a line `all` of files with some contents, and a line of the first alone."""
    files = [folder / f"{name}.json" for name in contents]
    for file, content in zip(files, contents.values(), strict=True):
        file.write_text(json.dumps(content))
    lines = ["--line", "all", *map(str, files), "--line", "one", str(files[0])]
    gather.main([*lines, "--output", str(folder / "made" / "table.md"), *options])
    return json.loads((folder / "made" / "table.json").read_text())


def test_a_table_of_files_of_all_three_kinds(tmp_path):
    contents = {
        "metrics": {"test_accuracy": 0.5, "validation_accuracy": 0.9},
        "evaluation": {"split": "test", "accuracy": 0.7},
        "fused": {"split": "test", "scores": {"one": {"accuracy": 0.1}, "mean": {"accuracy": 0.9}}},
    }
    found = gathered(tmp_path, contents)
    assert (tmp_path / "made" / "table.md").read_text().splitlines() == [
        "| | split | accuracy | seeds |",
        "|---|---|---:|---:|",
        "| all | test | 70.00 ± 20.00 % | 3 |",
        "| one | test | 50.00 % | 1 |",
    ]
    assert found["all"] == {"split": "test", "scores": [0.5, 0.7, 0.9]}


@pytest.mark.parametrize(
    "other",
    [
        {"validation_accuracy": 0.5},
        {"split": "validation", "accuracy": 0.5},
        {"split": "validation", "scores": {"mean": {"accuracy": 0.5}}},
    ],
)
def test_scores_of_several_splits_are_not_averaged(tmp_path, other):
    with pytest.raises(UserError, match=r"--line all has scores of several splits \(.*one.json of test, .*validation"):
        gathered(tmp_path, {"one": {"test_accuracy": 0.7}, "other": other})
    assert gathered(tmp_path, {"other": other})["one"] == {"split": "validation", "scores": [0.5]}


ODD = [{}, [], {"split": "test"}, {"split": "test", "scores": {"mean": {"loss": 1.0}}}]
ODD += [{"split": "test", "scores": {"mean": 3}}, {"split": ["a"], "accuracy": 0.5}]


@pytest.mark.parametrize("content", ODD)
def test_files_without_a_score_are_refused(tmp_path, content):
    with pytest.raises(UserError, match=r"other.json has no accuracy: expected a file of train.py"):
        gathered(tmp_path, {"other": content})
    with pytest.raises(UserError, match=r"none.json cannot be read"):
        gather.main(["--line", "x", str(tmp_path / "none.json"), "--output", str(tmp_path / "table.md")])


@pytest.mark.parametrize("score", [None, float("nan"), "high", True, [1]])
def test_scores_that_are_no_numbers_are_refused(tmp_path, score):
    with pytest.raises(UserError, match=r"odd.json has test_accuracy=.*: expected a finite number"):
        gathered(tmp_path, {"odd": {"test_accuracy": score}})


def test_a_file_counts_once(tmp_path):
    (tmp_path / "one.json").write_text('{"test_accuracy": 0.5}')
    files = [str(tmp_path / "one.json"), str(tmp_path / "." / "one.json")]
    with pytest.raises(UserError, match="--line x has a file twice"):
        gather.main(["--line", "x", *files, "--output", str(tmp_path / "table.md")])


METRICS = {"test_accuracy": 0.5, "seed": 0}
EVALUATION = {"split": "test", "accuracy": 0.5, "checkpoint": "output/run", "data_settings": {"path": "a"}}
FUSED = {"split": "test", "scores": {"run": {"accuracy": 0.1}, "mean": {"accuracy": 0.9}}}


@pytest.mark.parametrize(
    ("content", "other", "named"),
    [
        (METRICS, {"seed": 1}, "seed 0"),
        (EVALUATION, {"checkpoint": "output/other"}, "checkpoint output/run"),
        (EVALUATION, {"data_settings": {"path": "b"}}, "checkpoint output/run"),
        (FUSED, {"scores": {"other": {}, "mean": {"accuracy": 0.9}}}, "checkpoints run"),
    ],
)
def test_a_run_counts_once(tmp_path, content, other, named):
    with pytest.raises(
        UserError, match=rf"--line all: .*/a.json and .*/b.json are both of {named}; give each run once"
    ):
        gathered(tmp_path, {"a": content, "b": content})
    assert len(gathered(tmp_path, {"a": content, "b": content | other})["all"]["scores"]) == 2


@pytest.mark.parametrize("same", [True, False])
def test_runs_of_one_seed_may_differ_in_their_recipes(tmp_path, same):
    files = []
    for number in range(2):
        recipe = load_recipe(
            DEFAULT_RECIPE, [f"output_dir={number}", f"data.hold_out={{subject: {0 if same else number}}}"]
        )
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "recipe.yaml").write_text(recipe_to_yaml(recipe))
        files.append(tmp_path / str(number) / "metrics.json")
        files[-1].write_text(json.dumps(METRICS))
    arguments = ["--line", "x", *map(str, files), "--output", str(tmp_path / "table.md")]
    if same:
        with pytest.raises(UserError, match="are both of seed 0; give each run once"):
            gather.main(arguments)
    else:
        gather.main(arguments)


def test_an_unknown_score_is_refused(tmp_path):
    with pytest.raises(UserError, match="--score acuracy: expected the name of a score"):
        gathered(tmp_path, {"metrics": {"test_accuracy": 0.5}}, "--score", "acuracy")


def test_bars_in_labels_are_no_columns(tmp_path):
    (tmp_path / "one.json").write_text('{"test_accuracy": 0.5}')
    gather.main(["--line", "a|b", str(tmp_path / "one.json"), "--output", str(tmp_path / "table.md")])
    assert "| a\\|b | test | 50.00 % | 1 |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "{folder}/table.json"], "table.json: expected a name such as table.md"),
        (["--output", "{folder}/one.json/table.md"], "one.json cannot be made a folder"),
        (["--output", "{folder}"], "cannot be written: it is a folder"),
        (["--line", "x", "{folder}/one.json", "--output", "{folder}/table.md"], "--line x is there twice"),
        (["--output", "{folder}/one.md"], r"one.md would replace .*one.json, which is not of a table"),
    ],
)
def test_what_would_overwrite_something_is_refused(tmp_path, options, message):
    (tmp_path / "one.json").write_text('{"test_accuracy": 0.5}')
    with pytest.raises(UserError, match=message):
        gather.main(["--line", "x", str(tmp_path / "one.json"), *(text.format(folder=tmp_path) for text in options)])
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_a_table_is_made_anew(tmp_path):
    (tmp_path / "one.json").write_text('{"test_accuracy": 0.5}')
    for label in ("a", "b"):
        gather.main(["--line", label, str(tmp_path / "one.json"), "--output", str(tmp_path / "table.md")])
    assert list(json.loads((tmp_path / "table.json").read_text())) == ["b"]


def test_a_folder_in_place_of_the_numbers_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "one.json").write_text('{"test_accuracy": 0.5}')
    (tmp_path / "table.json").mkdir()
    with pytest.raises(UserError, match=r"table.json cannot be written: it is a folder"):
        gather.main(["--line", "a", str(tmp_path / "one.json"), "--output", str(tmp_path / "table.md")])
    assert not (tmp_path / "table.md").exists()
