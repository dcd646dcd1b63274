"""A folder's records; lines and names that are of no use become records with a reason."""

import errno
import json
import os
from pathlib import Path

import pytest

from diptych.core.data.records import BadExample, Caption
from diptych.core.data.sources.folder import FolderSource
from tests.core.data.pictures import encoded, pixels
from tests.core.data.sources.content import write_folder

PICTURE = encoded(pixels(0), "JPEG")


def _problems(source: FolderSource) -> dict[str, str]:
    """Key or record number -> reason, of the records that cannot be used."""
    reasons = {}
    for index in range(len(source)):
        try:
            record = source.record(index)
            for reference in record.images:
                source.read(reference)
        except BadExample as error:
            reasons[source._entries[index].key] = error.reason
    return reasons


def test_txt_holds_one_caption_a_line(tmp_path):
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    (tmp_path / "a.txt").write_text("one\n\n  two  \n", encoding="utf-8")
    (tmp_path / "b.png").write_bytes(PICTURE)
    source = FolderSource(tmp_path)
    assert source.record(0).captions == (Caption("one"), Caption("two"))
    assert source.record(1).captions == ()


def test_images_that_differ_in_suffix_only_are_one_record(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg", "notes.md", ".hidden.jpg"):
        (tmp_path / name).write_bytes(PICTURE)
    source = FolderSource(tmp_path)
    assert [source.record(index).images for index in range(len(source))] == [("a.jpg", "a.png"), ("b.jpg",)]


def test_lines_about_one_image_add_up_and_a_list_speaks_for_its_directory(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("deep/er/a.jpg", "deep/er/unlisted.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(PICTURE)
    lines = [
        {"file_name": "a.jpg", "text": "fox", "language": "en"},
        {"image": "a.jpg", "caption": {"de": ["Fuchs", "Füchsin"], "fr": "renard", "it": None}},
        {"file_name": "a.jpg", "text": ["plain", {"text": "renard roux", "lang": "fr", "weight": 0.5}]},
    ]
    (tmp_path / "deep/er/captions.jsonl").write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    source = FolderSource(tmp_path)
    records = {source.record(index).key: source.record(index) for index in range(len(source))}
    assert set(records) == {"deep/er/a", "b"}
    assert records["deep/er/a"].captions == (
        Caption("fox", "en"),
        Caption("Fuchs", "de"),
        Caption("Füchsin", "de"),
        Caption("renard", "fr"),
        Caption("plain"),
        Caption("renard roux", "fr", 0.5),
    )


def test_useless_lines_are_records_with_a_reason(tmp_path):
    (tmp_path / "good.jpg").write_bytes(PICTURE)
    lines = {
        b'{"file_name": "good.jpg", "text": "good"}': None,
        b"{not json": "caption_not_json",
        b"[1, 2]": "caption_not_json",
        b"\xff\xfe": "caption_not_json",
        b"[" * 100_000: "caption_not_json",
        b'{"text": "no image"}': "image_missing",
        b'{"file_name": "", "text": "no image"}': "image_missing",
        b'{"file_name": "../outside.jpg", "text": "x"}': "image_outside_folder",
        b'{"file_name": "/etc/passwd", "text": "x"}': "image_outside_folder",
        b'{"file_name": "a\\u0000.jpg", "text": "x"}': "image_outside_folder",
        b'{"file_name": "gone.jpg", "text": "x"}': "image_missing",
        b'{"file_name": "good3.jpg", "text": "' + b"x" * 2_000_000 + b'"}': "caption_too_long",
    }
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines))
    source = FolderSource(tmp_path)
    assert len(source) == len(lines)
    assert sorted(_problems(source).values()) == sorted(filter(None, lines.values()))
    assert "metadata.jsonl:2" in _problems(source), "the line is named"


def test_files_that_are_not_regular_or_not_readable_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "directory.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "good.jpg").write_bytes(PICTURE)
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "latin.jpg").write_bytes(PICTURE)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert _problems(FolderSource(tmp_path)) == {
        "pipe": "image_unreadable",
        "dangling": "image_missing",
        "huge": "image_file_too_large",
        "latin": "caption_not_utf8",
    }


def test_what_is_no_such_folder_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no images \(\.jpg"):
        FolderSource(tmp_path)


def test_a_problem_can_be_met_any_number_of_times(tmp_path):
    (tmp_path / "metadata.jsonl").write_bytes(b"{")
    source = FolderSource(tmp_path)
    depths = []
    for _ in range(3):
        with pytest.raises(BadExample) as caught:
            source.record(0)
        depths.append(len(caught.traceback))
    assert depths[0] == depths[2]


def test_the_order_of_records_is_that_of_the_names(tmp_path):
    write_folder(tmp_path)
    keys = [FolderSource(tmp_path).record(index).key for index in range(12)]
    assert keys == sorted(keys)


def test_files_that_are_not_read_are_counted_by_the_rule(tmp_path):
    (tmp_path / "listed").mkdir()
    for name in ("a.jpg", "b.bmp", "c.tif", "notes.md", "lonely.txt", ".hidden.jpg", "listed/a.jpg", "listed/b.jpg"):
        (tmp_path / name).write_bytes(PICTURE)
    (tmp_path / "listed" / "metadata.csv").write_text("file_name,text\na.jpg,a fox\n")
    source = FolderSource(tmp_path)
    assert len(source) == 2
    named = [name for some in source.ledger.passed_over.values() for name in some.names]
    assert sorted(named) == [".hidden.jpg", "b.bmp", "c.tif", "listed/b.jpg", "lonely.txt", "notes.md"]
    assert len(source.ledger.passed_over) == 6


def test_folders_that_are_not_walked_into_are_counted(tmp_path):
    for name in ("a", ".cache", "elsewhere/deep"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for name in ("photos/a/x.jpg", "photos/.cache/y.jpg", "outside/z.jpg"):
        (tmp_path / name).write_bytes(PICTURE)
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "photos" / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "photos")
    source = FolderSource(tmp_path / "photos")
    assert [source.record(index).key for index in range(len(source))] == ["a/x"]
    assert {rule: named.names for rule, named in source.ledger.passed_over.items()} == {
        "names that begin with a dot": [".cache/"],
        "links to folders, which are not followed": ["linked/", "elsewhere/deep/up/"],
    }


def test_a_folder_that_cannot_be_read_is_counted_and_refused_alone(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    scandir = os.scandir

    def without_permission(path):
        """As for somebody who is not root."""
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_permission)
    assert _problems(FolderSource(tmp_path)) == {"closed": "folder_unreadable"}
    with pytest.raises(ValueError, match="folder_unreadable: .*closed"):
        FolderSource(tmp_path / "closed")


def test_a_folder_in_which_nothing_is_read_says_what_was_seen(tmp_path):
    (tmp_path / "b.bmp").write_bytes(PICTURE)
    with pytest.raises(ValueError, match=r"no images .* Passed over: the suffix \.bmp, .* 1 \(b\.bmp\)"):
        FolderSource(tmp_path)
