"""The demo's server: whom and what it refuses, in a sentence and without ever going down."""

import re
import socket
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from diptych.engine.serving import answers as answers_module
from diptych.engine.serving import server as server_module
from diptych.engine.serving.server import ASKED, MOST_PICTURE_BYTES
from tests.core.data.hostile import accepted_pictures, refused_pictures
from tests.engine.serving.demo_encoder import DemoEncoder
from tests.engine.serving.demo_site import CELLS, demo_answers, png_file, served, two_colours
from tests.marks import ABOVE_THE_BACKENDS

pytestmark = ABOVE_THE_BACKENDS

STATUS = {
    "image_empty": 400,
    "image_format": 415,
    "image_too_large": 413,
    "image_too_slow": 413,
    "image_truncated": 422,
    "image_damaged": 422,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def site(folder):
    with served(demo_answers(folder)) as site:
        yield site


@pytest.mark.parametrize("name", sorted(refused_pictures()))
def test_hostile_pictures_are_refused_in_a_sentence(site, name):
    data, reason = refused_pictures()[name]
    status, answer = site.upload(data)
    assert status == STATUS[reason]
    assert answer["error"][0].isupper()
    assert reason not in answer["error"]
    assert site.get("/api/about")[0] == 200


def test_odd_but_good_pictures_are_taken(site):
    for name, data in accepted_pictures().items():
        status, kept = site.upload(data)
        assert (status, kept["height"], kept["width"]) == (200, 24, 32), name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (2500, 2), (900, 1200)])
def test_pictures_of_any_shape_have_heat_maps(site, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    status, answer = site.ask("/api/heat_maps", {"picture": site.picture(pixels), "labels": ["red"]})
    assert status == 200
    assert np.shape(answer["maps"][0]["values"]) == (CELLS, CELLS)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(site):
    status, answer = site.upload(bytes(MOST_PICTURE_BYTES + 1))
    assert status == 413
    assert "10 MB" in answer["error"]
    status, _, _ = site.send("POST", "/api/picture", None, {"Content-Length": "99999999999999999"})
    assert status == 413
    status, _ = site.ask("/api/search", {"text": "long " * 40_000})
    assert status == 413
    assert site.upload(bytes(MOST_PICTURE_BYTES))[0] == 415


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 411),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "+5"}, 400),
        ({"Content-Length": "5, 5"}, 400),
        ({"Content-Length": "0x10"}, 400),
        ({"Content-Length": "٣"}, 400),
    ],
)
def test_a_body_must_say_how_long_it_is(site, headers, status):
    headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    assert site.send("POST", "/api/picture", None, headers)[0] == status


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "[::1]",
        "127.0.0.1:x",
        "127.0.0.2",
        "",
        "@localhost",
    ],
)
def test_another_host_is_refused(site, host):
    for method, path in (("GET", "/"), ("GET", "/api/about"), ("POST", "/api/search")):
        status, _, _ = site.send(method, path, b"{}", {"Host": host, "Origin": f"http://{host}"})
        assert status == 403


def test_localhost_is_this_machine_too(site):
    host = f"localhost:{site.port}"
    headers = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
    assert site.send("POST", "/api/search", b'{"text": "red"}', headers)[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://127.0.0.1:1", "http://localhost"])
def test_another_pages_questions_are_refused(site, origin):
    programs = [path for path in ASKED if path.startswith("/v1/")]
    for path in ASKED if origin else sorted(set(ASKED) - set(programs)):
        assert site.send("POST", path, b"{}", {"Origin": origin, "Content-Type": "application/json"})[0] == 403
    for path in programs:
        of_a_page = {"Origin": origin, "Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}
        assert site.send("POST", path, b"{}", of_a_page)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/server.py",
        "/page.html",
        "/%2e%2e/%2e%2e/pyproject.toml",
        "/..%2f..%2fpyproject.toml",
        "//etc/passwd",
        "/style.css/../server.py",
        "/style.css%00",
        "/api/gallery/../../../pyproject.toml",
        "/api/gallery/-1",
        "/api/gallery/1e3",
        "/api/gallery/%D9%A3",
        "/api/gallery/999999999999",
        "/api/thumbnail/99",
        "/api/example/12",
        "/api/nothing",
        "http://evil.example/",
        "*",
        "/?/../server.py/"[2:],
    ],
)
def test_only_what_is_in_the_table_is_served(site, path):
    status, _, content = site.send("GET", path)
    assert status == 404
    assert b"import" not in content


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT"])
def test_other_methods_are_refused(site, method):
    for path in ("/", "/api/search"):
        status, headers, _ = site.send(method, path)
        assert status == 405
        assert headers["Allow"] == ("POST" if path == "/api/search" else "GET")


