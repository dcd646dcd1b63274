"""A web server on this machine that gives parts of files, and does wrong what it is told to do wrong."""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

import pytest

from diptych.core.files.remote import http, retries
from diptych.core.files.remote.block_cache import block_cache
from tests.local_server import LocalServer

STALL_SECONDS = 1.2

FAULTS = ("cut", "stall", "429", "500", "whole", "nothing")


@dataclass
class RangeServer(LocalServer):
    """Serves `files` by path on a free port, from entering to leaving it as a context.

    Attributes:
        faults: what goes wrong with the next requests, one each: the connection is cut in the middle of the answer
            ("cut") or before it ("nothing"), the server stalls ("stall"), answers 429 with Retry-After or 500, or sends
            the whole file ("whole").   always: what goes wrong with all that follow.
        moved: the address to which each of these paths is redirected.
        asked: the Range of each request.   headers: of the last one.
        delay: seconds before each answer.   at_once: the most requests that waited for theirs together.
    """

    files: Mapping[str, bytes]
    faults: list[str] = field(default_factory=list)
    always: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)
    asked: list[str | None] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    at_once: int = 0
    _running: int = 0

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        self._running += 1
        self.at_once = max(self.at_once, self._running)
        time.sleep(self.delay)
        self._running -= 1
        self.asked.append(request.headers.get("Range"))
        self.headers = request.headers
        fault = self.faults.pop(0) if self.faults else self.always
        path = unquote(urlsplit(request.path).path).lstrip("/")
        data = self.files.get(path)
        if fault in ("429", "500", "403"):
            return _send(request, int(fault), b"", {"Retry-After": "0"} if fault == "429" else {})
        if fault == "nothing":
            return None
        if path in self.moved:
            return _send(request, 302, b"", {"Location": self.moved[path]})
        if data is None:
            return _send(request, 404, b"", {})
        named = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if wanted is None or fault == "whole":
            return _send(request, 200, data, named, sent=len(data) // 2 if fault == "cut" else None)
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        if first > last:
            return _send(request, 416, b"", named | {"Content-Range": f"bytes */{len(data)}"})
        named["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        part = data[first : last + 1]
        return _send(
            request, 206, part, named, sent=len(part) // 2 if fault == "cut" else None, stalls=fault == "stall"
        )


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    *,
    sent: int | None = None,
    stalls: bool = False,
) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    if stalls:
        time.sleep(STALL_SECONDS)
        return
    try:
        request.wfile.write(body[:sent])
    except OSError:  # who asked has gone
        request.close_connection = True


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A cache of the test's own, and a reader that soon loses patience."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "USUAL", retries.Retries(attempts=20, first_seconds=0.001, longest_seconds=0.01))
    monkeypatch.setattr(http, "TIMEOUT_SECONDS", STALL_SECONDS / 3)
    block_cache.cache_clear()
    yield tmp_path / "cache"
    block_cache.cache_clear()
