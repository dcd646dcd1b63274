"""The JSON interface: requests are checked by what describes them, joined to batches, bounded, and drained."""

import base64
import http.client
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.engine.serving.access import Access, check_token
from diptych.engine.serving.asking import PromptAnswers
from diptych.engine.serving.batching import Batcher
from diptych.engine.serving.emoji_names import in_words, spells_emoji
from diptych.engine.serving.galleries import Examples
from diptych.engine.serving.operations import OPERATIONS, openapi
from diptych.engine.serving.refusals import Refused
from diptych.engine.serving.schema import schema_of
from tests.engine.serving.demo_encoder import DemoEncoder
from tests.engine.serving.demo_site import demo_answers, png_file, served, two_colours
from tests.marks import ABOVE_THE_BACKENDS

pytestmark = ABOVE_THE_BACKENDS

TOKEN = "a-token-of-the-tests"
PICTURE = base64.b64encode(png_file(two_colours())).decode()
GOOD = {
    "/v1/embed": {"images": [PICTURE], "texts": ["red", "👩‍🚀"]},
    "/v1/zero-shot": {"images": [PICTURE, f"data:image/png;base64,{PICTURE}"], "labels": ["red", "blue"]},
    "/v1/search": {"text": "red", "count": 3},
    "/v1/ask": {"image": PICTURE, "prompt": "detect square"},
}


