"""A kind of input from outside, alone and beside pictures: two files, and all commands know it (docs/extending.md)."""

import json
import os
import shutil

import datasets
import numpy as np
import pytest

from tests.fresh_processes import python
from tests.paths import ROOT, SCRIPTS
from tests.small_data import CLASSES, TINY_RUN, coloured_images

pytestmark = pytest.mark.slow

OWN = ROOT / "tests" / "own_kind"
OF_PICTURES = ("model.image_size", "model.num_channels", "model.num_frequency_bands", "image_processor")
RUN = [text for text in TINY_RUN if not text.startswith(OF_PICTURES)]
ALONE = ["model.num_powers=3"]
BESIDE = [
    "data.columns={numbers: numbers, picture: image}",
    "feature_extractor.modalities={numbers: {task: number-set-classification}, "
    "picture: {task: image-classification, size: 8}}",
    "model.modalities={numbers: {num_powers: 3}, picture: {image_size: 8, patch_size: 2, num_frequency_bands: 2}}",
]
# What a stranger does, who has neither the package nor the task.
STRANGER = """
import json, sys
from transformers import AutoModel, pipeline
task, folder, sample = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
classify = pipeline(task, model=folder, trust_remote_code=True)
(answers,) = classify([sample])
assert not any(name.startswith(("modeling_perceiver_study", "lab")) for name in sys.modules)
print(json.dumps([type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__, answers]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the package with the file of the kind beside its own, the task's, and data."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "modeling_perceiver_study", home / "modeling_perceiver_study")
    shutil.copy(OWN / "number_sets.py", home / "modeling_perceiver_study")
    shutil.copy(OWN / "number_sets_task.py", home)
    features = datasets.Features(
        {
            "numbers": datasets.List(datasets.Value("float32")),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=CLASSES),
        }
    )
    for seed, (split, count) in enumerate({"train": 60, "test": 21}.items()):
        images, labels = coloured_images(count, seed)
        rng = np.random.default_rng(seed)
        numbers = [rng.normal(3 * (label - 1), 1, rng.integers(1, 6)).tolist() for label in labels]
        numbers[3] = None
        columns = {"numbers": numbers, "image": images, "label": labels}
        table = datasets.Dataset.from_dict(columns, features=features)
        (home / "beside").mkdir(exist_ok=True)
        table.to_parquet(home / "beside" / f"{split}.parquet")
        (home / "alone").mkdir(exist_ok=True)
        alone = table.remove_columns("image").select([row for row in range(count) if row != 3])
        alone.to_parquet(home / "alone" / f"{split}.parquet")
    return home


def run_python(home, *words, path=""):
    """What it has printed."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "HF_HOME": str(home / "hub"), "PYTHONPATH": str(path)}
    done = python(*words, folder=home, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "kind", "recipe", "task", "model", "sample"),
    [
        ("alone", "NumberSetClassification", ALONE, "number-set-classification", "NumberSetModel", [2.5, 3.5, 3.0]),
        ("beside", "SetsAndMore", BESIDE, "multimodal-classification", "SetsAndMoreModel", {"numbers": [2.5, 3.5]}),
    ],
)
def test_a_kind_from_outside(home, name, kind, recipe, task, model, sample):
    (home / f"{name}.yaml").write_text(f"task: number_sets_task:{kind}\ndata: {{name: own}}\n")
    run = home / f"run-{name}"
    overrides = ["--config", home / f"{name}.yaml", *RUN, *recipe, f"data.path={home / name}"]
    (home / "set.json").write_text("[2.5, 3.5, 3.0]")
    if name == "beside":
        np.savez(home / "set.npz", numbers=np.float32([2.5, 3.5, 3.0]))
    file = home / ("set.npz" if name == "beside" else "set.json")
    published = home / f"published-{name}"
    commands = [
        ["train.py", *overrides, f"output_dir={run}", "optimization.epochs=8"],
        ["score.py", run],
        ["predict.py", run, file],
        ["attention_maps.py", run, file, "-o", home / "maps.png"],
        ["export.py", run, "--formats", "torch"],
        ["publish.py", run, "--repo_id", "org/name", "--output", published, f"data.path={home / name}"],
        ["train.py", *overrides, f"pretrained={run}", f"output_dir={home / f'again-{name}'}"],
    ]
    printed = [run_python(home, SCRIPTS / command, *words, path=home) for command, *words in commands]
    assert CLASSES[2] in printed[2]
    assert json.loads((run / "metrics.json").read_text())["test_accuracy"] > 0.6, "chance is a third"
    config = json.loads((run / "config.json").read_text())
    assert 3 in (config["num_powers"], ((config["modalities"] or {}).get("numbers") or {}).get("num_powers"))
    assert (published / "number_sets.py").is_file()
    assert len(list((published / "examples").iterdir())) == 3
    loaded, answers = json.loads(run_python(home, "-c", STRANGER, task, str(published), json.dumps(sample)))
    assert loaded == model and answers[0]["label"] == CLASSES[2]
