"""Embedding into an index folder: what it holds, how it is continued after any stop, and what it refuses."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.ledger import TooManySkipped
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.reading import Reading
from diptych.engine.embedding.image_stream import GOOD, Item, images, prepared_images
from diptych.engine.embedding.index_folder import IndexFolder, IndexFolderError
from diptych.engine.embedding.index_writer import IndexWriter
from diptych.engine.failures import exit_status
from diptych.recipes.embed import Embed, embed
from tests.core.data.pictures import MemorySource
from tests.core.data.sources.content import COUNT, KEYS, write_folder, write_parquet, write_tars
from tests.core.weights.flushes import lost, record_flushes
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.fake_encoder import DIRECTIONS, ColourEmbedder, FakeEncoder
from tests.recipes.photos import write_photos

pytestmark = ABOVE_THE_BACKENDS

PHOTOS = 40
BAD = 7
# DIPTYCH_KILLS=20 is the full number; a run of every test kills less often.
KILLS = int(os.environ.get("DIPTYCH_KILLS", "4"))


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = write_photos(tmp_path / "photos", PHOTOS)
    (folder / f"{BAD:03d}.png").write_bytes(b"<!doctype html><title>404</title>")
    return folder


def run(photos: Path | str, index: Path, encoder: FakeEncoder | None = None, **options) -> int:
    chosen = Embed(data=str(photos), index=index, **({"batch_size": 8} | options))
    return embed(chosen, lambda name: encoder or FakeEncoder())


def content(index: Path) -> tuple[bytes, list[Item]]:
    """All that an index holds of its images."""
    folder = IndexFolder(index)
    return folder.vectors().tobytes(), folder.rows(range(folder.count()))


class FailingEmbedder(ColourEmbedder):
    """Breaks down, or is told to stop, at its n-th batch."""

    def __init__(self, dim: int, at: int, how):
        super().__init__(dim)
        self.at, self.how = at, how

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        if len(self.batches) == self.at:
            self.how()
        return super().predict_on_batch(images)


def failing(at: int, how) -> FakeEncoder:
    encoder = FakeEncoder()
    encoder.image_embedder = FailingEmbedder(encoder.dim, at, how)
    return encoder


def crash():
    raise RuntimeError("as the test wants it")


def test_rows_and_vectors_belong_together(photos, tmp_path):
    assert run(photos, tmp_path / "index") == 0
    index = IndexFolder(tmp_path / "index")
    vectors, rows = index.vectors().astype(np.float32), index.rows(range(PHOTOS))
    assert vectors.shape == (PHOTOS, 4)
    assert index.vectors().dtype == np.float16
    assert [row.key for row in rows] == [f"{number:03d}" for number in range(PHOTOS)]
    for number, (row, vector) in enumerate(zip(rows, vectors, strict=True)):
        if number == BAD:
            assert row.status == "image_format"
            assert not vector.any()
            continue
        colour = row.caption.split()[1]
        nearest = max(DIRECTIONS, key=lambda name: vector[:2] @ np.array(DIRECTIONS[name]))
        assert (row.status, nearest) == (GOOD, colour)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    assert index.card["images"]["skipped"] == {"image_format": 1}
    assert (index.card["count"], index.card["finished"]) == (PHOTOS, True)
    assert index.usable().tolist() == [number != BAD for number in range(PHOTOS)]


def test_more_bad_images_than_may_be_end_it_and_are_named(photos, tmp_path, capsys):
    assert run(photos, tmp_path / "index", reading=Reading(max_skipped=0.1)) == 0
    assert f"{PHOTOS - 1} of {PHOTOS} records read" in capsys.readouterr().out
    for _ in range(2):  # also where nothing is left to be embedded
        with pytest.raises(TooManySkipped, match=rf"1 of {PHOTOS} records .* image_format 1 \(007\.png\)"):
            run(photos, tmp_path / "index", reading=Reading(max_skipped=0))
    (line,) = (tmp_path / "index" / "left_out.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "007.png"


def twins(folder: Path) -> Path:
    """Photos of which the first four records have a second image; of those of record 2 one is good, of record 3 none,
    and one caption of record 1.
    """
    write_photos(folder, PHOTOS)
    for number, line in enumerate((folder / "captions.jsonl").read_text().splitlines()):
        captions = [json.loads(line)["caption"]]
        if number < 4:
            captions.append("\u200b" if number == 1 else "once more")
            (folder / f"{number:03d}.webp").write_bytes((folder / f"{number:03d}.png").read_bytes())
        (folder / f"{number:03d}.txt").write_text("\n".join(captions))
    (folder / "captions.jsonl").unlink()
    for name in ("002.png", "003.png", "003.webp"):
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize("at", [None, 1, 2, 3])
def test_a_bad_image_of_several_is_a_part_and_the_index_knows_it_whatever_the_data_are_called(
    tmp_path, monkeypatch, capsys, at
):
    """Stopped inside a record and elsewhere, or not; and asked again under another name."""
    photos, index = twins(tmp_path / "photos"), tmp_path / "index"
    monkeypatch.setattr("diptych.engine.embedding.embedding_runs.COMMIT_SECONDS", -1.0)
    if at is not None:
        with pytest.raises(RuntimeError):
            run(photos, index, failing(at, crash), batch_size=5, texts=True)
    photos.rename(tmp_path / "renamed")
    told = []
    for name in ("renamed", "renamed/"):
        assert run(f"{tmp_path}/{name}", index, batch_size=5, texts=True) == 0
        told.append(capsys.readouterr().out.partition(f"{tmp_path}/{name}: ")[2])
        assert told[-1].startswith(f"{PHOTOS - 1} of {PHOTOS} records read\n")
        lines = [json.loads(line) for line in (index / "left_out.jsonl").read_text().splitlines()]
        assert sorted((line["what"], line["reason"], line["name"], line["record"]) for line in lines) == [
            ("left out", "caption_empty", "001.png, caption 2", 1),
            ("left out", "image_empty", "002.png, image 1", 2),
            ("skipped", "image_empty", "003.png", 3),
        ]
    assert told[0].splitlines()[:4] == told[1].splitlines()[:4]
    with pytest.raises(TooManySkipped, match=rf"1 of {PHOTOS} records .*\(2\.5%"):
        run(tmp_path / "renamed", index, reading=Reading(max_skipped=0))


def test_vectors_and_rows_survive_a_loss_of_power(photos, tmp_path, monkeypatch):
    flushed = record_flushes(monkeypatch)
    assert run(photos, tmp_path / "index") == 0
    names = {path.name for path in (tmp_path / "index").iterdir()}
    assert {"vectors.npy", "rows.parquet"} <= names
    assert not {"vectors.npy", "rows.parquet"} & set(lost(tmp_path / "index", flushed))


def test_other_programs_can_read_it(photos, tmp_path):
    """NumPy and pyarrow alone, as a person would without this package."""
    parquet = pytest.importorskip("pyarrow.parquet")
    run(photos, tmp_path / "index", dtype="float32")
    vectors = np.load(tmp_path / "index" / "vectors.npy", mmap_mode="r")
    table = parquet.read_table(tmp_path / "index" / "rows.parquet")
    assert vectors.shape == (PHOTOS, 4)
    assert vectors.dtype == np.float32
    assert table.num_rows == PHOTOS
    assert {"key", "caption", "image", "language", "status"} <= set(table.column_names)
    assert not (tmp_path / "index" / "rows.jsonl").exists()


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_folder_shards_and_tables_give_the_same_vectors(kind, tmp_path):
    write_folder(tmp_path / "folder")
    if kind == "tars":
        write_tars(tmp_path / "tars")
    else:
        pytest.importorskip("pyarrow")
        write_parquet(tmp_path / "parquet" / "table.parquet")
    found = {}
    for name in ("folder", kind):
        run(tmp_path / name, tmp_path / f"index-{name}")
        index = IndexFolder(tmp_path / f"index-{name}")
        rows = index.rows(range(COUNT))
        assert all(row.status == GOOD for row in rows)
        found[name] = {
            row.key: (row.caption, vector.tobytes()) for row, vector in zip(rows, index.vectors(), strict=True)
        }
    assert set(found["folder"]) == set(KEYS)
    assert found["folder"] == found[kind]


def test_without_pyarrow_the_rows_are_lines_of_json(photos, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    run(photos, tmp_path / "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    run(photos, tmp_path / "lines")
    lines = IndexFolder(tmp_path / "lines")
    assert lines.card["images"]["rows_file"] == "rows.jsonl"
    assert lines.usable().sum() == PHOTOS - 1
    as_lines = content(tmp_path / "lines")
    monkeypatch.undo()
    assert as_lines == content(tmp_path / "parquet")


@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_after_a_crash_nothing_committed_is_embedded_again(photos, tmp_path, monkeypatch, at):
    monkeypatch.setattr("diptych.engine.embedding.embedding_runs.COMMIT_SECONDS", -1.0)
    run(photos, tmp_path / "undisturbed")
    with pytest.raises(RuntimeError, match="as the test wants it"):
        run(photos, tmp_path / "index", failing(at, crash))
    unfinished = IndexFolder(tmp_path / "index")
    assert not unfinished.card["finished"]
    assert len(unfinished.vectors()) == unfinished.count() == 8 * at
    encoder = FakeEncoder()
    assert run(photos, tmp_path / "index", encoder) == 0
    assert len(encoder.image_embedder.batches) == PHOTOS // 8 - at
    assert content(tmp_path / "index") == content(tmp_path / "undisturbed")


def test_what_was_written_after_the_last_commit_is_cut_off(photos, tmp_path, monkeypatch):
    run(photos, tmp_path / "undisturbed")
    monkeypatch.setattr("diptych.engine.embedding.embedding_runs.COMMIT_SECONDS", -1.0)
    with pytest.raises(RuntimeError):
        run(photos, tmp_path / "index", failing(2, crash))
    for name in ("vectors.npy", "rows.jsonl"):
        with (tmp_path / "index" / name).open("ab") as file:
            file.write(b"half a row that a power cut left")
    run(photos, tmp_path / "index")
    assert content(tmp_path / "index") == content(tmp_path / "undisturbed")


def test_a_signal_saves_and_leaves(photos, tmp_path, capsys):
    run(photos, tmp_path / "undisturbed")
    status = run(photos, tmp_path / "index", failing(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert status == 143
    assert "goes on from there" in capsys.readouterr().out
    assert IndexFolder(tmp_path / "index").count() == 24
    assert run(photos, tmp_path / "index") == 0
    assert "going on from there" in capsys.readouterr().out
    assert content(tmp_path / "index") == content(tmp_path / "undisturbed")


def test_killed_at_random_moments_it_ends_with_the_same_bytes(photos, tmp_path):
    run(photos, tmp_path / "undisturbed", batch_size=2, texts=True)
    command = [sys.executable, "-m", "tests.recipes.embed_slowly", str(photos), str(tmp_path / "index")]
    rng, embedded, kills = random.Random(0), 0, 0
    for _ in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "batch\n":
                    embedded += 1
                    break
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            embedded += process.stdout.read().count("batch\n")
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 2
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    embedded += done.stdout.count("batch\n")
    # Every batch is committed, so a kill costs the one under way and no other.
    assert embedded <= PHOTOS // 2 + kills
    assert content(tmp_path / "index") == content(tmp_path / "undisturbed")
    index, undisturbed = (IndexFolder(tmp_path / name) for name in ("index", "undisturbed"))
    assert index.vectors("texts").tobytes() == undisturbed.vectors("texts").tobytes()


def test_a_wrong_continuation_is_noticed(photos, tmp_path):
    """The comparison of contents is able to fail."""
    run(photos, tmp_path / "one")
    (photos / "000.png").write_bytes((photos / "001.png").read_bytes())
    run(photos, tmp_path / "other")
    assert content(tmp_path / "one") != content(tmp_path / "other")


def test_what_is_finished_is_not_embedded_again_and_texts_can_be_added(photos, tmp_path, capsys):
    run(photos, tmp_path / "index")
    encoder = FakeEncoder()
    run(photos, tmp_path / "index", encoder, texts=True)
    assert encoder.image_embedder.batches == []
    assert "it is finished" in capsys.readouterr().out
    index = IndexFolder(tmp_path / "index")
    assert index.count("texts") == PHOTOS
    assert index.rows([3], "texts")[0].caption.startswith("a yellow")
    assert index.vectors("texts")[3, 1] == pytest.approx(1, abs=1e-3)
    assert index.card["finished"]


def test_the_model_sees_batches_of_one_size(photos, tmp_path):
    encoder = FakeEncoder()
    run(photos, tmp_path / "index", encoder, batch_size=16)
    assert encoder.image_embedder.batches == [16, 16, 16]


def test_every_image_of_every_record_is_met_from_any_place():
    class Twins(MemorySource):
        def record(self, index):
            record = super().record(index)
            return type(record)(record.key, (index, index + 1), record.captions)

    source = Twins(5, bad={3: "image_truncated"})
    everything = [item for item, _ in images(source)]
    places = [(item.record, item.number) for item in everything]
    assert places == [(record, number) for record in range(5) for number in range(2)]
    assert [item.status for item in everything if item.record == 2] == [GOOD, "image_truncated"]
    for place, (record, number) in enumerate(places):
        rest = [item for item, _ in images(source, (record, number + 1))]
        assert rest == everything[place + 1 :]


def test_closing_the_stream_early_ends_its_threads(photos):
    stream = prepared_images(open_source(str(photos)), FakeEncoder().processor, batch_size=2)
    assert next(stream).items[0].key == "000"
    stream.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("diptych-")] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder": FakeEncoder("second")}, "another model"),
        ({"encoder": FakeEncoder(dim=8)}, "another width"),
        ({"dtype": "float32"}, "another --dtype"),
        ({"data": True}, "other data"),
    ],
)
def test_something_else_is_not_added_to_an_index(photos, tmp_path, change, words):
    run(photos, tmp_path / "index")
    before = content(tmp_path / "index")
    if change.pop("data", False):
        (photos / "000.png").write_bytes(b"")
    with pytest.raises(IndexFolderError, match=words) as caught:
        run(photos, tmp_path / "index", change.pop("encoder", None), **change)
    assert "--index" in str(caught.value)
    assert content(tmp_path / "index") == before


def test_two_processes_do_not_write_into_one_folder(photos, tmp_path):
    card = {"model_fingerprint": "m", "data_fingerprint": "d", "dim": 4, "dtype": "float16"}
    with IndexWriter(tmp_path / "index", card), pytest.raises(IndexFolderError, match="another process"):
        run(photos, tmp_path / "index")


def test_damage_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.engine.embedding.embedding_runs.COMMIT_SECONDS", -1.0)
    with pytest.raises(RuntimeError):
        run(photos, tmp_path / "index", failing(3, crash))
    vectors = tmp_path / "index" / "vectors.npy"
    os.truncate(vectors, vectors.stat().st_size - 1)
    with pytest.raises(IndexFolderError, match="damaged"):
        run(photos, tmp_path / "index")
    with pytest.raises(IndexFolderError, match="cannot be read|damaged"):
        IndexFolder(tmp_path / "index").vectors()
    (tmp_path / "index" / "index.json").write_text("{")
    with pytest.raises(IndexFolderError, match="JSON"):
        IndexFolder(tmp_path / "index")


def test_a_model_that_gives_nan_is_not_stored(photos, tmp_path):
    encoder = FakeEncoder()
    encoder.image_embedder.predict_on_batch = lambda images: np.full((len(images), 4), np.nan)
    with pytest.raises(IndexFolderError, match="NaN"):
        run(photos, tmp_path / "index", encoder)
    assert IndexFolder(tmp_path / "index").count() == 0


def test_errors_are_sentences(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DIPTYCH_TRACEBACK", raising=False)
    status = exit_status(lambda: run(tmp_path / "nothing", tmp_path / "index"))
    assert status == 1
    message = capsys.readouterr().err
    assert "no file or folder" in message
    assert "Traceback" not in message
    monkeypatch.setenv("DIPTYCH_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        exit_status(lambda: run(tmp_path / "nothing", tmp_path / "index"))


def test_file_names_that_are_no_utf8_can_be_stored(photos, tmp_path):
    odd = os.fsencode(photos) + b"/caf\xe9.png"
    with open(odd, "wb") as file:
        file.write((photos / "000.png").read_bytes())
    with (photos / "captions.jsonl").open("a") as lines:
        lines.write(json.dumps({"file_name": os.fsdecode(b"caf\xe9.png"), "caption": "a red cup"}) + "\n")
    run(photos, tmp_path / "index")
    index = IndexFolder(tmp_path / "index")
    last = index.rows([index.count() - 1])[0]
    assert (last.key, last.status) == ("caf\\udce9", GOOD)
