"""Publishing, against a Hub on this machine and with the real client; loading in processes of their own."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download
from PIL import Image
from safetensors.torch import load_file

import publish
import train
from lab.augment.images import describe_augmentation
from lab.errors import UserError
from lab.judging.checkpoints import load_classifier
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.release import hub as hub_client
from lab.release import staging
from lab.release.card import check_card, energy
from lab.tasks import build_task
from lab.tasks.image_classification import ImageClassification
from modeling_perceiver_study import PerceiverStudyForImageClassification
from tests.hub_server import READ_TOKEN, TOKEN, serve
from tests.small_data import CLASSES, TINY_RUN, coloured_images, fresh_accelerate, make_parquet

# The client's own, for what it gives to its HTTP library.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]

RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"
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


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serve() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + RESOLVE)
        # hf_xet moves large files to servers of its own, which are not part of the Hub's protocol.
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):
    """A finished run of `train.py --push_to_hub org/tiny --private`, on data in a folder of a telling name."""
    folder = tmp_path_factory.mktemp("publish")
    parquet = make_parquet(folder / "secret-place")
    fresh_accelerate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        arguments = [*TINY_RUN, f"data.path={parquet}", "data.name=null", f"output_dir={folder / 'tiny'}"]
        train.main([*arguments, "optimization.epochs=6", "--push_to_hub", "org/tiny", "--private"])
        yield folder / "tiny"


@pytest.fixture(scope="module")
def staged(run):
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(staging, "check_loads", lambda *arguments: None)  # publishing `run` has loaded it already
            folder = stack.enter_context(staging.stage(run, "org/tiny"))
        yield folder


@pytest.fixture
def repo(hub, monkeypatch):
    """The name of an empty repository; the client does not wait between attempts."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    name = f"org/name-{len(hub.repositories)}"
    hub.create(name)
    yield name
    hub.faults.clear()


def commits(hub, repo):
    return len(hub.repositories[repo].commits) - 1


