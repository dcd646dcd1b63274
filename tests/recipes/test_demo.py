"""The demo: what its server answers, one question at a time to the model, and its command from start to Ctrl-C."""

import base64
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.emoji import HELD_OUT_DESIGNER, evaluation_set
from diptych.core.data.sources.small import ChosenRecords
from diptych.core.evaluation.calibration import sigmoid
from diptych.engine.embedding.index_folder import IndexFolderError
from diptych.engine.serving import galleries
from diptych.engine.serving.answers import CELLS as SIZES
from diptych.engine.serving.server import FILES, FOLDER, DemoServer
from diptych.engine.serving.shared_encoder import SharedEncoder
from diptych.recipes import demo
from diptych.recipes.demo import DEFAULT_MODEL, Demo, main, prepared, show
from tests.engine.serving.demo_encoder import DemoEncoder
from tests.engine.serving.demo_site import CELLS, PHOTOS, Site, demo_answers, served, two_colours
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.photos import COLOURS
from tests.tree import ROOT

pytestmark = ABOVE_THE_BACKENDS

LABELS = ["red", "green", "blue", "yellow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def site(folder):
    with served(demo_answers(folder)) as site:
        yield site


def test_the_page_is_complete_and_asks_nobody_else(site):
    for path, words in (
        ("/", b"<!doctype html>"),
        ("/style.css", b":root"),
        ("/script.js", b"ask"),
        ("/icon.svg", b"svg"),
    ):
        status, headers, content = site.send("GET", path)
        assert status == 200
        assert words in content
        assert headers["Cache-Control"] == "no-store"
    assert site.get("/?example=3&query=x")[0] == 200
    files = [path for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js", ".svg")]
    assert {f"/{path.name}" for path in files} - {"/page.html"} == set(FILES) - {"/"}
    for path in files:
        found = re.findall(
            r"https?://[^\s\"']+|(?:src|href)=\"(?!/)[^\"]*\"|@import|url\(", path.read_text(encoding="utf-8")
        )
        assert set(found) <= {"http://www.w3.org/2000/svg"}, path


def test_about_says_what_the_page_needs(site):
    status, content = site.get("/api/about")
    about = json.loads(content)
    assert status == 200
    assert (about["model"]["name"], about["sigmoid"], about["attention"]) == ("colours", True, False)
    assert about["gallery"] == {"name": "photos, embedded in index", "rows": PHOTOS}
    assert len(about["languages"]) == 36
    assert {"code": "de", "name": "German"} in about["languages"]
    assert len(about["examples"]) == 12
    assert all(
        {language["code"] for language in about["languages"]} <= set(each["names"]) for each in about["examples"]
    )


def test_examples_are_the_drawings_that_they_are_called(site):
    source = evaluation_set()
    by_emoji = {source.concept(index).emoji: index for index in range(len(source))}
    _, content = site.get("/api/about")
    for place, example in enumerate(json.loads(content)["examples"]):
        status, shown = site.get(f"/api/example/{place}")
        assert status == 200
        (reference,) = source.record(by_emoji[example["emoji"]]).images
        assert reference[0] == HELD_OUT_DESIGNER
        drawing = Image.open(io.BytesIO(source.read(reference))).convert("RGB")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown))), np.asarray(drawing))


def test_probabilities_are_those_of_the_definition(site):
    pixels = np.full((20, 30, 3), COLOURS["red"], np.uint8)
    status, answer = site.ask("/api/probabilities", {"picture": site.picture(pixels), "labels": LABELS})
    assert status == 200
    encoder = DemoEncoder()
    cosines = (encoder.embed_texts(LABELS) @ encoder.embed_images([pixels])[0]).astype(np.float64)
    exponentials = np.exp(10 * cosines)
    exact = dict(
        zip(LABELS, zip(exponentials / exponentials.sum(), sigmoid(10 * cosines - 3), strict=True), strict=True)
    )
    assert answer["labels"][0]["label"] == "red"
    assert sorted(each["label"] for each in answer["labels"]) == sorted(LABELS)
    for each in answer["labels"]:
        # Cosines are float32, of length-4 vectors, times a scale of 10.
        assert (each["softmax"], each["sigmoid"]) == pytest.approx(exact[each["label"]], rel=40 * 2.0**-24)


