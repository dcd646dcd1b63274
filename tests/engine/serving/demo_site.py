"""A demo of coloured shapes to ask: its server in a thread, and requests to it as they are."""

import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.engine.serving.answers import Answers
from diptych.engine.serving.galleries import Examples, index_gallery
from diptych.engine.serving.server import DemoServer
from diptych.recipes.embed import Embed, embed
from tests.engine.serving.demo_encoder import DemoEncoder
from tests.recipes.photos import write_photos

CELLS = 8
PHOTOS = 20


def demo_answers(folder: Path, encoder: DemoEncoder | None = None, **options: Any) -> Answers:
    """Answers about `folder`/photos, which is embedded the first time."""
    encoder = encoder or DemoEncoder()
    if not (folder / "index").exists():
        write_photos(folder / "photos", PHOTOS)
        embed(Embed(data=str(folder / "photos"), index=folder / "index"), lambda name: encoder)
    gallery = index_gallery(folder / "index", encoder, "the fake one")
    chosen = {"model": "colours", "queries": ("red", "رمادي blue"), "cells": CELLS} | options
    return Answers(encoder, gallery, Examples(), **chosen)


@contextmanager
def served(answers: Answers, **options: Any) -> Iterator["Site"]:
    with DemoServer(**options) as server:
        server.answers = answers
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Site(server)
        finally:
            server.shutdown()
            thread.join()


class Site:
    """Sends requests to a server and checks what holds for every answer."""

    def __init__(self, server: DemoServer):
        self.server, self.answers = server, server.answers
        self.port = server.server_address[1]
        self.origin = f"http://127.0.0.1:{self.port}"

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and content of one request, with a page's own headers unless others are given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        all_headers = {"Host": f"127.0.0.1:{self.port}", "Origin": self.origin}
        if body is not None:
            all_headers["Content-Length"] = str(len(body))
        for name, value in (all_headers | (headers or {})).items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        if body:
            connection.send(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert b"Traceback" not in content
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        if answer.status >= 400 and method != "HEAD" and path != "/health":
            assert len(json.loads(content)["error"]) > 5
        return answer.status, answer.headers, content

    def get(self, path: str) -> tuple[int, bytes]:
        status, _, content = self.send("GET", path)
        return status, content

    def ask(self, path: str, asked: Any) -> tuple[int, Any]:
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        status, _, content = self.send("POST", path, body, {"Content-Type": "application/json"})
        return status, json.loads(content)

    def send_json(self, path: str, asked: Any) -> tuple[int, http.client.HTTPMessage]:
        """Status and headers of a question."""
        status, headers, _ = self.send("POST", path, json.dumps(asked).encode(), {"Content-Type": "application/json"})
        return status, headers

    def upload(self, data: bytes) -> tuple[int, Any]:
        status, _, content = self.send("POST", "/api/picture", data)
        return status, json.loads(content)

    def picture(self, pixels: np.ndarray) -> str:
        """Uploads a good picture; its name."""
        status, kept = self.upload(png_file(pixels))
        assert status == 200, kept
        assert (kept["height"], kept["width"]) == pixels.shape[:2]
        return kept["picture"]


def png_file(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def two_colours() -> np.ndarray:
    """Grey, 64 x 96, with a red square at the top left and a blue one at the bottom right."""
    pixels = np.full((64, 96, 3), 128, np.uint8)
    pixels[8:24, 12:36] = (220, 40, 40)
    pixels[40:56, 60:84] = (40, 70, 220)
    return pixels