def in_a_clean_process(hub, script, *arguments, folder, **environment):
    environment = {
        **os.environ,
        **{"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN},
        **environment,
    }
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


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


def test_the_card(staged, run):
    card = ModelCard((staged / "README.md").read_text())
    data = card.data.to_dict()
    metrics = json.loads((run / "metrics.json").read_text())
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    (accuracy,) = (result for result in card.data.eval_results if result.metric_type == "accuracy")
    assert accuracy.metric_value == metrics["test_accuracy"]
    assert "datasets" not in data  # a local folder is not a dataset of the Hub
    assert {entry["src"] for entry in data["widget"]} == {f"examples/{number}.png" for number in range(3)}
    assert {entry["example_title"] for entry in data["widget"]} <= set(CLASSES)
    assert f"| test accuracy | {100 * metrics['test_accuracy']:.2f} % |" in card.text
    assert metrics["hardware"] in card.text and "One seed (seed 0)" in card.text
    for link in re.findall(r"\]\(([a-z][\w/.]*)\)", card.text):
        assert (staged / link).is_file(), link


def test_the_card_names_what_happens_to_images():
    def text(*augmentation):
        recipe = load_recipe(DEFAULT_RECIPE, [f"augmentation.{each}" for each in augmentation])
        return describe_augmentation(build_task(recipe).augmentation)

    assert text("crop_padding=0") == ""
    found = text("crop_padding=2", "trivial_augment=true", "random_erasing=0.1", "mixup_alpha=0.2", "cutmix_alpha=1.0")
    assert found == (
        "; random crops of images padded by 2, TrivialAugment, random erasing (0.1), mixup (0.2), CutMix (1.0)"
    )


def test_no_local_path_is_published(hub, run, staged):
    folder, command = run.parent, json.loads((run / "metrics.json").read_text())["command"]
    for path, content in hub.repositories["org/tiny"].commits[-1][1].items():
        for private in (str(folder), "secret-place", command):
            assert private.encode() not in content, f"{path} holds {private}"
    assert load_recipe(staged / "recipe.yaml").data.path is None
    assert json.loads((staged / "metrics.json").read_text())["data"] == "a local folder"


def test_dry_run(hub, run, capsys):
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


def test_a_folder_that_does_not_load_is_refused(run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "position.py").unlink()
    with pytest.raises(UserError, match=r"broken does not load in a clean process: .*position"):
        publish.main([str(broken), "--repo_id", "org/tiny", "--dry_run"])


def test_several_seeds(run, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("test_accuracy", "validation_accuracy"):
        metrics[name] -= 0.02
    (other / "metrics.json").write_text(json.dumps({**metrics, "seed": 1}))
    (other / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    with staging.stage(run, "org/tiny", seeds=[other]) as folder:
        text = (folder / "README.md").read_text()
    assert f" | {100 * metrics['test_accuracy'] + 1:.2f} ± 1.41 % |" in text and "2 seeds (seed 0, 1)" in text
    with pytest.raises(
        UserError, match=r"--seeds .*tiny: expected a run that differs in its seed alone, not in nothing"
    ):
        staging.read_other_seed(run, run)


@pytest.mark.parametrize(
    ("name", "revision", "told"),
    [
        ("org/base", "c0ffee", "[org/base](https://huggingface.co/org/base/tree/c0ffee)"),
        ("/home/me/secret-place/base", None, "a local checkpoint, base"),
    ],
)
def test_what_was_fine_tuned_says_so(run, tmp_path, monkeypatch, name, revision, told):
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    copy = shutil.copytree(run, tmp_path / "copy")
    origin = {"name": name, "revision": revision, "made_anew": ["classifier.bias"], "resampled": []}
    metrics = json.loads((copy / "metrics.json").read_text()) | {"pretrained": origin}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    recipe = (copy / "recipe.yaml").read_text().replace("\npretrained: null\n", f"\npretrained: {name}\n")
    recipe = recipe.replace("\n  freeze: []\n", "\n  freeze: [perceiver.*]\n")
    (copy / "recipe.yaml").write_text(recipe)
    with staging.stage(copy, "org/tiny") as folder:
        text = (folder / "README.md").read_text()
        published = load_recipe(folder / "recipe.yaml")
        found = json.loads((folder / "metrics.json").read_text())["pretrained"]
    assert f"It was fine-tuned from {told}; made anew: classifier.bias. Frozen: perceiver.*.\n" in text
    header = ModelCard(text).data.to_dict()
    assert header["co2_eq_emissions"]["training_type"] == "fine-tuning"
    assert header.get("base_model") == (name if revision else None)
    assert published.pretrained == found["name"] == (name if revision else "base")
    assert "secret-place" not in text and "local_start" not in text
    command = "train.py --config recipe.yaml data.path=FOLDER"
    assert f"{command}{'' if revision else ' pretrained=FOLDER'}\n" in text


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


def test_what_was_trained_from_scratch_says_so(staged):
    text = (staged / "README.md").read_text()
    assert ModelCard(text).data.to_dict()["co2_eq_emissions"]["training_type"] == "from scratch"
    assert "fine-tuned" not in text and "alone\nand carries what biases that has" in text


def test_the_card_of_a_run_without_validation_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    copy = shutil.copytree(run, tmp_path / "copy")
    metrics = json.loads((copy / "metrics.json").read_text()) | {"validation_samples": 0}
    (copy / "metrics.json").write_text(json.dumps(without_validation(metrics)))
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(without_validation(line)) + "\n" for line in lines))
    with staging.stage(copy, "org/tiny") as folder:
        text = (folder / "README.md").read_text()
    assert "to train on, and 21 to test with" in text and "those of the last epoch." in text
    assert "![Loss against epochs]" in text and "validation" not in text.partition("## Results")[2].partition("##")[0]


def without_validation(values: dict) -> dict:
    return {name: value for name, value in values.items() if not name.startswith(("validation_a", "validation_l"))}


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


def test_pushing_twice_is_one_commit(hub, staged, repo, capsys):
    first, second = hub_client.push(staged, repo), hub_client.push(staged, repo)
    assert first.oid == second.oid and commits(hub, repo) == 1
    assert f"{repo} at revision {first.oid}" in capsys.readouterr().out
    assert "README.md" in {sibling.rfilename for sibling in HfApi().model_info(repo).siblings}
    assert HfApi().list_repo_refs(repo).branches[0].target_commit == first.oid


def test_without_a_token(staged, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match=r"^no token: run `hf auth login`, or set HF_TOKEN"):
        hub_client.require_token()


def test_a_wrong_token(hub, staged, repo, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for refused in (hub_client.require_token, lambda: hub_client.push(staged, repo)):
        with pytest.raises(UserError, match=r"^the Hub does not accept this token: "):
            refused()
    assert commits(hub, repo) == 0


def test_a_token_that_may_only_read(hub, staged, repo, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(UserError, match=rf"^this token may not write to {repo}: "):
        hub_client.push(staged, repo)
    assert commits(hub, repo) == 0


def test_somebody_elses_name(staged, repo):
    with pytest.raises(UserError, match=r"^this token may not write to elsewhere/name"):
        hub_client.push(staged, "elsewhere/name")


def test_a_repository_that_vanishes(hub, staged, repo):
    hub.fail("POST", "preupload", 404)
    with pytest.raises(UserError, match=rf"^{repo} does not exist on the Hub"):
        hub_client.push(staged, repo)


@pytest.mark.parametrize("what", ["drop", 500])
@pytest.mark.parametrize("request_path", ["repos/create", "validate-yaml", "preupload", "/lfs/", "/commit/"])
def test_one_failure_is_overcome(hub, staged, repo, what, request_path):
    hub.large.clear()
    hub.fail("PUT" if request_path == "/lfs/" else "POST", request_path, what)
    hub_client.push(staged, repo)
    assert commits(hub, repo) == 1 and not hub.faults[0].times


def test_a_commit_whose_answer_is_lost_is_not_repeated(hub, staged, repo):
    hub.fail("POST", "/commit/", "answer lost")
    hub_client.push(staged, repo)
    assert commits(hub, repo) == 1


@pytest.mark.parametrize("what", ["drop", 500])
@pytest.mark.parametrize("request_path", ["/lfs/", "/commit/"])
def test_an_interrupted_push_changes_nothing_and_can_be_repeated(hub, staged, repo, what, request_path):
    hub.large.clear()
    hub_client.push(staged, repo)
    before = hub.repositories[repo].commits[-1]
    hub.large.clear()
    (staged / "model.safetensors").write_bytes(original := (staged / "model.safetensors").read_bytes())
    (staged / "examples" / "0.png").write_bytes(b"\0" + os.urandom(100))
    hub.fail("PUT" if request_path == "/lfs/" else "POST", request_path, what, times=100)
    with pytest.raises(UserError, match=r"what was published before is unchanged .* pushing again is safe$"):
        hub_client.push(staged, repo)
    assert hub.repositories[repo].commits[-1] is before
    hub.faults.clear()
    hub_client.push(staged, repo)
    assert commits(hub, repo) == 2
    assert hub.repositories[repo].commits[-1][1]["model.safetensors"] == original


def test_no_network(staged, repo, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^the Hub cannot be reached \(.*refused"):
        hub_client.push(staged, repo)


def test_offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError, match=r"^HF_HUB_OFFLINE is set: unset it to publish$"):
        hub_client.require_token()


def test_a_failed_push_after_training_says_how_to_repeat_it(staged, run, repo, hub, monkeypatch):
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    hub.fail("POST", "/commit/", 500, times=100)
    with pytest.raises(
        UserError, match=rf"^the run is finished, but not .*publish.py {run} --repo_id {repo} --private"
    ):
        staging.publish(run, repo, private=True)


def test_a_truncated_download_is_completed(hub, run, repo, tmp_path):
    hub.fail("GET", "/cdn/", "truncate")
    path = hf_hub_download("org/tiny", "model.safetensors", cache_dir=tmp_path)
    assert not hub.faults[0].times
    assert Path(path).read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_download_that_keeps_breaking_off_leaves_nothing_to_load(hub, run, repo, tmp_path):
    hub.fail("GET", "/cdn/", "drop", times=100)
    with pytest.raises((OSError, huggingface_hub.errors.HTTPError)):
        snapshot_download("org/tiny", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))
    hub.faults.clear()
    folder = Path(snapshot_download("org/tiny", cache_dir=tmp_path))
    assert (folder / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    report = HfApi().verify_repo_checksums("org/tiny", local_dir=folder)
    assert not report.mismatches and not report.missing_paths


def test_loading_what_is_not_there_is_a_clear_error(hub, run, tmp_path):
    script = """
from transformers import AutoModelForImageClassification
for name, revision, token in (
    ("org/nowhere", "main", None), ("org/tiny", "main", "hf_wrong"), ("org/tiny", "no-revision", None)
):
    try:
        AutoModelForImageClassification.from_pretrained(name, revision=revision, token=token, trust_remote_code=True)
    except OSError as error:
        print(" ".join(str(error).split()))
"""
    done = in_a_clean_process(hub, script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    missing, wrong_token, revision = done.stdout.splitlines()
    assert "org/nowhere is not a local folder and is not a valid model identifier" in missing
    assert "org/tiny" in wrong_token
    assert "no-revision is not a valid git identifier" in revision


@pytest.mark.parametrize("repo_id", ["name", "a/b/c", "org/na me"])
def test_a_name_that_cannot_be(repo_id, tmp_path):
    with pytest.raises(UserError, match=rf"^--repo_id {repo_id}: "):
        publish.main([str(tmp_path), "--repo_id", repo_id])


def test_bad_metadata_is_noticed(staged):
    card = ModelCard((staged / "README.md").read_text())
    check_card(card)
    card.data.license = "Apache 2"
    with pytest.raises(UserError, match=r"--license Apache 2: expected an identifier"):
        check_card(card)
    card.data.license = None
    with pytest.raises(UserError, match=r"lacks license"):
        check_card(card)


def test_pictures_show_something_and_fit_a_page(staged):
    for path in (staged / "figures").iterdir():
        with Image.open(path) as picture:
            assert 300 <= picture.width <= 1600 and 300 <= picture.height <= 1600, path
            assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 50, path


def test_energy():
    assert energy(3600, "4 x NVIDIA H100 80GB HBM3") == {
        "seconds": "1.0 hours",
        "watts": 2800,
        "basis": "700 W for each GPU, an upper bound",
        "energy": "2.8 kWh",
        "grams": 1300.0,
        "emissions": "1.3 kg",
        "intensity": 475,
    }
    assert energy(36, "Some CPU, 2 threads")["energy"] == "0.2 Wh"
    assert energy(36, "1 x Some GPU")["watts"] == 300


def test_without_paths_keeps_names_of_the_hub(run):
    recipe = load_recipe(run / "recipe.yaml")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, path=None, name="uoft-cs/cifar10"))
    public, metrics = staging.without_paths(recipe, {"data": "uoft-cs/cifar10", "command": "/home/me"}, "run")
    assert (public.data.name, public.output_dir, metrics) == (
        "uoft-cs/cifar10",
        "output/run",
        {"data": "uoft-cs/cifar10"},
    )