def test_without_a_bias_there_is_no_sigmoid(tmp_path):
    with served(demo_answers(tmp_path, DemoEncoder(logit_bias=None))) as site:
        assert not json.loads(site.get("/api/about")[1])["sigmoid"]
        _, answer = site.ask("/api/probabilities", {"picture": site.picture(two_colours()), "labels": LABELS})
        assert [each["sigmoid"] for each in answer["labels"]] == [None] * 4
        _, found = site.ask("/api/search", {"text": "red"})
        assert {hit["probability"] for hit in found["results"]} == {None}


def test_labels_go_into_the_template(tmp_path):
    encoder = DemoEncoder()
    with served(demo_answers(tmp_path, encoder, template="some {} thing")) as site:
        site.ask("/api/probabilities", {"picture": site.picture(two_colours()), "labels": [" red\n", "{}"]})
        assert encoder.heard == ["some red thing", "some {} thing"]


def quarter_of(values: list[list[float]], row: int, column: int) -> bool:
    """Whether the peak of a map is in one of its quarters."""
    heat = np.array(values)
    peak = np.unravel_index(heat.argmax(), heat.shape)
    return bool(peak[0] // (CELLS // 2) == row and peak[1] // (CELLS // 2) == column)


def test_heat_maps_show_where_each_label_is(site):
    name = site.picture(two_colours())
    status, answer = site.ask("/api/heat_maps", {"picture": name, "labels": ["red", "blue"]})
    assert status == 200
    assert answer["attention"] is None
    red, blue = answer["maps"]
    assert (red["label"], blue["label"]) == ("red", "blue")
    assert np.shape(red["values"]) == (CELLS, CELLS)
    assert quarter_of(red["values"], 0, 0)
    assert quarter_of(blue["values"], 1, 1)
    assert not quarter_of(red["values"], 1, 1)
    assert not quarter_of((-np.array(red["values"])).tolist(), 0, 0)
    assert red["limit"] == pytest.approx(np.abs(red["values"]).max(), abs=1e-5)
    kind, _, data = red["overlay"].partition(",")
    assert kind == "data:image/png;base64"
    layer = Image.open(io.BytesIO(base64.b64decode(data)))
    assert layer.mode == "RGBA"
    assert layer.size == (480, 320)
    pixels = np.asarray(layer).astype(int)
    at_red = pixels[40:120, 60:180].mean(axis=(0, 1))
    assert at_red[0] > at_red[2]
    assert at_red[3] > 60


def test_other_labels_of_the_same_picture_need_no_second_look(tmp_path):
    encoder = DemoEncoder()
    with served(demo_answers(tmp_path, encoder)) as site:
        name = site.picture(two_colours())
        _, first = site.ask("/api/heat_maps", {"picture": name, "labels": ["red"]})
        encoder.batches.clear()
        _, second = site.ask("/api/heat_maps", {"picture": name, "labels": ["green", "red"]})
        assert encoder.batches == [1]  # the new text
        assert second["maps"][1] == first["maps"][0]


def test_search_finds_what_fits_and_shows_it(site):
    for query, colour in (("something RED", "red"), ("blue", "blue")):
        status, found = site.ask("/api/search", {"text": query})
        assert status == 200
        assert len(found["results"]) == PHOTOS
        best = found["results"][: PHOTOS // 4]
        assert all(f"a {colour} " in hit["caption"] for hit in best)
        assert [hit["cosine"] for hit in found["results"]] == sorted(
            (hit["cosine"] for hit in found["results"]), reverse=True
        )
        likely = sigmoid(10 * np.float64(best[0]["cosine"]) - 3)
        assert best[0]["probability"] == pytest.approx(float(likely), rel=1e-9)
    row = best[0]["row"]
    status, thumbnail = site.get(f"/api/thumbnail/{row}")
    assert Image.open(io.BytesIO(thumbnail)).size == (160, 160)
    status, shown = site.get(f"/api/gallery/{row}")
    assert Image.open(io.BytesIO(shown)).size == (32, 32)
    _, alike = site.ask("/api/search", {"picture": site.upload(shown)[1]["picture"]})
    same = next(hit for hit in alike["results"] if hit["row"] == row)
    assert same["cosine"] == pytest.approx(1, abs=1e-3)  # the index holds float16
    assert same["probability"] is None
    assert [" blue " in hit["caption"] for hit in alike["results"]] == [True] * 5 + [False] * 15


def test_rows_without_an_image_are_found_but_not_shown(tmp_path):
    demo_answers(tmp_path)
    photos = tmp_path / "photos"
    (photos / "003.png").unlink()
    with served(demo_answers(tmp_path)) as site:
        assert len(site.ask("/api/search", {"text": "red"})[1]["results"]) == PHOTOS
        assert [site.get(f"/api/thumbnail/{row}")[0] for row in range(5)] == [200, 200, 200, 404, 200]
    # Without the first, every place holds the next one's image, and the last none.
    (photos / "000.png").unlink()
    lines = (photos / "captions.jsonl").read_text().splitlines(keepends=True)
    (photos / "captions.jsonl").write_text("".join(lines[1:]))
    with served(demo_answers(tmp_path)) as site:
        assert {site.get(f"/api/gallery/{row}")[0] for row in range(PHOTOS)} == {404}
    photos.rename(tmp_path / "elsewhere")
    with served(demo_answers(tmp_path)) as site:
        assert len(site.ask("/api/search", {"text": "red"})[1]["results"]) == PHOTOS
        assert site.get("/api/thumbnail/5")[0] == 404


def test_the_embedded_gallery_holds_drawings_of_the_held_out_designer(monkeypatch):
    few = ChosenRecords(evaluation_set(), range(30))
    monkeypatch.setattr(galleries, "evaluation_set", lambda: few)
    gallery = galleries.embedded_gallery(DemoEncoder())
    assert len(gallery) == 30
    assert gallery.usable.all()
    assert HELD_OUT_DESIGNER in gallery.name.lower()
    items = gallery.items(range(30))
    assert all(json.loads(item.image)[0] == HELD_OUT_DESIGNER for item in items)
    assert items[0].language == "en"
    drawing = Image.open(io.BytesIO(few.read(few.record(7).images[0]))).convert("RGB")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(gallery.picture(7)))), np.asarray(drawing))
    vector = DemoEncoder().embed_images([np.asarray(drawing)])[0]
    assert np.abs(gallery.vectors[7] - vector).max() <= 1e-6


