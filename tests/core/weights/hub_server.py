"""A hub on this machine, for repositories made of bytes: what huggingface_hub asks to fetch and to push files."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.local_server import LocalServer

TOKEN, OWNER = "hf_of_these_tests", "me"


@dataclass
class Repository:
    """Files by name at its one commit; `gated` and `private` want the token."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    revisions: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class HubServer(LocalServer):
    """Serves repositories on a free port, from entering to leaving it as a context; `fetched` are the files it gave.

    Whoever has the token writes to repositories of `OWNER`, weights as objects, larger ones in parts of `part_bytes`.
    It hangs up on the next `hang_ups` objects, and keeps whole ones in `objects`; `sent` are those in the
    order of their arrival.
    """

    repositories: dict[str, Repository]
    fetched: list[str] = field(default_factory=list)
    part_bytes: int = 4_000
    hang_ups: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        asked = re.fullmatch(r"(?:/api/models)?/(?P<name>[^/]+/[^/]+)(?:/(?P<verb>\w+)/(?P<rest>.+))?", path)
        repository = self.repositories.get(asked["name"]) if asked else None
        welcome = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        if asked is None or repository is None or (repository.private and not welcome):
            return _send(request, 401, error="RepoNotFound")
        verb, rest = asked["verb"], asked["rest"] or "main"
        revision, _, file = rest.partition("/")
        if revision not in (*repository.revisions, repository.commit):
            return _send(request, 404, error="RevisionNotFound")
        if verb == "resolve":
            if repository.gated and not welcome:
                return _send(request, 403, error="GatedRepo")
            if file not in repository.files:
                return _send(request, 404, error="EntryNotFound")
            if with_body:
                self.fetched.append(file)
            return _send(request, 200, repository.files[file], with_body, commit=repository.commit)
        if verb == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in repository.files.items()
            ]
            return _send(request, 200, json.dumps(entries).encode(), with_body)
        about = {
            "id": asked["name"],
            "sha": repository.commit,
            "siblings": [{"rfilename": name} for name in repository.files],
            "private": repository.private,
        }
        return _send(request, 200, json.dumps(about).encode(), with_body)

    def take(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = unquote(urlsplit(request.path).path)
        if path.startswith("/objects/"):  # addressed to whoever got the address, without the token
            return self._take_object(request, path.removeprefix("/objects/"), body)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _send(request, 401, b'{"error": "Invalid username or password."}')
        if path == "/api/validate-yaml":
            return _answer(request, errors=[], warnings=[])
        if path == "/api/repos/create":
            return self._create(request, json.loads(body))
        asked = re.fullmatch(r"(?:/api/models)?/(?P<name>[^/]+/[^/]+?)(?:\.git/info/lfs)?/(?P<verb>\w+)/\w+", path)
        repository = self.repositories.get(asked["name"]) if asked else None
        if asked is None or repository is None:
            return _send(request, 404, error="RepoNotFound")
        if asked["verb"] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return _answer(request, files=files)
        if asked["verb"] == "objects":
            return _answer(request, objects=[self._wanted(one) for one in json.loads(body)["objects"]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.objects[value["oid"]]
        commit = f"{self.address}/{asked['name']}/commit/{repository.commit}"
        return _answer(request, success=True, commitOid=repository.commit, commitUrl=commit, hookOutput="")

    def _create(self, request: BaseHTTPRequestHandler, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            said = {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
            return _send(request, 409, json.dumps(said).encode())
        if asked["organization"] != OWNER:
            return _send(request, 403, b'{"error": "You don\'t have the rights to create a model there"}')
        self.repositories[name] = Repository(
            {}, private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        return _answer(request, url=f"{self.address}/{name}", id=name)

    def _wanted(self, one: dict) -> dict:
        """An object with the addresses that it is to be sent to, or without where it has arrived before."""
        if one["oid"] in self.objects:
            return one
        href = f"{self.address}/objects/{one['oid']}"
        if one["size"] <= self.part_bytes:
            return one | {"actions": {"upload": {"href": href}}}
        numbers = range(1, -(-one["size"] // self.part_bytes) + 1)
        header = {"chunk_size": str(self.part_bytes)} | {f"{number:05d}": f"{href}/{number}" for number in numbers}
        return one | {"actions": {"upload": {"href": f"{href}/done", "header": header}}}

    def _take_object(self, request: BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        if self.hang_ups:
            self.hang_ups -= 1
            request.close_connection = True
            request.connection.close()
            return
        name, _, part = path.partition("/")
        if part == "done":
            body = b"".join(data for _, data in sorted(self.parts.pop(name).items()))
        elif part:
            self.parts.setdefault(name, {})[int(part)] = body
        if part in ("", "done"):
            if hashlib.sha256(body).hexdigest() != name:
                return _send(request, 400)
            self.objects[name] = body
            self.sent.append(name)
        _answer(request)


def _answer(request: BaseHTTPRequestHandler, **values: object) -> None:
    _send(request, 200, json.dumps(values).encode())


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    with_body: bool = True,
    *,
    error: str | None = None,
    commit: str | None = None,
) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
    if error is not None:
        request.send_header("X-Error-Code", error)
    if commit is not None:
        request.send_header("X-Repo-Commit", commit)
    request.end_headers()
    if with_body:
        request.wfile.write(body)
