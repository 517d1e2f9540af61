"""A fake of the Hugging Face Hub on a port of this machine: what huggingface_hub needs to create a model, push and download."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN, OWNER = "hf_secret_of_me", "me"
COMMIT = "1" * 40


@dataclass
class Repository:
    """A model on the fake."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


@dataclass
class Hub:
    """State of the fake.

    Attributes
    ----------
    url : address
    repositories : the models by Hub id
    objects : contents of large files by their SHA-256
    requests : method and path of each request
    failing : status and body for requests whose path contains the key
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    failing: dict[str, tuple[int, str]] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    """Answers one request. `hub` is set by `fake_hub`."""

    hub: Hub

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, method: str) -> None:
        body = self._body()
        path = self.path.split("?")[0]
        self.hub.requests.append((method, path))
        for part, (status, text) in self.hub.failing.items():
            if part in path:
                self._send(status, text.encode())
                return
        for pattern, action in ROUTES.items():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                action(self, body, *found.groups())
                return
        self._send(404, b"{}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def _knows(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode())

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        if not self._knows:
            self._json({"error": "Invalid username or password."}, 401)
        elif asked["organization"] != OWNER:
            self._json({"error": "You don't have the rights to create a model there"}, 403)
        elif repo in self.hub.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"}, 409)
        else:
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.hub.repositories[repo] = Repository(private)
            self._json({"url": f"{self.hub.url}/{repo}"})

    def describe(self, _: bytes, repo: str) -> None:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and not self._knows):
            self._send(401, b"{}", X_Error_Code="RepoNotFound")
        else:
            self._json({"id": repo, "sha": COMMIT, "private": found.private, "siblings": []})

    def check_card(self, body: bytes) -> None:
        _, head, _ = json.loads(body)["content"].split("---\n", 2)
        fields = yaml.safe_load(head)
        if not isinstance(fields, dict) or "license" not in fields:
            self._json({"errors": [{"message": '"license" is required'}], "warnings": []}, 400)
        else:
            warnings = [{"message": "a name\nis missing"}] if fields["license"] == "other" else []
            self._json({"errors": [], "warnings": warnings})

    def preupload(self, body: bytes, repo: str) -> None:
        has = self.hub.repositories[repo].files
        rows = []
        for file in json.loads(body)["files"]:
            is_large = file["path"].endswith(".safetensors")
            now = has.get(file["path"])
            oid = None if now is None else hashlib.sha256(now).hexdigest() if is_large else _git_hash(now)
            mode = "lfs" if is_large else "regular"
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": rows})

    def batch(self, body: bytes, _: str) -> None:
        rows = [
            {**each, "actions": {"upload": {"href": f"{self.hub.url}/objects/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": rows})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._send(400, b"wrong content")
        else:
            self.hub.objects[oid] = body
            self._send(200, b"")

    def commit(self, body: bytes, repo: str) -> None:
        if not self._knows:
            self._json({"error": "Unauthorized"}, 401)
            return
        found = self.hub.repositories[repo]
        for row in map(json.loads, body.splitlines()):
            value = row["value"]
            if row["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                found.files[value["path"]] = self.hub.objects[value["oid"]]
        found.commits += 1
        self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.hub.url}/{repo}/commit/{COMMIT}"})

    def fetch(self, _: bytes, repo: str, file: str) -> None:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and not self._knows):
            self._send(401, b"", X_Error_Code="RepoNotFound")
        elif file not in found.files:
            self._send(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            content = found.files[file]
            self._send(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)


ROUTES = {
    r"POST /api/repos/create": Handler.create,
    r"GET /api/models/([\w.-]+/[\w.-]+)(?:/revision/main)?": Handler.describe,
    r"POST /api/validate-yaml": Handler.check_card,
    r"POST /api/models/([\w.-]+/[\w.-]+)/preupload/main": Handler.preupload,
    r"POST /([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch": Handler.batch,
    r"PUT /objects/(\w+)": Handler.store,
    r"POST /api/models/([\w.-]+/[\w.-]+)/commit/main": Handler.commit,
    r"(?:GET|HEAD) /([\w.-]+/[\w.-]+)/resolve/\w+/([\w.-]+)": Handler.fetch,
}


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """Run the fake in a thread."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfThisHub", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