def test_many_at_once_are_answered_one_after_the_other(folder):
    encoder = DemoEncoder(seconds=0.01)
    with served(demo_answers(folder, encoder)) as site:
        name = site.picture(two_colours())
        statuses: list[int] = []

        def ask(number: int) -> None:
            statuses.append(site.ask("/api/probabilities", {"picture": name, "labels": [f"red {number}", "blue"]})[0])
            statuses.append(site.ask("/api/search", {"text": f"green {number}"})[0])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 24
        assert not encoder.overlapped


def test_two_calls_at_a_time_would_be_noticed():
    encoder = DemoEncoder(seconds=0.2)
    threads = [threading.Thread(target=encoder.embed_texts, args=(["red"],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encoder.overlapped


def test_batches_have_few_sizes_and_texts_are_embedded_once():
    encoder = DemoEncoder()
    shared = SharedEncoder(encoder)
    texts = [f"red {number}" for number in range(5)]
    first = shared.embed_texts(texts)
    assert encoder.batches == [8]
    again = shared.embed_texts([*reversed(texts), "blue", "blue"])
    assert encoder.batches == [8, 1]
    assert np.array_equal(again[:5], first[::-1])
    assert np.array_equal(again[5], DemoEncoder().embed_texts(["blue"])[0])
    pictures = [np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8) for seed in range(70)]
    vectors = shared.embed_images(pictures)
    assert encoder.batches[2:] == [64, 8]
    assert np.array_equal(vectors, DemoEncoder().embed_images(pictures))
    assert np.array_equal(shared.embed_images(pictures[:1]), vectors[:1])
    assert encoder.batches[4:] == [1]


def test_heat_maps_are_as_fine_as_the_machine_is_fast(folder):
    cells = [demo_answers(folder, DemoEncoder(seconds=seconds), cells=None).cells for seconds in (0.0, 0.012, 0.1)]
    assert cells[0] == SIZES[0]
    assert cells[1] in SIZES[1:-1]
    assert cells[2] == SIZES[-1]


def test_the_flags_are_checked(capsys):
    for options in ({"port": 70_000}, {"template": "no place"}, {"template": "{} {}"}, {"heat_map_cells": 1}):
        with pytest.raises(ValueError, match=f"--{next(iter(options)).replace('_', '-')}"):
            Demo(**options)
    for arguments, status in ((["--help"], 0), (["--port", "many"], 2), (["--heat-map-cells", "99"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == status
    printed = capsys.readouterr()
    assert "--no-open" in printed.out
    assert "must be 2 to 32" in printed.err


def test_the_model_is_the_indexs_own_unless_another_is_given(folder, capsys):
    demo_answers(folder)
    opened: list[str] = []

    def open_encoder(name: str) -> DemoEncoder:
        opened.append(name)
        return DemoEncoder("second" if name == "other" else "first")

    def no_attention(encoder):
        return None

    answers = prepared(Demo(index=folder / "index", heat_map_cells=5), open_encoder, no_attention)
    assert opened == [Demo.model or DEFAULT_MODEL]
    assert (answers.cells, len(answers.gallery)) == (5, PHOTOS)
    with pytest.raises(IndexFolderError, match="another model"):
        prepared(Demo(index=folder / "index", model="other"), open_encoder, no_attention)
    assert "5 x 5 cells" in capsys.readouterr().out


def test_a_port_that_is_taken_is_told_before_anything_is_opened(site):
    with pytest.raises(OSError, match="another --port"):
        show(Demo(port=site.port), pytest.fail, pytest.fail)


@pytest.mark.parametrize("busy", [False, True])
def test_ctrl_c_ends_it_cleanly(folder, busy):
    demo_answers(folder)
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.serving.demo_process", str(folder / "index")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")},
    )
    assert program.stdout is not None
    line = next(line for line in program.stdout if "http://" in line)
    port = int(line.strip().rstrip("/").rpartition(":")[2])
    other = Site.__new__(Site)
    other.port, other.origin = port, f"http://127.0.0.1:{port}"
    assert other.get("/")[0] == 200
    if busy:
        name = other.picture(two_colours())

        def ask() -> None:
            with suppress(OSError, http.client.HTTPException):  # nobody answers any more
                other.ask("/api/heat_maps", {"picture": name, "labels": ["red"]})

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.3)
    program.send_signal(signal.SIGINT)
    out, errors = program.communicate(timeout=60)
    if busy:
        asking.join(timeout=30)
    assert program.returncode == 0
    assert "The demo has ended." in out
    assert "Traceback" not in errors


def test_show_returns_after_an_interrupt(folder, monkeypatch, capsys):
    demo_answers(folder)
    opened: list[str] = []
    told = threading.Event()
    told.set()

    def interrupted(server: DemoServer) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_terminated", lambda: nullcontext(told))
    monkeypatch.setattr(DemoServer, "drain", interrupted)
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    for wanted in (True, False):
        options = Demo(index=folder / "index", open=wanted, heat_map_cells=4)
        assert show(options, lambda name: DemoEncoder(), lambda encoder: None) == 0
    assert len(opened) == 1
    assert opened[0] in capsys.readouterr().out
