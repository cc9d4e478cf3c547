"""Pushing to a Hub that fails, refuses or breaks off, with the real client; and loading from it."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from lab.errors import UserError
from lab.release import hub as hub_client
from lab.release import staging
from tests.hub_server import READ_TOKEN, TOKEN, commits, in_a_clean_process
from tests.pipelines import pipeline_of

# The client's own, for what it gives to its HTTP library.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]


def test_pushing_twice_is_one_commit(hub, staged, repo, capsys):
    first, second = hub_client.push(staged, repo), hub_client.push(staged, repo)
    assert first.oid == second.oid and commits(hub, repo) == 1
    assert f"{repo} at revision {first.oid}" in capsys.readouterr().out
    assert "README.md" in {sibling.rfilename for sibling in HfApi().model_info(repo).siblings}
    assert HfApi().list_repo_refs(repo).branches[0].target_commit == first.oid


def test_a_new_version_leaves_no_samples_or_weights_of_the_old_one_behind(hub, staged, repo, tmp_path):
    hub_client.push(staged, repo)
    commit, files = hub.repositories[repo].commits[-1]
    parts = {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}"}
    owners = {"handler.py": b"", "onnx/model.onnx": b"", "model.fp16.safetensors": b""}
    hub.repositories[repo].commits[-1] = commit, {**files, **parts, **owners}
    without = shutil.copytree(staged, tmp_path / "new", ignore=shutil.ignore_patterns("examples", "predictions.png"))
    hub_client.push(without, repo)
    removed = {"examples/0.png", "examples/1.png", "examples/2.png", "figures/predictions.png"}
    assert set(hub.repositories[repo].commits[-1][1]) == set(files) - removed | set(owners)
    assert commits(hub, repo) == 2


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


def test_what_is_to_be_private_does_not_go_to_a_public_repository(hub, staged, repo):
    with pytest.raises(UserError, match=rf"^{repo} exists and is public: "):
        hub_client.push(staged, repo, private=True)
    assert commits(hub, repo) == 0
    hub.repositories[repo].private = True
    hub_client.push(staged, repo, private=True)
    hub_client.push(staged, repo)
    assert commits(hub, repo) == 1 and hub.repositories[repo].private


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


def test_a_failed_push_after_training_says_how_to_repeat_it(run, repo, hub, monkeypatch, tmp_path):
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    hub.repositories[repo].private = True
    hub.fail("POST", "/commit/", 500, times=100)
    moved = shutil.copytree(run, tmp_path / "a run")
    with pytest.raises(UserError, match=r"^the run is finished, but not published: ") as caught:
        staging.publish(moved, repo, private=True)
    command = str(caught.value).partition("repeat with ")[2]
    assert shlex.split(command) == ["python", "scripts/publish.py", str(moved), "--repo_id", repo, "--private"]


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


LOAD_HEAD = """
import json, sys
sys.modules["modeling_perceiver_study"] = None
from transformers import pipeline
name, task, token, sample, *offline = sys.argv[1:]
options = {"token": token, "model_kwargs": {"cache_dir": "files"}} | dict.fromkeys(offline, True)
classify = pipeline(task, model=name, trust_remote_code=True, **options)
print(json.dumps(classify(json.loads(sample))))
"""


@pytest.mark.parametrize(
    ("kind", "task"), [("points", "point-cloud-classification"), ("several", "multimodal-classification")]
)
def test_a_head_that_has_no_auto_class(hub, repo, tmp_path, kind, task):
    """From a private repository, with a token and a folder for its files, and then once more from these."""
    expected = pipeline_of(kind)
    expected.model.save_pretrained(tmp_path / "saved")
    (expected.processor or expected.feature_extractor).save_pretrained(tmp_path / "saved")
    files = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    hub.repositories[repo].private = True
    hub.repositories[repo].commits.append(("a" * 40, files))
    points = np.eye(3).tolist()
    samples = [points if kind == "points" else {"points": points}]
    for offline in ([], ["local_files_only"]):
        arguments = repo, task, READ_TOKEN, json.dumps(samples), *offline
        done = in_a_clean_process(hub, LOAD_HEAD, *arguments, folder=tmp_path, HF_TOKEN="")
        assert done.returncode == 0, done.stderr
        for one, other in zip(json.loads(done.stdout)[0], expected(samples)[0], strict=True):
            assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=1e-5)
    fetched = [request for request in hub.requests if re.fullmatch(rf"GET /{repo}/.*model.safetensors", request)]
    assert len(fetched) == 1
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
