"""A web server on a free port of this machine, from entering to leaving it as a context."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class LocalServer:
    """Answers requests by `answer`, many at a time."""

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        """Sends what a GET asks for, or for a HEAD all but the body."""
        raise NotImplementedError

    def take(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answers a POST or a PUT with its body."""
        request.send_error(501)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                server.answer(self, with_body=False)

            def do_POST(self) -> None:
                server.take(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            do_PUT = do_POST

            def log_message(self, *arguments) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *details) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
