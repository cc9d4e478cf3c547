"""Requests to the Hugging Face Hub: checking a token, and publishing all files of a folder in one commit."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from lab.errors import UserError, one_line

_ATTEMPTS = 3
# What a new version must not leave behind: samples that may not be shown any more, and weights, since a single file of
# them is loaded before parts of new ones. Whatever else is there may be the owner's.
_REPLACED = re.compile(r"(examples|figures)/.*|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


def staged_files(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, by name."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def require_repo_id(repo_id: str):
    """Raise a `UserError` unless the name is of the form OWNER/NAME."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo_id {repo_id}: {error}") from None
    if "/" not in repo_id:
        raise UserError(f"--repo_id {repo_id}: expected OWNER/NAME, such as org/perceiver-cifar10")


def require_token():
    """Check the token with the Hub before the work begins; raise a `UserError` if the Hub does not accept it."""
    if huggingface_hub.get_token() is None:
        raise UserError("no token: run `hf auth login`, or set HF_TOKEN, with a token that may write")
    with _named_errors("your account"):
        _persistently(HfApi().whoami)


def push(folder: Path, repo_id: str, private: bool = False) -> CommitInfo:
    """Publish all files of a folder in one atomic commit; create the repository if it does not exist.

    Weights, figures and examples of an earlier version that this one does not have are deleted by that commit.

    Raises:
        UserError: no rights, no network, or the Hub refuses. Nothing is published then, unless the message says so.
    """
    huggingface_hub.utils.enable_progress_bars()  # transformers has switched them off
    api = HfApi()

    def commit() -> CommitInfo:
        # upload_folder may take several commits. Repeating this one is safe: files that have arrived are skipped.
        files = {path.relative_to(folder).as_posix(): path for path in staged_files(folder)}
        changes = [CommitOperationAdd(*item) for item in files.items()]
        for name in api.list_repo_files(repo_id):
            if _REPLACED.fullmatch(name) and name not in files:
                changes.append(CommitOperationDelete(name))
        return api.create_commit(repo_id, changes, commit_message=f"Publish {folder.name}")

    with _named_errors(repo_id):
        # None is the owner's default; an existing repository keeps its visibility.
        _persistently(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True))
        if private and not _persistently(lambda: api.model_info(repo_id)).private:
            raise UserError(f"{repo_id} exists and is public: make it private on the Hub, or leave out --private")
        done = _persistently(commit)
    print(f"{done.repo_url} at revision {done.oid}")
    return done


def _persistently(call: Callable):
    """Repeat a call after short failures.

    huggingface_hub repeats uploads and single HTTP requests (`http_backoff`), but not these methods of its API.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return call()
        except (HTTPError, json.JSONDecodeError) as error:  # a proxy may answer with a page
            response = getattr(error, "response", None)
            if attempt == _ATTEMPTS or (response is not None and response.status_code < 500):
                raise
            print(f"attempt {attempt} of {_ATTEMPTS} failed ({one_line(error)}); trying again", file=sys.stderr)
            time.sleep(2**attempt)


@contextmanager
def _named_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set: unset it to publish") from None
    except (HTTPError, RuntimeError) as error:
        raise UserError(_explain(error, what)) from None
    except ValueError as error:
        raise UserError(f"the Hub refuses {what}: {one_line(error)}") from None


def _explain(error: Exception, what: str) -> str:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTPError):  # uploads of files wrap their errors
        error = error.__cause__
    if isinstance(error, RuntimeError):
        raise error
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return "the Hub does not accept this token: run `hf auth login`, or set HF_TOKEN, with a valid one"
    if status == 403:
        return f"this token may not write to {what}: use one with write access, or another OWNER/NAME"
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return f"{what} does not exist on the Hub, or this token may not see it"
    again = "what was published before is unchanged unless this commit arrived after all; pushing again is safe"
    if status is None:
        return f"the Hub cannot be reached ({one_line(error)}): {again}"
    return f"the Hub refuses {what} ({one_line(error)}): {again}"
