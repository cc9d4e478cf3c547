"""A small Hugging Face Hub on this machine: as much of its HTTP protocol as pushing and loading a model needs.

Repositories live in memory: a list of commits, each a complete set of files. A commit appears in one step, after all
the large files that it names have arrived. Faults can be ordered for requests to come.
"""

import base64
import hashlib
import json
import os
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

from tests.fresh_processes import python

TOKEN, READ_TOKEN, OWNER = "hf_writes", "hf_reads", "org"
_SMALL = 10_000_000


@dataclass
class Repository:
    """One model: `commits` are `(id, files by path)`, oldest first."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]]

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Fault:
    """What happens to the next `times` requests of a method whose path matches: `drop`, `truncate`, or a status."""

    method: str
    path: str
    what: str | int
    times: int = 1


@dataclass
class Hub:
    """The state of a server, for tests to look into."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, method: str, path: str, what: str | int, times: int = 1):
        """Order a `Fault`."""
        self.faults.append(Fault(method, path, what, times))

    def create(self, name: str, private: bool = False):
        """An empty repository."""
        self.repositories[name] = Repository(private, [("0" * 40, {".gitattributes": b""})])

    def due(self, method: str, path: str) -> str | int | None:
        """What fault this request meets."""
        with self.lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault.what
        return None


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self):
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.content = self.read_content()
        self.fault = self.hub.due(self.command, path)
        if self.fault == "drop":
            self.close_connection = True
            return
        try:
            if isinstance(self.fault, int):
                raise _Refused(self.fault, "ordered by the test")
            for pattern, answer in _ROUTES:
                method, _, expression = pattern.partition(" ")
                match = re.fullmatch(expression, path)
                if match and self.command in method.split("|"):
                    answer(self, **match.groupdict())
                    return
            raise _Refused(404, f"no such page: {self.command} {path}")
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self.answer({"error": refused.message}, refused.status, headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *arguments):
        """Silence."""

    def read_content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def answer(self, content: bytes | dict | list, status: int = 200, headers: dict | None = None):
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            if self.fault == "truncate":
                content, self.close_connection = content[: len(content) // 2], True
            self.wfile.write(content)

    # Who asks, and for what

    def token(self) -> str | None:
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if sent not in (None, TOKEN, READ_TOKEN):
            raise _Refused(401, "Invalid credentials in Authorization header")
        return sent

    def require_write(self, owner: str):
        token = self.token()
        if token is None:
            raise _Refused(401, "Invalid username or password.")
        if token != TOKEN or owner != OWNER:
            raise _Refused(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')

    def repository(self, name: str) -> Repository:
        repository, token = self.hub.repositories.get(name), self.token()
        if repository is None or (repository.private and token is None):
            raise _Refused(401 if token is None else 404, "Repository not found", "RepoNotFound")
        return repository

    def commit_of(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = self.repository(name).files(revision)
        if commit is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Pages

    def whoami(self):
        if self.token() is None:
            raise _Refused(401, "Invalid username or password.")
        self.answer({"type": "user", "name": "someone", "orgs": [{"name": OWNER}], "auth": {}})

    def create(self):
        asked = json.loads(self.content)
        owner = asked.get("organization") or "someone"
        self.require_write(owner)
        name = f"{owner}/{asked['name']}"
        if name in self.hub.repositories:
            url = f"{self.hub.url}/{name}"
            self.answer({"error": "You already created this model repo", "url": url}, 409)
            return
        self.hub.create(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        self.answer({"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self):
        try:
            header = yaml.safe_load(json.loads(self.content)["content"].split("---\n")[1])
            errors = [] if isinstance(header.get("license"), str) else [{"message": '"license" must be a string'}]
        except (yaml.YAMLError, IndexError) as error:
            errors = [{"message": f"no YAML: {error}"}]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name, revision):
        self.require_write(name.split("/")[0])
        _, files = self.commit_of(name, revision)
        answers = []
        for asked in json.loads(self.content)["files"]:
            path, sample = asked["path"], base64.b64decode(asked["sample"])
            large = asked["size"] > _SMALL or b"\0" in sample or path.endswith(".safetensors")
            entry = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if path in files:
                entry["oid"] = _sha256(files[path]) if large else _git_id(files[path])
            answers.append(entry)
        self.answer({"files": answers})

    def lfs_batch(self, name):
        self.require_write(name.split("/")[0])
        self.repository(name)
        objects = []
        for asked in json.loads(self.content)["objects"]:
            oid = asked["oid"]
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}, "verify": {"href": f"{self.hub.url}/verify"}}
            objects.append(asked if oid in self.hub.large else {**asked, "actions": upload})
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid):
        if _sha256(self.content) != oid:
            raise _Refused(400, "the content does not have this hash")
        self.hub.large[oid] = self.content
        self.answer(b"")

    def lfs_verify(self):
        asked = json.loads(self.content)
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise _Refused(404, "no such object of that size")
        self.answer({})

    def commit(self, name, revision):
        self.require_write(name.split("/")[0])
        _, files = self.commit_of(name, revision)
        files = dict(files)
        for line in self.content.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise _Refused(400, f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.large[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            elif item["key"] != "header":
                raise _Refused(400, f"unknown operation {item['key']}")
        repository = self.hub.repositories[name]
        # Of the content, as on the Hub: the client keeps what it has of a commit, also from tests of yesterday.
        content = [f"{name} {len(repository.commits)}", *(f"{path} {_sha256(files[path])}" for path in sorted(files))]
        commit = hashlib.sha1("\n".join(content).encode()).hexdigest()
        repository.commits.append((commit, files))
        if self.fault == "answer lost":
            self.close_connection = True
            return
        self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})

    def info(self, name, revision="main"):
        commit, files = self.commit_of(name, revision)
        repository = self.hub.repositories[name]
        siblings = [{"rfilename": path} for path in sorted(files)]
        self.answer({"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []})

    def tree(self, name, revision, folder):
        _, files = self.commit_of(name, revision)
        folder = folder or ""
        listed = {path: content for path, content in files.items() if path.startswith(folder)}
        if folder and not listed:
            raise _Refused(404, f"{folder} does not exist", "EntryNotFound")
        self.answer([self.entry(path, content) for path, content in sorted(listed.items())])

    def entry(self, path: str, content: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(content), "oid": _git_id(content)}
        oid = _sha256(content)
        return entry | (
            {"lfs": {"oid": oid, "size": len(content), "pointerSize": 130}} if oid in self.hub.large else {}
        )

    def refs(self, name):
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.commit_of(name, "main")[0]}
        self.answer({"branches": [branch], "tags": [], "converts": []})

    def resolve(self, name, revision, path):
        commit, files = self.commit_of(name, revision)
        if path not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit}
            self.answer(b"Entry not found", 404, headers)
            return
        content = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_id(content)}"'}
        if _sha256(content) in self.hub.large:
            oid = _sha256(content)
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{oid}"'}
            # On another host, as the Hub's is: the client follows redirects within one.
            elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
            self.answer(b"", 302, {**headers, **linked, "Location": f"{elsewhere}/cdn/{oid}"})
        else:
            self.send_content(content, headers)

    def cdn(self, oid):
        self.send_content(self.hub.large[oid], {"ETag": f'"{oid}"'})

    def send_content(self, content: bytes, headers: dict):
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if start:
            first, total = int(start[1]), len(content)
            self.answer(content[first:], 206, {**headers, "Content-Range": f"bytes {first}-{total - 1}/{total}"})
        else:
            self.answer(content, 200, {**headers, "Accept-Ranges": "bytes"})


_NAME, _REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
_ROUTES = [
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate),
    (f"POST /api/models/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    (f"POST /{_NAME}\\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"PUT /lfs/(?P<oid>\w+)", _Handler.lfs_upload),
    ("POST /verify", _Handler.lfs_verify),
    (f"POST /api/models/{_NAME}/commit/{_REVISION}", _Handler.commit),
    (f"GET /api/models/{_NAME}", _Handler.info),
    (f"GET /api/models/{_NAME}/revision/{_REVISION}", _Handler.info),
    (f"GET /api/models/{_NAME}/tree/{_REVISION}(?:/(?P<folder>.+))?", _Handler.tree),
    (f"GET /api/models/{_NAME}/refs", _Handler.refs),
    (f"GET|HEAD /{_NAME}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
    (r"GET|HEAD /cdn/(?P<oid>\w+)", _Handler.cdn),
]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve():
    """A `Hub` that answers until the end of the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def commits(hub, repo):
    """How many there are since it was made."""
    return len(hub.repositories[repo].commits) - 1


def in_a_clean_process(hub, script, *arguments, folder, **environment):
    """Run a program that knows the Hub, an empty cache and nothing of this package."""
    environment = {
        **os.environ,
        **{"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN},
        **environment,
    }
    environment.pop("PYTHONPATH", None)
    return python("-c", script, *arguments, folder=folder, environment=environment)
