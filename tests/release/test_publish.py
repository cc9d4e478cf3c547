"""Publishing, against a Hub on this machine and with the real client; loading in processes of their own."""

import dataclasses
import json
import re
import shutil
import subprocess

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file

import publish
from lab.errors import UserError
from lab.judging.checkpoints import load_classifier
from lab.recipe import load_recipe
from lab.release import staging
from lab.tasks import build_task
from lab.tasks.image_classification import ImageClassification
from modeling_perceiver_study import PerceiverStudyForImageClassification
from tests.hub_server import TOKEN, commits, in_a_clean_process
from tests.small_data import coloured_images

# The client's own, for what it gives to its HTTP library.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]

EXPECTED = {
    "README.md",
    "config.json",
    "examples/0.png",
    "examples/1.png",
    "examples/2.png",
    "figures/attention.png",
    "figures/confusions.png",
    "figures/curves.png",
    "figures/predictions.png",
    "metrics.json",
    "metrics.jsonl",
    "model.safetensors",
    "preprocessor_config.json",
    "recipe.yaml",
}
LOAD = """
import json, sys
sys.modules["modeling_perceiver_study"] = None
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
name, revision = sys.argv[1:]
trusted = {"trust_remote_code": True, "revision": revision}
model = AutoModelForImageClassification.from_pretrained(name, **trusted).eval()
inputs = AutoImageProcessor.from_pretrained(name, **trusted)(Image.open("image.png"), return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
    latents = AutoModel.from_pretrained(name, **trusted).eval()(**inputs).last_hidden_state
labels = pipeline("image-classification", model=name, **trusted)("image.png")
print(json.dumps({"logits": logits.tolist(), "latents": list(latents.shape), "label": labels[0]["label"]}))
"""


def test_training_ends_with_one_private_commit(hub, run):
    repository = hub.repositories["org/tiny"]
    assert repository.private and commits(hub, "org/tiny") == 1
    code = {path.name for path in run.glob("*.py")}
    assert set(repository.commits[-1][1]) == EXPECTED | code | {".gitattributes"}
    assert repository.commits[-1][1]["model.safetensors"] == (run / "model.safetensors").read_bytes()


def test_the_round_trip(hub, run, tmp_path):
    """Pinned to a revision that is no longer the newest, with an empty cache, through all Auto classes."""
    revision = hub.repositories["org/tiny"].commits[-1][0]
    (image,), _ = coloured_images(1, seed=5)
    image.save(tmp_path / "image.png")
    files = hub.repositories["org/tiny"].commits[-1][1]
    hub.repositories["org/tiny"].commits.append(("f" * 40, {**files, "config.json": b"broken since"}))
    try:
        done = in_a_clean_process(hub, LOAD, "org/tiny", revision, folder=tmp_path)
    finally:
        hub.repositories["org/tiny"].commits.pop()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    classify = load_classifier(str(run)).pipeline
    model = classify.model.eval()
    with torch.no_grad():
        expected = model(**classify.image_processor(image, return_tensors="pt")).logits
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, rtol=0, atol=1e-6)
    assert found["latents"] == [1, 4, 16] and found["label"] == classify(image)[0]["label"]


def test_the_snippets_of_the_card_run(hub, run, tmp_path):
    coloured_images(1, seed=5)[0][0].save(tmp_path / "image.png")
    card = hub.repositories["org/tiny"].commits[-1][1]["README.md"].decode()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 2
    done = in_a_clean_process(hub, "\n".join(snippets), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    ranking, label = done.stdout.splitlines()
    assert f"'label': '{label}'" in ranking.partition("}")[0]


def test_no_local_path_is_published(hub, run, staged):
    folder, command = run.parent, json.loads((run / "metrics.json").read_text())["command"]
    for path, content in hub.repositories["org/tiny"].commits[-1][1].items():
        for private in (str(folder), "secret-place", command):
            assert private.encode() not in content, f"{path} holds {private}"
    assert load_recipe(staged / "recipe.yaml").data.path is None
    assert json.loads((staged / "metrics.json").read_text())["data"] == "a local folder"


@pytest.fixture
def python_itself(monkeypatch):
    """Processes that load a folder begin with the start of Python, as a user's do."""
    monkeypatch.setattr(staging, "subprocess", subprocess)


def test_dry_run(hub, run, capsys, python_itself):
    before = len(hub.requests)
    publish.main([str(run), "--repo_id", "org/tiny", "--dry_run", "--without_samples"])
    assert len(hub.requests) == before
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines[:-1]}
    pictures = {
        path for path in EXPECTED if path.startswith("examples") or "predictions" in path or "attention" in path
    }
    assert set(listed) == EXPECTED - pictures | {path.name for path in run.glob("*.py")}
    assert listed["model.safetensors"] == (run / "model.safetensors").stat().st_size
    assert lines[-1] == "loads in a clean process; nothing was sent to org/tiny"