def test_each_path_has_its_method(site):
    for path in ASKED:
        status, headers, _ = site.send("GET", path)
        assert (status, headers["Allow"]) == (405, "POST")
    for path in ("/", "/api/about", "/api/example/0"):
        status, headers, _ = site.send("POST", path, b"{}")
        assert (status, headers["Allow"]) == (405, "GET")
    assert site.send("POST", "/api/nothing", b"{}")[0] == 404
    assert site.send("BREW", "/")[0] == 501


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"{",
        b"[" * 50_000,
        b"\xff\xfe",
        b"7",
        b"[]",
        b'{"labels": ' + b"9" * 5000 + b"}",
        {"picture": 7, "labels": ["a"]},
        {"labels": "red"},
        {"labels": ["red", 7]},
        {"labels": ["red", None]},
        {"labels": []},
        {"labels": ["red", "red"]},
        {"labels": [str(number) for number in range(51)]},
        {"labels": [""]},
        {"labels": ["\u200b"]},
        {"labels": ["a\0"]},
        {"labels": ["\ud800"]},
    ],
)
def test_questions_that_make_no_sense_are_refused(site, asked):
    if isinstance(asked, dict) and "picture" not in asked:
        asked = {"picture": site.picture(two_colours())} | asked
    for path in ("/api/probabilities", "/api/heat_maps"):
        assert site.ask(path, asked)[0] == 400


def test_texts_that_are_too_long_are_refused(site):
    name = site.picture(two_colours())
    assert site.ask("/api/probabilities", {"picture": name, "labels": ["a" * 200]})[0] == 200
    assert site.ask("/api/probabilities", {"picture": name, "labels": ["a" * 201]})[0] == 413
    assert site.ask("/api/search", {"text": "a" * 201})[0] == 413
    assert site.ask("/api/search", {"text": " "})[0] == 400


@pytest.mark.parametrize("asked", [{}, {"text": "red", "picture": "x"}, {"text": 7}, {"picture": ["x"]}])
def test_a_search_is_for_one_thing(site, asked):
    assert site.ask("/api/search", asked)[0] == 400


def test_a_question_must_be_json(site):
    body = b'{"text": "red"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert site.send("POST", "/api/search", body, {"Content-Type": kind})[0] == 415


def test_a_forgotten_picture_is_asked_for_again(folder, monkeypatch):
    monkeypatch.setattr(answers_module, "MOST_PICTURES", 2)
    with served(demo_answers(folder)) as site:
        pictures = [np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30)]
        names = [site.picture(pixels) for pixels in pictures]
        ask = {
            name: site.ask("/api/probabilities", {"picture": name, "labels": ["red"]}) for name in [*names, "nothing"]
        }
        assert [status for status, _ in ask.values()] == [404, 200, 200, 404]
        assert "again" in ask[names[0]][1]["error"]
        assert site.picture(pictures[0]) == names[0]
        assert site.ask("/api/search", {"picture": names[0]})[0] == 200


def test_it_listens_to_this_machine_alone(site):
    assert site.server.server_address[0] == "127.0.0.1"
    assert site.server.url == f"http://127.0.0.1:{site.port}/"
    # All of 127/8 is this machine on Linux, but only 127.0.0.1 was bound.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", site.port), timeout=2)


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST /api/picture HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nContent-Length: 5000\r\n\r\n",
    ],
)
def test_who_only_trickles_is_cut_off(folder, begin):
    with served(demo_answers(folder), request_seconds=0.6) as site:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
            connection.sendall(begin)
            with suppress(OSError):  # the far end closes, however steadily bytes come
                while time.monotonic() < began + 10:
                    connection.sendall(b"x")
                    time.sleep(0.05)
        assert time.monotonic() - began < 8
        assert site.get("/api/about")[0] == 200


def test_a_body_that_never_comes_gets_an_answer(folder):
    with served(demo_answers(folder), request_seconds=0.3) as site:
        assert site.send("POST", "/api/picture", None, {"Content-Length": "50"})[0] == 408
        request = (
            "POST /api/picture HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nContent-Length: 50\r\n\r\nabc"
        )
        with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
            connection.sendall(request.encode())
            connection.shutdown(socket.SHUT_WR)
            assert b" 400 " in connection.makefile("rb").readline()


@pytest.mark.parametrize(
    "request_line", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9", b"GET", b"GET / HTTP/1.1\r\n" + b"a" * 70_000]
)
def test_what_is_no_http_is_refused(site, request_line):
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        connection.sendall(request_line + b"\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert b"Traceback" not in answer
    assert re.match(rb"HTTP/1.1 (400|431|505) ", answer)
    assert site.get("/api/about")[0] == 200


def test_more_connections_than_there_is_room_for_are_told_so(folder, monkeypatch):
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 3)
    with served(demo_answers(folder), request_seconds=5.0) as site:
        waiting = [socket.create_connection(("127.0.0.1", site.port), timeout=20) for _ in range(3)]
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", site.port), timeout=20) as one_more:
            answer = one_more.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in answer
        for connection in waiting:
            connection.close()
        for _ in range(50):
            with suppress(ConnectionError):
                if site.get("/")[0] == 200:
                    break
            time.sleep(0.1)
        else:
            pytest.fail("the room of those that left was not given to others")


def test_a_fault_of_the_program_is_told_to_the_terminal_only(folder, capfd):
    encoder = DemoEncoder()
    with served(demo_answers(folder, encoder)) as site:
        encoder.processor = None
        status, answer = site.upload(png_file(two_colours()))
        assert status == 500
        assert "NoneType" not in answer["error"]
        assert site.get("/api/about")[0] == 200
    assert "NoneType" in capfd.readouterr().err
