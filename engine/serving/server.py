"""The server of the page and its questions, for browsers on this machine and for nobody else.

It listens on 127.0.0.1 alone. A page of the internet that the same browser shows can send requests here, too: such a
request has another name as its Host (DNS rebinding) or another Origin, and is refused. One connection asks one thing
and has a limited time to do so.
"""

import io
import json
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from diptych.engine.serving.answers import Answers
from diptych.engine.serving.refusals import Refused, in_sentences

ADDRESS = "127.0.0.1"
HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)
MOST_PICTURE_BYTES = 10_000_000
MOST_JSON_BYTES = 100_000
MOST_CONNECTIONS = 32
REQUEST_SECONDS = 20.0  # to send a request, and to take an answer
LINGER_SECONDS, LINGER_BYTES = 2.0, 100_000_000

FOLDER = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/script.js": ("script.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PICTURES = re.compile(r"/api/(example|thumbnail|gallery)/([0-9]{1,12})")
ASKED = ("/api/picture", "/api/probabilities", "/api/heat_maps", "/api/search")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class DemoServer(ThreadingHTTPServer):
    """A server of `answers`, to be given before it serves, on a port of this machine, 0 for any that is free.

    Raises:
        OSError: for a port that is taken, saying what to do.
    """

    daemon_threads = True
    request_queue_size = 64

    answers: Answers

    def __init__(self, *, port: int = 0, request_seconds: float = REQUEST_SECONDS):
        self.request_seconds = request_seconds
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            raise OSError(f"port {port} cannot be used: {error}. Give another --port, or none.") from None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own would look up the machine's name, which can take seconds
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)  # a browser tries again
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # the browser has gone
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    """One request. Whatever is wrong with it is answered by {"error": sentence} and a status."""

    server: DemoServer
    server_version, sys_version = "diptych", ""

    def setup(self) -> None:
        super().setup()
        self._deadline = time.monotonic() + self.server.request_seconds
        self.rfile = io.BufferedReader(_Until(self.connection, self._deadline))

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def _refuse_method(self) -> None:
        self._answered(self._other)

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _answered(self, answer: Callable[[str], tuple[bytes, str]]) -> None:
        status, path = 200, self.path.partition("?")[0]
        try:
            self._check_host()
            content, kind = answer(path)
        except Refused as refused:
            status, (content, kind) = refused.status, _json({"error": refused.message})
        except TimeoutError:
            status, (content, kind) = 408, _json({"error": "The request took too long to arrive."})
        except ConnectionError:
            return
        except Exception:  # whatever the model or the data do, the page gets an answer and the terminal the details
            traceback.print_exc()
            status, (content, kind) = 500, _json({"error": "Something went wrong; the terminal says what."})
        self._send(status, content, kind, {"Allow": "POST" if path in ASKED else "GET"} if status == 405 else {})

    def _get(self, path: str) -> tuple[bytes, str]:
        if path in FILES:
            name, kind = FILES[path]
            return (FOLDER / name).read_bytes(), kind
        answers = self.server.answers
        if path == "/api/about":
            return _json(answers.about())
        if match := PICTURES.fullmatch(path):
            kinds = {
                "example": answers.examples.picture,
                "thumbnail": answers.gallery.thumbnail,
                "gallery": answers.gallery.picture,
            }
            with in_sentences():
                return kinds[match[1]](int(match[2])), "image/png"
        raise Refused(405, "Ask by POST.") if path in ASKED else Refused(404, "There is nothing here.")

    def _post(self, path: str) -> tuple[bytes, str]:
        if path not in ASKED:
            known = path in FILES or path == "/api/about" or PICTURES.fullmatch(path)
            raise Refused(405, "Ask by GET.") if known else Refused(404, "There is nothing here.")
        self._check_origin()
        answers = self.server.answers
        if path == "/api/picture":
            return _json(answers.keep(self._body(MOST_PICTURE_BYTES)))
        asked = self._json_body()
        if path == "/api/search":
            return _json(answers.search(text=_text(asked, "text"), picture=_text(asked, "picture")))
        answer = answers.probabilities if path == "/api/probabilities" else answers.heat_maps
        return _json(answer(_text(asked, "picture") or "", _texts(asked, "labels")))

    def _other(self, path: str) -> tuple[bytes, str]:
        raise Refused(405, "Only GET and POST are answered.")

    def _check_host(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
            raise Refused(403, f"This page is for this machine alone: open {self.server.url}")

    def _check_origin(self) -> None:
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise Refused(
                403, f"Only the page itself may ask; a program sends the header Origin: {self.server.url[:-1]}"
            )

    def _json_body(self) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "Send application/json.")
        try:
            asked = json.loads(self._body(MOST_JSON_BYTES))
        except (ValueError, RecursionError):
            raise Refused(400, "This is not JSON.") from None
        if not isinstance(asked, dict):
            raise Refused(400, "Send a JSON object.")
        return asked

    def _body(self, most: int) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or not lengths:
            raise Refused(411, "Say how long the body is: Content-Length.")
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,18}", lengths[0]):
            raise Refused(400, "Content-Length is not one number.")
        if int(lengths[0]) > most:
            raise Refused(413, f"At most {most / 1e6:g} MB can be sent, this has {int(lengths[0]) / 1e6:.1f} MB.")
        body = self.rfile.read(int(lengths[0]))
        if len(body) < int(lengths[0]):
            raise Refused(400, "The body ended too early.")
        return body

    def _send(self, status: int, content: bytes, kind: str, more: dict[str, str]) -> None:
        with suppress(OSError):  # the browser has gone, or takes nothing
            self.connection.settimeout(self.server.request_seconds)
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS, **more}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            if status >= 400:
                self._linger()

    def _linger(self) -> None:
        """Takes what is still being sent. Closing at once would reset the connection, and the answer would be lost."""
        self.connection.shutdown(socket.SHUT_WR)
        rest = _Until(self.connection, time.monotonic() + LINGER_SECONDS)
        buffer, taken = bytearray(1 << 16), 0
        while taken < LINGER_BYTES and (count := rest.readinto(buffer)):
            taken += count

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library finds wrong with a request, in the form of all other refusals."""
        self.command, self.request_version = self.command or "", self.protocol_version
        self._send(code, *_json({"error": f"{HTTPStatus(code).phrase}."}), {})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each picture of a gallery helps nobody."""


class _Until(io.RawIOBase):
    """What a connection sends before a moment of `time.monotonic`; then reading raises TimeoutError, however it
    trickles.
    """

    def __init__(self, connection: socket.socket, deadline: float):
        self._connection, self._deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def _json(value: Mapping[str, object]) -> tuple[bytes, str]:
    return json.dumps(value, allow_nan=False).encode(), "application/json"


def _text(asked: dict[str, Any], name: str) -> str | None:
    value = asked.get(name)
    if value is not None and not isinstance(value, str):
        raise Refused(400, f"{name} must be a text.")
    return value


def _texts(asked: dict[str, Any], name: str) -> list[str]:
    value = asked.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Refused(400, f"{name} must be a list of texts.")
    return value
