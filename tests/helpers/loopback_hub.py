"""A Hugging Face Hub on this machine, over real HTTP, with all that pushing and pulling a model needs.

Public and private repositories with branches and commits, checks of metadata, large files by the LFS protocol. It keeps
everything in memory, and the path and body of every request in ``seen``.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_loopbackSecretOfTheTests"

Files = dict[str, bytes]


@dataclass
class Repo:
    """One repository: commit id → its files, and branch → commit id."""

    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main") -> str:
        """Commit ``files`` to ``branch``; returns the commit id."""
        number = f"{branch} {len(self.commits)}".encode()
        sha = hashlib.sha1(number + b"".join(sorted(name.encode() + data for name, data in files.items()))).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        """The commit id for a branch or a commit id; None if there is none."""
        return self.branches.get(revision, revision if revision in self.commits else None)


class Hub:
    """State of the server."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: Files = {}
        self.seen: list[tuple[str, str]] = []
        self.url = ""

    def make(self, name: str, files: Files, *, private: bool = False) -> Repo:
        """Make a repository as another user."""
        self.repos[name] = repo = Repo(private)
        repo.commit(files)
        return repo


class Refused(Exception):
    """A status to answer with, and the error code in the Hub's headers."""

    def __init__(self, status: int, code: str = "", **body: Any) -> None:
        super().__init__(status)
        self.status, self.code, self.body = status, code, body


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.seen.append((f"{self.command} {path}", body.decode("latin-1")))
        try:
            for pattern, method in _ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    self._send(*method(self, body, **match.groupdict()))
                    return
            raise Refused(404)
        except Refused as refused:
            self._send(json.dumps(refused.body).encode(), {"X-Error-Code": refused.code}, refused.status)

    def _send(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # --- routes ---

    def _root(self, body: bytes) -> tuple[bytes]:
        return (b"",)

    def _create(self, body: bytes) -> tuple[bytes]:
        self._authorised()
        asked = json.loads(body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if name.startswith("others/"):
            raise Refused(403, error="not your namespace")
        self.hub.make(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=asked["visibility"] == "private")
        return (json.dumps({"url": f"{self.hub.url}/{name}"}).encode(),)

    def _info(self, body: bytes, name: str, revision: str = "main") -> tuple[bytes]:
        repo, sha = self._find(name, revision)
        siblings = [{"rfilename": file, "size": len(data)} for file, data in repo.commits[sha].items()]
        facts = {"id": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": [], "downloads": 0}
        return (json.dumps(facts).encode(),)

    def _tree(self, body: bytes, name: str, revision: str) -> tuple[bytes]:
        repo, sha = self._find(name, revision)
        files = repo.commits[sha].items()
        rows = [{"type": "file", "path": file, "size": len(data), "oid": _sha1(data)} for file, data in files]
        return (json.dumps(rows).encode(),)

    def _branch(self, body: bytes, name: str, branch: str) -> tuple[bytes]:
        self._authorised()
        repo, sha = self._find(name, "main")
        if branch in repo.branches:
            raise Refused(409)
        repo.branches[branch] = sha
        return (b"{}",)

    def _validate(self, body: bytes) -> tuple[bytes]:
        card = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        try:
            metadata = yaml.safe_load(found[1]) if found else {}
        except yaml.YAMLError as error:
            raise Refused(400, errors=[{"message": str(error)}]) from None
        base = metadata.get("base_model", "a/b")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            raise Refused(400, errors=[{"message": f'"base_model" with value "{base}" is not valid.'}])
        return (b"{}",)

    def _preupload(self, body: bytes, name: str, revision: str) -> tuple[bytes]:
        self._authorised()
        asked = [file["path"] for file in json.loads(body)["files"]]
        modes = [
            {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}
            for path in asked
        ]
        return (json.dumps({"files": modes}).encode(),)

    def _batch(self, body: bytes, name: str) -> tuple[bytes, dict[str, str]]:
        self._authorised()
        objects = [
            {
                "oid": item["oid"],
                "size": item["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}},
            }
            for item in json.loads(body)["objects"]
        ]
        answer = {"transfer": "basic", "objects": objects}
        return json.dumps(answer).encode(), {"Content-Type": "application/vnd.git-lfs+json"}

    def _upload(self, body: bytes, oid: str) -> tuple[bytes]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400)
        self.hub.large[oid] = body
        return (b"",)

    def _commit(self, body: bytes, name: str, revision: str) -> tuple[bytes]:
        self._authorised()
        repo, before = self._find(name, revision)
        files = dict(repo.commits[before])
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(files, revision)
        facts = {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True}
        return (json.dumps(facts).encode(),)

    def _resolve(self, body: bytes, name: str, revision: str, file: str) -> tuple[bytes, dict[str, str]]:
        repo, sha = self._find(name, revision)
        if file not in repo.commits[sha]:
            raise Refused(404, "EntryNotFound")
        data = repo.commits[sha][file]
        return data, {"ETag": f'"{_sha1(data)}"', "X-Repo-Commit": sha}

    # --- shared by the routes ---

    def _trusted(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _authorised(self) -> None:
        if not self._trusted():
            raise Refused(401, error="Invalid username or password.")

    def _find(self, name: str, revision: str) -> tuple[Repo, str]:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._trusted()):
            raise Refused(404 if self._trusted() else 401, "RepoNotFound")
        sha = repo.find(revision)
        if sha is None:
            raise Refused(404, "RevisionNotFound")
        return repo, sha


def _sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_NAME = r"(?P<name>[^/]+/[^/]+)"
_ROUTES = [
    ("HEAD /", _Handler._root),
    ("POST /api/repos/create", _Handler._create),
    ("POST /api/validate-yaml", _Handler._validate),
    (f"GET /api/models/{_NAME}", _Handler._info),
    (rf"GET /api/models/{_NAME}/revision/(?P<revision>.+)", _Handler._info),
    (rf"GET /api/models/{_NAME}/tree/(?P<revision>[^/]+)", _Handler._tree),
    (rf"POST /api/models/{_NAME}/branch/(?P<branch>.+)", _Handler._branch),
    (rf"POST /api/models/{_NAME}/preupload/(?P<revision>.+)", _Handler._preupload),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    (r"PUT /lfs/(?P<oid>\w+)", _Handler._upload),
    (rf"POST /api/models/{_NAME}/commit/(?P<revision>.+)", _Handler._commit),
    (rf"(GET|HEAD) /{_NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler._resolve),
]


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """A hub that listens at ``url`` inside the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
