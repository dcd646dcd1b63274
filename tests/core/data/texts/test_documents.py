"""Documents: every form of file gives the same texts, and what is of no use is counted by name."""

import gzip
import json
import lzma

import pytest

from diptych.core.data.ledger import TooManySkipped
from diptych.core.data.sources.reading import Reading
from diptych.core.data.texts import documents as texts
from diptych.core.data.texts.documents import Document, Documents

TEXTS = {"a": "It was a dark night.\nRain fell.", "b": "Über allen Gipfeln ist Ruh.", "c": "x"}
ANY = Reading(max_skipped=1.0)


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_all_forms_of_files_hold_the_same_documents(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    rows = [{"key": key, "text": text} for key, text in TEXTS.items()]
    expected = [Document(key, text) for key, text in TEXTS.items()]
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(rows))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines(rows)))
    (tmp_path / "rows.jsonl.xz").write_bytes(lzma.compress(lines(rows)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.jsonl.xz", "rows.parquet"):
        assert list(Documents(str(tmp_path / name))) == expected, name
    folder = tmp_path / "folder"
    folder.mkdir()
    for key, text in TEXTS.items():
        (folder / f"{key}.txt").write_text(text, encoding="utf-8")
    (folder / "d.txt.gz").write_bytes(gzip.compress(b"more"))
    (folder / "cover.jpg").write_bytes(b"")
    documents = Documents(str(folder))
    found = [(document.key.partition(".")[0], document.text) for document in documents]
    assert found == [*TEXTS.items(), ("d", "more")]
    assert documents.ledger.size == 4
    assert documents.ledger.passed_over["names of other kinds of files"].names == ["cover.jpg"]


def test_a_text_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "PART_BYTES", 4)
    (tmp_path / "a.txt").write_text("longer than a part", encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"and another"))
    assert [document.text for document in Documents(str(tmp_path))] == ["longer than a part", "and another"]


def test_the_embedded_novels_are_six():
    documents = list(Documents("austen"))
    assert [document.key for document in documents][3] == "persuasion"
    assert len(documents) == 6
    assert sum(len(document.text) for document in documents) == 4_021_812


def test_each_document_that_cannot_be_used_is_counted_with_its_reason(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        lines([{"text": "good"}, {"text": " \n"}, {"title": "no text"}]) + b"{oops\n[1]\n"
    )
    (tmp_path / "b.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(bytes(range(32, 127)) * 2)[:60])
    (tmp_path / "d.txt.xz").write_bytes(b"no xz at all")
    (tmp_path / "e.txt").write_bytes(b"fine")
    documents = Documents(str(tmp_path), ANY)
    for _ in range(2):  # each is counted once
        assert [document.text for document in documents] == ["good", "fine"]
    skipped = {one.name: one.reason for one in documents.ledger.skipped.values()}
    assert skipped == {
        "a.jsonl, line 2": "text_empty",
        "a.jsonl, line 3": "text_missing",
        "a.jsonl, line 4": "json_damaged",
        "a.jsonl, line 5": "json_damaged",
        "b.txt": "text_not_utf8",
        "c.txt.gz": "file_damaged",
        "d.txt.xz": "file_damaged",
    }
    with pytest.raises(TooManySkipped, match=r"7 of 9 .* cannot be used"):
        list(Documents(str(tmp_path)))


def test_the_field_of_texts_may_have_another_name(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines([{"id": 7, "story": "Once."}]))
    assert list(Documents(str(tmp_path / "a.jsonl"), Reading(caption_field="story"))) == [Document("7", "Once.")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "no file or folder"),
        (lambda folder: folder, "holds no text: give"),
        (lambda folder: (folder / "a.docx", (folder / "a.docx").write_bytes(b"x"))[0], "a.docx, which is no text"),
    ],
)
def test_what_is_no_text_is_refused_with_what_would_be(tmp_path, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Documents(str(make(tmp_path)))