class FakeAnswerer:
    """Says that there is a square at the top left."""

    mask_decoder = None
    model = SimpleNamespace(count_params=lambda: 7)

    def answers(self, pictures, prompts, *, steps, batch_size):
        return ["<loc0127><loc0127><loc0383><loc0383> square" for _ in prompts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interface")


@pytest.fixture(scope="module")
def site(folder):
    with served(demo_answers(folder)) as site:
        yield site


@pytest.fixture(scope="module")
def asking():
    answers = PromptAnswers(FakeAnswerer(), Examples(), model="fake", prompts=("detect square",))
    with served(answers) as site:
        yield site


def test_answers_are_what_the_document_says(site, asking):
    jsonschema = pytest.importorskip("jsonschema")
    document = json.loads(site.get("/openapi.json")[1])
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {*GOOD, "/health", "/v1/model"}

    def check(path: str, method: str, where: list[str], value: object) -> None:
        part = document["paths"][path][method]
        for key in where:
            part = part[key]
        schema = part["content"]["application/json"]["schema"] | {"components": document["components"]}
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(value)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate({"something": "else"})

    for path in ("/health", "/v1/model"):
        for each in (site, asking):
            check(path, "get", ["responses", "200"], json.loads(each.get(path)[1]))
    for path, asked in GOOD.items():
        status, answer = (asking if path == "/v1/ask" else site).ask(path, asked)
        assert status == 200, answer
        check(path, "post", ["requestBody"], asked)
        check(path, "post", ["responses", "200"], answer)
    status, refused = site.ask("/v1/search", {})
    check("/v1/search", "post", ["responses", "4XX"], refused)


def test_vectors_and_labels_are_the_models(site):
    encoder = DemoEncoder()
    _, embedded = site.ask("/v1/embed", GOOD["/v1/embed"])
    exact = encoder.embed_images([two_colours()])
    assert np.array_equal(np.array(embedded["images"], np.float32), exact)
    assert np.array_equal(np.array(embedded["texts"], np.float32)[:1], encoder.embed_texts(["red"]))
    _, weighed = site.ask("/v1/zero-shot", GOOD["/v1/zero-shot"] | {"template": "some {}"})
    _, page = site.ask("/api/probabilities", {"picture": site.picture(two_colours()), "labels": ["red", "blue"]})
    assert weighed["results"] == [page, page]
    _, found = site.ask("/v1/search", {"image": PICTURE, "count": 2})
    assert len(found["results"]) == 2


@pytest.mark.parametrize(
    ("path", "asked", "words"),
    [
        ("/v1/embed", {}, "expected at least one"),
        ("/v1/embed", {"text": ["red"]}, "Did you mean texts?"),
        ("/v1/embed", {"texts": "red"}, 'texts: got "red", expected a list.'),
        ("/v1/embed", {"texts": ["red", 7]}, "texts[1]: got 7, expected a text."),
        ("/v1/embed", {"texts": []}, "texts: got 0 items, expected 1 to 64 items."),
        ("/v1/embed", {"texts": [""]}, "texts[0]: got 0 characters, expected 1 to 200 characters."),
        ("/v1/embed", {"images": ["no base64!"]}, "images[0]: got 'no base64!', expected"),
        ("/v1/zero-shot", {"images": [PICTURE]}, "labels is missing"),
        ("/v1/zero-shot", {"images": [PICTURE], "labels": ["a"], "template": "ab"}, "exactly once"),
        ("/v1/search", {"text": "red", "count": True}, "count: got true, expected a whole number."),
        ("/v1/search", {"text": "red", "count": 61}, "count: got 61, expected 1 to 60."),
        ("/v1/search", {"text": "red", "image": PICTURE}, "got text and image, expected text or image."),
        ("/v1/search", ["red"], "the body: got"),
    ],
)
def test_a_request_that_is_not_as_described_is_told_what_was_expected(site, path, asked, words):
    status, answer = site.ask(path, asked)
    assert status == 400
    assert words in answer["error"]


def test_a_model_says_what_it_does_not_answer(site, asking):
    for each, path in ((site, "/v1/ask"), (asking, "/v1/search")):
        status, answer = each.ask(path, GOOD[path])
        assert status == 409
        assert path in answer["error"]


def test_every_operation_is_described_by_its_own_types():
    for operation in OPERATIONS.values():
        for kind in (operation.request, operation.answer):
            assert schema_of(kind)["$ref"].endswith(kind.__name__)
            assert operation.of_the_page or kind.__name__ in openapi("0")["components"]["schemas"]


def test_boxes_are_in_pixels_of_the_picture_and_drawn(asking):
    _, answer = asking.ask("/v1/ask", GOOD["/v1/ask"])
    assert answer["found"] == [{"label": "square", "box": [8, 12, 24, 36], "mask": False}]
    assert answer["drawn"].startswith("data:image/png;base64,")
    name = asking.picture(two_colours())
    _, again = asking.ask("/api/ask", {"picture": name, "prompt": "detect square"})
    assert again["found"] == answer["found"]


def test_a_token_is_asked_for_and_compared(folder):
    with served(demo_answers(folder), token=TOKEN) as site:
        for path in ("/", "/health", "/openapi.json"):
            assert site.get(path)[0] == 200
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}, {"Cookie": "diptych_1=x"}):
            status, answered, _ = site.send("GET", "/api/about", None, headers)
            assert (status, answered["WWW-Authenticate"]) == (401, "Bearer")
        assert site.send("POST", "/api/session", b"", {"Authorization": "Bearer wrong"})[0] == 401
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert site.send("GET", "/v1/model", None, bearer)[0] == 200
        status, answered, _ = site.send("POST", "/api/session", b"", bearer)
        assert status == 200
        cookie = answered["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        headers = {"Cookie": cookie.partition(";")[0], "Content-Type": "application/json"}
        assert site.send("GET", "/api/about", None, headers)[0] == 200
        assert site.send("POST", "/v1/search", b'{"text": "red"}', headers | {"Origin": ""})[0] == 200
        other = headers | {"Origin": "http://evil.example"}
        assert site.send("POST", "/v1/search", b'{"text": "red"}', other)[0] == 403


def test_another_address_than_this_machines_has_a_token():
    assert Access("127.0.0.1").token is None
    assert Access("localhost").token is None
    made = {Access("0.0.0.0").token, Access("192.0.2.7").token, Access("::").token, Access("a.example").token}
    assert len(made) == 4
    assert all(token and len(token) >= 24 for token in made)
    with pytest.raises(ValueError, match="at least 16"):
        check_token("short")
    assert Access("0.0.0.0", TOKEN).url(80) == "http://127.0.0.1:80/"


def test_programs_need_no_origin_and_keep_their_connection(site):
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    sockets = set()
    for path in ("/v1/embed", "/v1/search", "/v1/ask"):
        connection.request("POST", path, json.dumps(GOOD[path]), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        sockets.add(connection.sock)
    assert sockets == {connection.sock} != {None}
    connection.close()


def at_once(calls):
    """What each call returns or raises, all begun at a time."""
    found = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(place, call):
        start.wait()
        try:
            found[place] = call()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_what_is_asked_at_a_time_is_one_batch():
    batcher, batches = Batcher(pause_seconds=0.3), []

    def double(items):
        batches.append(len(items))
        if "bad" in items:
            raise ValueError("bad")
        return [2 * item for item in items]

    calls = [lambda n=n: batcher.call(double, [n, n + 1], largest=64) for n in range(8)]
    assert at_once(calls) == [[2 * n, 2 * n + 2] for n in range(8)]
    assert batches == [16]
    found = at_once([*calls[:3], lambda: batcher.call(double, ["bad"], largest=64)])
    assert found[:3] == [[2 * n, 2 * n + 2] for n in range(3)]
    assert isinstance(found[3], ValueError)
    batches.clear()
    began = time.monotonic()
    at_once(calls[:2] + [lambda n=n: batcher.call(double, [n, n], largest=2) for n in range(2)])
    assert max(batches) <= 6
    assert time.monotonic() - began < 5
    batcher.close()
    with pytest.raises(Refused):
        batcher.call(double, [1], largest=64)


def test_a_full_queue_says_when_to_come_again(folder):
    encoder = DemoEncoder(seconds=0.0)
    answers = demo_answers(folder, encoder, batcher=Batcher(most_waiting=2, pause_seconds=0.0))
    encoder.seconds = 0.4
    with served(answers, request_seconds=10) as site:
        began = threading.Event()
        first = threading.Thread(target=lambda: (began.set(), site.ask("/v1/search", {"text": "first"})))
        first.start()
        began.wait()
        time.sleep(0.15)
        texts = [lambda n=n: site.send_json("/v1/embed", {"texts": [f"text {n}"]}) for n in range(6)]
        found = at_once(texts)
        first.join()
        statuses = sorted(status for status, _ in found)
        assert statuses == [200] * 2 + [503] * 4
        assert all(headers["Retry-After"] == "1" for status, headers in found if status == 503)
        assert site.ask("/v1/search", {"text": "later"})[0] == 200


def test_health_follows_the_program_and_draining_loses_no_answer(folder):
    encoder = DemoEncoder()
    answers = demo_answers(folder, encoder)
    encoder.seconds = 0.005
    with served(answers) as site:
        site.server.answers = None
        status, headers, content = site.send("GET", "/health")
        assert (status, json.loads(content)["status"], headers["Retry-After"]) == (503, "loading", "2")
        assert site.send("GET", "/api/about")[0] == 503
        site.server.answers = answers
        assert json.loads(site.get("/health")[1])["status"] == "ready"

        idle = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
        idle.request("GET", "/health")
        idle.getresponse().read()
        statuses, lost = [], []

        def ask(number: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
            try:
                while True:
                    text = json.dumps({"texts": [f"{number} {time.monotonic()}"]})
                    connection.request("POST", "/v1/embed", text, {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                    statuses.append(answer.status)
                    if answer.headers["Connection"] == "close":
                        return
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert site.server.drain(grace_seconds=0.3, seconds=20) == 0
        for thread in threads:
            thread.join()
        assert lost == []
        assert set(statuses) == {200}
        assert len(statuses) >= 6
        with pytest.raises(ConnectionRefusedError):
            site.get("/health")
        assert idle.sock is None or idle.sock.recv(1) == b""
        idle.close()


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("🐶", "dog face"),
        ("a 🍎 on a table", "a red apple on a table"),
        ("👩‍🚀", "woman astronaut"),
        ("👨‍👩‍👧‍👦", "family: man, woman, girl, boy"),
        ("🏳️‍🌈", "rainbow flag"),
        ("❤️", "red heart"),
        ("🇯🇵🚀", "flag: Japan rocket"),
        ("7 cats", "7 cats"),
        ("\U0001faff", "\U0001faff"),
    ],
)
def test_emoji_are_read_by_their_names(typed, read):
    assert in_words(typed) == read


def test_a_vocabulary_that_spells_emoji_is_told_from_one_that_knows_them():
    assert spells_emoji(open_tokenizer(TOKENIZER_PATH))
    assert not spells_emoji(SimpleNamespace(length=len))


@pytest.mark.parametrize("query", ["🐶", "👩‍🚀", "🏳️‍🌈", "👍🏽 red", "7️⃣"])
def test_emoji_are_taken_in_queries(site, query):
    status, found = site.ask("/api/search", {"text": query})
    assert status == 200
    assert found["read_as"] == query
