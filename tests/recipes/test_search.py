"""Searching an index: what is found, by which implementation, how it is shown, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from diptych.core.evaluation.calibration import sigmoid
from diptych.core.evaluation.nearest import NOT_FOUND, nearest
from diptych.engine.embedding.faiss_search import nearest_by_faiss, nearest_by_hnsw
from diptych.engine.embedding.index_folder import IndexFolder, IndexFolderError
from diptych.engine.failures import exit_status
from diptych.recipes.embed import Embed, embed
from diptych.recipes.search import Search, main, search
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.fake_encoder import FakeEncoder
from tests.recipes.photos import write_photos

pytestmark = ABOVE_THE_BACKENDS

PHOTOS = 40
BAD = 6  # a blue one


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = write_photos(tmp_path / "photos", PHOTOS)
    (folder / f"{BAD:03d}.png").write_bytes(b"")
    return folder


@pytest.fixture
def index(photos, tmp_path) -> Path:
    assert embed(Embed(data=str(photos), index=tmp_path / "index", texts=True), lambda name: FakeEncoder()) == 0
    return tmp_path / "index"


def found(index: Path, tmp_path: Path, encoder: FakeEncoder | None = None, **options) -> dict:
    output = tmp_path / "out" / "results.json"
    assert search(Search(index=index, output=output, **options), lambda name: encoder or FakeEncoder()) == 0
    return json.loads(output.read_text())


def keys(answer: dict) -> list[str]:
    return [hit["key"] for hit in answer["results"]]


def test_texts_and_pictures_find_what_they_mean(index, photos, tmp_path):
    answers = found(index, tmp_path, query=("something RED", "yellow"), images=(photos / "002.png",), top_k=9)[
        "queries"
    ]
    assert [answer["query"] for answer in answers] == ["something RED", "yellow", str(photos / "002.png")]
    for answer, colour in zip(answers, ("red", "yellow", "blue"), strict=True):
        assert len(answer["results"]) == 9
        assert {hit["caption"].split()[1] for hit in answer["results"]} == {colour}
        cosines = [hit["cosine"] for hit in answer["results"]]
        assert cosines == sorted(cosines, reverse=True)
        rows = IndexFolder(index).rows([hit["row"] for hit in answer["results"]])
        assert [row.key for row in rows] == keys(answer)
    assert keys(answers[2])[0] != f"{BAD:03d}"


def test_the_probability_is_the_models_sigmoid_and_only_for_pairs(index, photos, tmp_path):
    text, picture = found(index, tmp_path, query=("red",), images=(photos / "002.png",))["queries"]
    hit = text["results"][0]
    assert hit["probability"] == pytest.approx(float(sigmoid(10.0 * hit["cosine"] - 3.0)), rel=1e-9)
    assert picture["results"][0]["probability"] is None
    text, picture = found(index, tmp_path, query=("red",), images=(photos / "002.png",), among="texts")["queries"]
    assert text["results"][0]["probability"] is None
    assert picture["results"][0]["probability"] > 0.5
    assert picture["results"][0]["caption"].startswith("a blue")
    without_bias = found(index, tmp_path, FakeEncoder(logit_bias=None), query=("red",))["queries"][0]
    assert without_bias["results"][0]["probability"] is None


@pytest.mark.parametrize("implementation", ["exact", "faiss", "faiss_hnsw"])
def test_all_are_found_but_those_without_an_embedding(index, tmp_path, implementation):
    """A row of zeros has cosine 0, more than the many below 0, and must not be found for that."""
    if implementation != "exact":
        pytest.importorskip("faiss")
    answer = found(index, tmp_path, query=("blue",), top_k=1000, implementation=implementation)["queries"][0]
    assert sorted(keys(answer)) == [f"{number:03d}" for number in range(PHOTOS) if number != BAD]
    assert answer["results"][-1]["cosine"] < 0


def test_what_is_found_does_not_depend_on_how_rows_are_kept(index, photos, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    in_parquet = found(index, tmp_path, query=("red", "blue"))["queries"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    embed(Embed(data=str(photos), index=tmp_path / "lines"), lambda name: FakeEncoder())
    assert found(tmp_path / "lines", tmp_path, query=("red", "blue"))["queries"] == in_parquet


def test_an_unfinished_index_is_searched_as_far_as_it_goes(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diptych.engine.embedding.embedding_runs.COMMIT_SECONDS", -1.0)
    encoder = FakeEncoder()
    whole = encoder.image_embedder.predict_on_batch

    def twice_only(images):
        if len(encoder.image_embedder.batches) == 2:
            raise RuntimeError("the power fails")
        return whole(images)

    encoder.image_embedder.predict_on_batch = twice_only
    with pytest.raises(RuntimeError):
        embed(Embed(data=str(photos), index=tmp_path / "index", batch_size=10), lambda name: encoder)
    answer = found(tmp_path / "index", tmp_path, query=("green",), top_k=1000)
    assert sorted(keys(answer["queries"][0])) == [f"{number:03d}" for number in range(20) if number != BAD]
    assert not answer["index_finished"]
    assert "not finished" in " ".join(capsys.readouterr().out.split())


def random_vectors(count: int, width: int = 24, queries: int = 6):
    rng = np.random.default_rng(0)
    both = rng.normal(size=(count + queries, width)).astype(np.float32)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    return both[:queries], both[queries:], rng.random(count) < 0.8


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("k", [1, 10, 5000])
def test_faiss_gives_what_the_exact_search_gives(k, masked):
    pytest.importorskip("faiss")
    queries, vectors, allowed = random_vectors(3000)
    allowed = allowed if masked else None
    scores, indices = nearest(queries, vectors, k, allowed=allowed)
    by_faiss, names = nearest_by_faiss(queries, vectors, k, allowed=allowed)
    # Sums of 24 products of float32, in another order; among thousands of scores some neighbours are nearer than that.
    tolerance = 24 * 2.0**-24
    assert np.abs(by_faiss - scores).max() <= tolerance
    assert np.abs(np.take_along_axis(queries @ vectors.T, names, axis=1) - scores).max() <= tolerance
    assert all(len(set(row)) == len(row) for row in names.tolist())
    if k <= 10:
        assert np.array_equal(names, indices)
    wrong, _ = nearest_by_faiss(-queries, vectors, k, allowed=allowed)
    assert np.abs(wrong - scores).max() > tolerance


def test_the_graph_finds_nearly_all_and_is_built_once(tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")
    queries, vectors, allowed = random_vectors(3000, queries=50)
    _, right = nearest(queries, vectors, 10, allowed=allowed)
    _, names = nearest_by_hnsw(queries, vectors, 10, allowed=allowed, kept=tmp_path / "graph")
    overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(right, names, strict=True)])
    assert overlap >= 0.95
    assert allowed[names].all()
    monkeypatch.setattr(faiss, "IndexHNSWFlat", None)  # from here on building one would fail
    _, again = nearest_by_hnsw(queries, vectors, 10, allowed=allowed, kept=tmp_path / "graph")
    assert np.array_equal(again, names)
    with pytest.raises(TypeError):
        nearest_by_hnsw(queries, vectors[:-1], 10, kept=tmp_path / "graph")


def test_faiss_has_nothing_to_find_among_nothing():
    pytest.importorskip("faiss")
    queries, vectors, _ = random_vectors(5)
    scores, indices = nearest_by_faiss(queries, vectors, 3, allowed=np.zeros(5, bool))
    assert scores.shape == indices.shape == (6, 0)
    assert NOT_FOUND not in nearest_by_faiss(queries, vectors, 3)[1]


def test_without_faiss_it_says_what_to_install(index, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delenv("DIPTYCH_TRACEBACK", raising=False)
    assert exit_status(lambda: found(index, tmp_path, query=("red",), implementation="faiss")) == 1
    assert "pip install faiss-cpu" in capsys.readouterr().err


def test_the_gallery_shows_queries_captions_and_pictures_and_runs_nothing(index, photos, tmp_path):
    found(index, tmp_path, query=("<script>alert('red')</script>", "أحمر red"), images=(photos / "002.png",), top_k=5)
    page = (tmp_path / "out" / "results.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert 'dir="auto">أحمر red' in page
    assert page.count("data:image/webp") == 16
    assert "a red frame number 12" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_terminal_shows_a_table_a_query(index, tmp_path, capsys):
    found(index, tmp_path, query=("red", "[blue] thing"), top_k=3)
    printed = capsys.readouterr().out
    assert "text: red" in printed
    assert "[blue] thing" in printed
    assert "0.9" in printed
    assert "Gallery: file://" in printed


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_pictures_that_are_not_there_any_more_leave_a_gap(index, photos, tmp_path, how, capsys):
    if how == "gone":
        photos.rename(tmp_path / "elsewhere")
    else:
        (photos / "000.png").write_bytes(b"something else")
    answer = found(index, tmp_path, query=("red",), top_k=4)["queries"][0]
    assert len(answer["results"]) == 4
    page = (tmp_path / "out" / "results.html").read_text()
    assert page.count('class="lost"') == 4
    assert "the gallery is without" in capsys.readouterr().out


def test_what_cannot_be_searched_is_refused_with_advice(index, photos, tmp_path):
    with pytest.raises(IndexFolderError, match=r"recipes\.embed"):
        found(tmp_path / "nothing", tmp_path, query=("red",))
    with pytest.raises(IndexFolderError, match="another model"):
        found(index, tmp_path, FakeEncoder("second"), query=("red",))
    with pytest.raises(ValueError, match="--query"):
        found(index, tmp_path)
    with pytest.raises(ValueError, match="cannot be used"):
        found(index, tmp_path, query=("",))
    with pytest.raises(ValueError, match="image_missing"):
        found(index, tmp_path, images=(tmp_path / "nothing.png",))
    with pytest.raises(ValueError, match="--top-k"):
        Search(top_k=0)
    embed(Embed(data=str(photos), index=tmp_path / "images"), lambda name: FakeEncoder())
    with pytest.raises(ValueError, match="--texts"):
        found(tmp_path / "images", tmp_path, query=("red",), among="texts")

    def missing(name):
        raise FileNotFoundError(f"no model {name}")

    with pytest.raises(FileNotFoundError, match="--model"):
        search(Search(index=index, query=("red",)), missing)


def test_a_flag_that_does_not_fit_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--implementation", "telepathy"])
    assert ended.value.code == 2


def test_rows_that_are_missing_are_noticed(index):
    folder = IndexFolder(index)
    with pytest.raises(IndexFolderError, match="ends before"):
        folder.rows([PHOTOS])
