"""A hub on this machine: what huggingface_hub asks of the real one to fetch files, for repositories made of bytes."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.local_server import LocalServer

TOKEN = "hf_of_these_tests"


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
    """Serves repositories on a free port, from entering to leaving it as a context; `fetched` are the files it gave."""

    repositories: dict[str, Repository]
    fetched: list[str] = field(default_factory=list)

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
        }
        return _send(request, 200, json.dumps(about).encode(), with_body)


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
