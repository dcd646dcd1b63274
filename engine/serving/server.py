"""The server of the page and of the JSON interface.

By default it listens on 127.0.0.1, for browsers and programs on this machine and for nobody else; on another address it
asks for a token (`access.py`). Connections stay open from one request to the next, each request has a limited time to
arrive, and what the model is asked by several at once is one batch (`batching.py`).
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
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from diptych import __version__
from diptych.engine.serving.access import Access
from diptych.engine.serving.operations import MOST_PICTURE_BYTES, OPERATIONS, Health, answered, openapi
from diptych.engine.serving.refusals import Refused, in_sentences

ADDRESS = "127.0.0.1"
MOST_CONNECTIONS = 128
MOST_TURNED_AWAY = 64  # at a time, by an answer; more are closed without one
REQUEST_SECONDS = 20.0  # to send a request, and to take an answer
LINGER_SECONDS, LINGER_BYTES = 2.0, 100_000_000
GRACE_SECONDS, DRAIN_SECONDS = 1.0, 30.0
LOADING_SECONDS = 2

FOLDER = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/script.js": ("script.js", "text/javascript; charset=utf-8"),
    "/ask.js": ("ask.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PICTURES = re.compile(r"/api/(example|thumbnail|gallery)/([0-9]{1,12})")
ASKED = ("/api/picture", "/api/session", *OPERATIONS)
TOLD = ("/api/about", "/health", "/openapi.json", "/v1/model")
OPEN = (*FILES, "/health", "/openapi.json", "/api/session")
"""What needs no token, or brings it itself."""
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
    """A server of `answers`, which may be given after it serves: until then it says that it is loading.

    Args:
        host, port: to listen on; port 0 takes any that is free.
        token: see `Access`; on another address than this machine's one is made where none is given.
        request_seconds: that a request may take to arrive.

    Raises:
        OSError: for an address that cannot be used, saying what to do.
        ValueError: for a token that is too short.
    """

    daemon_threads = True
    request_queue_size = 128

    answers: Any = None
    draining = False

    def __init__(
        self,
        *,
        host: str = ADDRESS,
        port: int = 0,
        token: str | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ):
        self.access = Access(host, token)
        self.request_seconds = request_seconds
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.timeout = 0
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._turning_away = threading.BoundedSemaphore(MOST_TURNED_AWAY)
        self._connections: dict[socket.socket, bool] = {}  # -> whether it waits for a request
        self._changed = threading.Condition()
        self._more = True
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise OSError(
                f"port {port} of {host} cannot be used: {error}. Give another --port, or none; --host is an address of "
                "this machine."
            ) from None

    @property
    def url(self) -> str:
        """Where the page is."""
        return self.access.url(self.server_address[1])

    @property
    def page(self) -> str:
        """The address to open, with the token where one is needed."""
        return self.url + (f"#token={self.access.token}" if self.access.token else "")

    def health(self) -> Health:
        """Whether questions are answered, and how many wait."""
        batcher = self.answers.batcher if self.answers else None
        return {
            "status": "draining" if self.draining else "ready" if self.answers else "loading",
            "waiting": batcher.waiting if batcher else 0,
            "most_waiting": batcher.most_waiting if batcher else 0,
        }

    def drain(self, *, grace_seconds: float = GRACE_SECONDS, seconds: float = DRAIN_SECONDS) -> int:
        """Ends serving without losing an answer, while `serve_forever` runs in another thread.

        For the grace, `/health` says that it is draining, everybody is answered still and then disconnected. After it
        nobody new is let in, what was asked is answered, and connections that ask nothing are closed.

        Returns:
            The connections that were still being answered after `seconds`.
        """
        self.draining = True
        time.sleep(grace_seconds)
        self.shutdown()
        self._more = True
        until = time.monotonic() + seconds
        while self._more and time.monotonic() < until:  # those that the system has let in, and we have not yet
            self.handle_request()
        self.socket.close()
        with self._changed:
            while self._connections and time.monotonic() < until:
                self._close_idle(socket.SHUT_RD)
                self._changed.wait(0.1)
            return len(self._connections)

    def handle_timeout(self) -> None:
        self._more = False

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own would look up the machine's name, which can take seconds
        self.server_name, self.server_port = self.access.host, self.server_address[1]

    def server_close(self) -> None:
        super().server_close()
        self.draining = True
        with self._changed:
            self._close_idle(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            with self._changed:
                self._connections[request] = True
            super().process_request(request, client_address)
        elif self._turning_away.acquire(blocking=False):
            threading.Thread(target=self._turn_away, args=(request,), daemon=True).start()
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._connections.pop(request, None)
                self._changed.notify_all()
            self._free.release()

    def waits(self, request: Any, waits: bool) -> None:
        """Notes whether a connection waits for its next request."""
        with self._changed:
            if request in self._connections:
                self._connections[request] = waits
                self._changed.notify_all()

    def _close_idle(self, how: int) -> None:
        for connection, waits in self._connections.items():
            if waits:
                with suppress(OSError):
                    connection.shutdown(how)

    def _turn_away(self, request: socket.socket) -> None:
        """Answers a connection that there is no room for."""
        try:
            content, kind = _json({"error": f"{MOST_CONNECTIONS} connections are open already: ask again in a moment."})
            named = {"Content-Type": kind, "Content-Length": len(content), "Retry-After": 1, "Connection": "close"}
            lines = [
                "HTTP/1.1 503 Service Unavailable",
                *(f"{name}: {value}" for name, value in (named | HEADERS).items()),
            ]
            with suppress(OSError):
                request.settimeout(self.request_seconds)
                request.sendall("\r\n".join([*lines, "", ""]).encode() + content)
                _linger(request)
        finally:
            self.shutdown_request(request)
            self._turning_away.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # the browser has gone
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    """One connection. Whatever is wrong with a request is answered by {"error": sentence} and a status."""

    server: DemoServer
    server_version, sys_version = "diptych", ""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._arriving = _Until(self.connection)
        self.rfile = io.BufferedReader(self._arriving)

    def handle_one_request(self) -> None:
        self._arriving.deadline = time.monotonic() + self.server.request_seconds
        self._body_read = False
        self.server.waits(self.request, True)
        super().handle_one_request()

    def parse_request(self) -> bool:
        self.server.waits(self.request, False)
        return super().parse_request()

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def _refuse_method(self) -> None:
        self._answered(self._other)

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _answered(self, answer: Callable[[str], tuple[bytes, str]]) -> None:
        status, path = 200, self.path.partition("?")[0]
        more: dict[str, str] = {}
        self._more = more
        access = self.server.access
        try:
            access.check_host(self.headers, self.server.url)
            if path not in OPEN:
                access.check_token(self.headers, self.server.server_port)
            content, kind = answer(path)
            if path == "/health" and self.server.health()["status"] != "ready":
                status, more["Retry-After"] = 503, str(LOADING_SECONDS)
        except Refused as refused:
            status, (content, kind) = refused.status, _json({"error": refused.message})
            if refused.retry_after is not None:
                more["Retry-After"] = str(refused.retry_after)
        except TimeoutError:
            status, (content, kind) = 408, _json({"error": "The request took too long to arrive."})
        except ConnectionError:
            return
        except Exception:  # whatever the model or the data do, the page gets an answer and the terminal the details
            traceback.print_exc()
            status, (content, kind) = 500, _json({"error": "Something went wrong; the terminal says what."})
        if status == 405:
            more["Allow"] = "POST" if path in ASKED else "GET"
        if status == 401:
            more["WWW-Authenticate"] = "Bearer"
        self._send(status, content, kind, more)

    def _get(self, path: str) -> tuple[bytes, str]:
        if path in FILES:
            name, kind = FILES[path]
            return (FOLDER / name).read_bytes(), kind
        if path == "/health":
            return _json(self.server.health())
        if path == "/openapi.json":
            return _json(openapi(__version__))
        if path in ASKED:
            raise Refused(405, "Ask by POST.")
        if path not in TOLD and not PICTURES.fullmatch(path):
            raise Refused(404, "There is nothing here.")
        answers = self._ready()
        if path == "/api/about":
            return _json(answers.about())
        if path == "/v1/model":
            return _json(answers.facts())
        if match := PICTURES.fullmatch(path):
            if match[1] != "example" and answers.gallery is None:
                raise Refused(404, "This model searches nothing.")
            with in_sentences():
                if match[1] == "example":
                    return answers.examples.picture(int(match[2])), "image/png"
                read = answers.gallery.thumbnail if match[1] == "thumbnail" else answers.gallery.picture
                return read(int(match[2])), "image/png"
        raise Refused(404, "There is nothing here.")

    def _post(self, path: str) -> tuple[bytes, str]:
        if path not in ASKED:
            known = path in FILES or path in TOLD or PICTURES.fullmatch(path)
            raise Refused(405, "Ask by GET.") if known else Refused(404, "There is nothing here.")
        self.server.access.check_origin(self.headers, self.server.url, by_programs=path.startswith("/v1/"))
        if path == "/api/session":
            self._more |= self.server.access.cookie(self.headers, self.server.server_port)
            return _json({})
        if path == "/api/picture":
            data = self._body(MOST_PICTURE_BYTES)
            return _json(self._ready().keep(data))
        asked = self._json_body(OPERATIONS[path].most_bytes)
        return _json(answered(path, self._ready(), asked))

    def _other(self, path: str) -> tuple[bytes, str]:
        raise Refused(405, "Only GET and POST are answered.")

    def _ready(self) -> Any:
        answers = self.server.answers
        if answers is None:
            raise Refused(503, "The model is still being opened.", retry_after=LOADING_SECONDS)
        return answers

    def _json_body(self, most: int) -> Any:
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "Send application/json.")
        try:
            return json.loads(self._body(most))
        except (ValueError, RecursionError):
            raise Refused(400, "This is not JSON.") from None

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
        self._body_read = True
        return body

    def _send(self, status: int, content: bytes, kind: str, more: dict[str, str]) -> None:
        unread = not self._body_read and ("Transfer-Encoding" in self.headers or "Content-Length" in self.headers)
        if unread or self.server.draining:
            self.close_connection = True
        named = {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS, **more}
        try:
            self.connection.settimeout(self.server.request_seconds)
            self.send_response(status)
            for name, value in named.items():
                self.send_header(name, value)
            self.send_header("Connection", "close" if self.close_connection else "keep-alive")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            if self.close_connection and status >= 400:
                _linger(self.connection)
        except OSError:  # the browser has gone, or takes nothing
            self.close_connection = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library finds wrong with a request, in the form of all other refusals."""
        self.command, self.request_version = self.command or "", self.protocol_version
        self.close_connection, self.headers = True, getattr(self, "headers", None) or Message()
        self._send(code, *_json({"error": f"{HTTPStatus(code).phrase}."}), {})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each picture of a gallery helps nobody."""


class _Until(io.RawIOBase):
    """What a connection sends before a moment of `time.monotonic`; then reading raises TimeoutError, however it
    trickles.
    """

    def __init__(self, connection: socket.socket, deadline: float = 0.0):
        self._connection, self.deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def _json(value: Mapping[str, object]) -> tuple[bytes, str]:
    return json.dumps(value, allow_nan=False).encode(), "application/json"


def _linger(connection: socket.socket) -> None:
    """Takes what is still being sent. Closing at once would reset the connection, and the answer would be lost."""
    connection.shutdown(socket.SHUT_WR)
    rest = _Until(connection, time.monotonic() + LINGER_SECONDS)
    buffer, taken = bytearray(1 << 16), 0
    while taken < LINGER_BYTES and (count := rest.readinto(buffer)):
        taken += count