def test_a_folder_with_rounded_weights(run, tmp_path, monkeypatch):
    titled = shutil.copytree(run, tmp_path / "titled")
    recipe = (titled / "recipe.yaml").read_text()
    (titled / "recipe.yaml").write_text(recipe.replace("  title: null", "  title: Colours (painted anew)"))
    output = tmp_path / "model_cards" / "tiny"
    arguments = [str(titled), "--repo_id", "org/tiny", "--output", str(output), "--dtype", "float16"]
    publish.main([*arguments, "--without_samples"])
    weights = load_file(output / "model.safetensors")
    expected = load_file(run / "model.safetensors")
    assert all(torch.equal(weights[name], tensor.half()) for name, tensor in expected.items())
    assert PerceiverStudyForImageClassification.from_pretrained(output).dtype == torch.float16
    metrics = json.loads((output / "metrics.json").read_text())
    assert (metrics["released_dtype"], metrics["data"]) == ("float16", "Colours (painted anew)")
    card = (output / "README.md").read_text()
    assert f"rounded to float16, with which the test accuracy is {100 * metrics['released_score']:.2f} %" in card
    assert "| Colours (painted anew) | this checkpoint |" in card
    with pytest.raises(UserError, match=r"--output .*tiny exists"):
        publish.main(arguments)


def test_a_folder_that_does_not_load_is_refused(run, tmp_path, python_itself):
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "position.py").unlink()
    with pytest.raises(UserError, match=r"broken does not load in a clean process: .*position"):
        publish.main([str(broken), "--repo_id", "org/tiny", "--dry_run"])


def test_fine_tuning_starts_from_a_name_on_the_hub(hub, run):
    """At the commit that its settings were read from."""
    task = build_task(load_recipe(None, ["pretrained=org/tiny", "data.name=digits"]))
    model = task.build_model()
    expected = PerceiverStudyForImageClassification.from_pretrained(run).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    api = HfApi(endpoint=hub.url, token=TOKEN)
    assert task.pretrained.origin == {
        "name": "org/tiny",
        "revision": api.model_info("org/tiny").sha,
        "made_anew": [],
        "resampled": [],
    }


def test_metrics_of_other_weights_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    copy = shutil.copytree(run, tmp_path / "copy")
    metrics = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps({**metrics, "test_accuracy": metrics["test_accuracy"] - 0.05}))
    with (
        pytest.raises(UserError, match=r"says a test accuracy of .*, but these weights get .* on 21 images"),
        staging.stage(copy, "org/tiny"),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"not a finished run: model.safetensors missing"),
        (lambda folder: (folder / "metrics.json").unlink(), r"not a finished run: metrics.json missing; finish"),
        (lambda folder: (folder / "pytorch_model.bin").touch(), r"holds pickled files \(pytorch_model.bin\)"),
        (shutil.rmtree, r"no such folder"),
    ],
)
def test_an_incomplete_folder_is_refused(run, tmp_path, change, message):
    copy = shutil.copytree(run, tmp_path / "copy")
    change(copy)
    with pytest.raises(UserError, match=message):
        staging.find_weights(copy, ImageClassification)


@pytest.mark.parametrize("name", ["model-copy.safetensors", "model-00001-of-00002.safetensors"])
def test_weights_that_nothing_loads_stay_behind(run, tmp_path, name):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.copy(copy / "model.safetensors", copy / name)
    assert staging.find_weights(copy, ImageClassification) == [copy / "model.safetensors"]
    (copy / "model.safetensors").rename(copy / "model-00002-of-00002.safetensors")
    (copy / "model.safetensors.index.json").touch()
    parts = {path.name for path in copy.glob("model-0*")} | {"model.safetensors.index.json"}
    assert {path.name for path in staging.find_weights(copy, ImageClassification)} == parts


def test_programs_that_the_code_does_not_import_stay_behind(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "notes.py").write_text("KEY = 'secret'\n")
    assert {path.name for path in staging.code_files(copy)} == {path.name for path in run.glob("*.py")}


@pytest.mark.parametrize("repo_id", ["name", "a/b/c", "org/na me"])
def test_a_name_that_cannot_be(repo_id, tmp_path):
    with pytest.raises(UserError, match=rf"^--repo_id {repo_id}: "):
        publish.main([str(tmp_path), "--repo_id", repo_id])


def test_without_paths_keeps_names_of_the_hub(run):
    recipe = load_recipe(run / "recipe.yaml")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, path=None, name="uoft-cs/cifar10"))
    public, metrics = staging.without_paths(recipe, {"data": "uoft-cs/cifar10", "command": "/home/me"}, "run")
    assert (public.data.name, public.output_dir, metrics) == (
        "uoft-cs/cifar10",
        "output/run",
        {"data": "uoft-cs/cifar10"},
    )
