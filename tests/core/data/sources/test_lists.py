"""Lists of images as other tools write them: CSV with commas or tabs, JSON lines with fields of other names."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.data.ledger import visit
from diptych.core.data.records import BadExample, Caption
from diptych.core.data.sources.folder import FolderSource
from diptych.core.data.sources.lists import ImageList
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.reading import Reading
from tests.core.data.pictures import encoded, pixels

PICTURE = encoded(pixels(0))
TEXTS = ("a fox", 'the "red" fox, asleep', "two\nlines", "ein Fuchs; müde")


@pytest.fixture
def pictures(tmp_path):
    for number in range(len(TEXTS)):
        (tmp_path / f"{number}.png").write_bytes(PICTURE)
    return tmp_path


CELLS = st.text(st.sampled_from(["a", "b", ",", "\n", '"', "é"]), max_size=4)


def rows_of(listed: ImageList) -> list[list[str] | None]:
    """The cells of each entry, None for one that is no row."""
    rows: list[list[str] | None] = []
    for _, _, line in listed.entries():
        try:
            found = listed.fields(line)
        except BadExample:
            rows.append(None)
        else:
            rows.append([found.get(name, "") for name in listed.columns])
    return rows


def reasons_of(source) -> list[str | None]:
    """Why each record cannot be used, None for those that can."""
    reasons: list[str | None] = []
    for index in range(len(source)):
        try:
            source.record(index)
            reasons.append(None)
        except BadExample as error:
            reasons.append(error.reason)
    return reasons


def write_csv(path, names, rows, delimiter=",", encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(names)
        writer.writerows(rows)
    return path


def captions(source) -> dict[str, list[Caption]]:
    records = [source.record(index) for index in range(len(source))]
    return {record.key: list(record.captions) for record in records}


def expected() -> dict[str, list[Caption]]:
    return {str(number): [Caption(text)] for number, text in enumerate(TEXTS)}


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_metadata_csv_of_imagefolder_is_read(pictures, delimiter, encoding):
    rows = [(f"{number}.png", text) for number, text in enumerate(TEXTS)]
    write_csv(pictures / "metadata.csv", ("file_name", "text"), rows, delimiter, encoding)
    assert captions(FolderSource(pictures)) == expected()


def test_images_that_differ_in_suffix_only_are_records_of_their_own_in_a_list(pictures):
    (pictures / "1.jpg").write_bytes(PICTURE)
    rows = [("1.png", "cat"), ("0.png", "fox"), ("1.jpg", "dog"), ("1.png", "kitten")]
    write_csv(pictures / "metadata.csv", ("file_name", "text"), rows)
    source = FolderSource(pictures)
    assert captions(source) == {
        "1": [Caption("cat"), Caption("kitten")],
        "0": [Caption("fox")],
        "1#2": [Caption("dog")],
    }
    assert [source.record(index).images for index in range(3)] == [("1.png",), ("0.png",), ("1.jpg",)]


def test_an_image_that_a_list_elsewhere_names_is_one_record(pictures):
    (pictures / "lists").mkdir()
    for name in ("a", "z"):  # before and after the list, in the order of the walk
        (pictures / name).mkdir()
        (pictures / name / "x.png").write_bytes(PICTURE)
    rows = [(pictures / "a" / "x.png", "first"), (pictures / "z" / "x.png", "last")]
    write_csv(pictures / "lists" / "metadata.csv", ("file_name", "text"), rows)
    found = captions(FolderSource(pictures))
    assert (found["a/x"], found["z/x"]) == ([Caption("first")], [Caption("last")])
    assert len(found) == len(TEXTS) + 2


def test_a_list_of_open_clip_is_read_by_its_own_name(pictures):
    rows = [(str(pictures / f"{number}.png"), text, "x") for number, text in enumerate(TEXTS)]
    path = write_csv(pictures / "train.csv", ("filepath", "title", "other"), rows, "\t")
    source = open_source(path, reading=Reading(caption_field="title"))
    assert captions(source) == expected()
    assert source.read(source.record(0).images[0]) == PICTURE


def test_json_lines_with_other_fields_are_read_by_their_names(pictures):
    lines = [{"picture": f"{number}.png", "prompt": text} for number, text in enumerate(TEXTS)]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    reading = Reading(caption_field="prompt", image_field="picture")
    source = FolderSource(pictures, reading=reading)
    assert captions(source) == expected()
    prints = {FolderSource(pictures, reading=some).fingerprint() for some in (reading, Reading(image_field="picture"))}
    assert len(prints) == 2


def test_a_list_without_captions_says_which_fields_it_has(pictures):
    (pictures / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "prompt": "a fox"}))
    seen = FolderSource(pictures).ledger.what_was_seen()
    assert "the fields are file_name, prompt" in seen
    assert "--caption-field" in seen
    assert "metadata.jsonl" in seen


def test_rows_that_are_of_no_use_are_records_with_a_reason(pictures):
    path = write_csv(pictures / "captions.csv", ("file_name", "caption"), [("0.png", "good"), ("1.png",), ("", "x")])
    with path.open("ab") as file:
        file.write(b'2.png,\xff\n3.png,"never closed\n')
    source = FolderSource(pictures)
    reasons = [None, "caption_not_csv", "image_missing", "caption_not_utf8", "caption_not_csv"]
    assert reasons_of(source) == reasons
    assert source.record_name(1) == "captions.csv:2"


def test_a_quotation_mark_inside_a_cell_is_one(pictures):
    rows = ['0.png\t5" nail', "1.png\tcat", "2.png\tdog", '3.png\t7" disc']
    (pictures / "metadata.tsv").write_text("\n".join(["file_name\ttext", *rows]))
    assert [some[0].text for some in captions(FolderSource(pictures)).values()] == ['5" nail', "cat", "dog", '7" disc']


@pytest.mark.parametrize("bad", ['x.png,"5 nail', 'x.png,"5" nail', 'x.png,"5" nail"'])
@pytest.mark.parametrize("text", ["cat", 'a "red" cat', "two, with\na line"])
@pytest.mark.parametrize("place", [1, 3, 5])
def test_a_quote_that_does_not_close_costs_its_line_alone(tmp_path, bad, text, place):
    quoted = '"' + text.replace('"', '""') + '"' if "," in text else text
    rows = ["file_name,text", *(f"{number}.png,{quoted}" for number in range(4))]
    rows.insert(place, bad)
    path = tmp_path / "metadata.csv"
    path.write_text("\n".join(rows))
    expected: list = [[f"{number}.png", text] for number in range(4)]
    expected.insert(place - 1, None)
    assert rows_of(ImageList.of(path)) == expected


def test_a_quote_that_closes_beyond_what_a_row_may_hold_costs_its_line_alone(tmp_path):
    path = tmp_path / "metadata.csv"
    rows = [f"{number}.png,a cat" for number in range(20_000)]
    path.write_text("\n".join(["file_name,text", 'x.png,"5 nail', *rows, '"']))
    found = rows_of(ImageList.of(path))
    assert [found[0], found[-1]] == [None, None]
    assert [row and ",".join(row) for row in found[1:-1]] == rows


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2)), st.sampled_from(["", "\ufeff"]))
def test_rows_are_those_of_the_csv_module(tmp_path_factory, cells, mark):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    written = io.StringIO(newline="")
    csv.writer(written).writerows([["file_name", "text\nof it"], *cells])
    path.write_bytes((mark + written.getvalue()).encode())
    listed = ImageList.of(path)
    assert listed.columns == ("file_name", "text\nof it")
    assert rows_of(listed) == cells


@given(st.text(st.sampled_from('ab",,\n\n'), max_size=40))
def test_whatever_a_file_holds_no_line_is_dropped_and_good_rows_are_as_the_csv_module_reads_them(
    tmp_path_factory, text
):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(f"file_name,text\n{text}")
    places = [(offset, offset + length) for offset, length, _ in ImageList.of(path).entries()]
    begin = len("file_name,text\n")
    for line in text.splitlines(keepends=True):
        holders = sum(first <= begin and begin + len(line) <= last for first, last in places)
        assert holders == 1 if line.strip() else holders <= 1
        begin += len(line)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error:
        return
    assert rows_of(ImageList.of(path)) == [row if len(row) == 2 else None for row in rows]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"file_name,text\r0.png,a fox\r", "list_not_csv: .* another row follows a carriage return alone"),
        (b"file_name,text," + b"x" * 140_000 + b"\n0.png,a fox,y\n", "list_not_csv: .* field larger"),
        (b'file_name,"text\n0.png,a fox\n', "list_not_csv: .* unexpected end"),
        (b"\n \n", "list_not_csv: .* there is none"),
    ],
)
def test_what_has_no_header_of_csv_is_counted_beside_pictures_and_refused_alone(pictures, content, told):
    (pictures / "metadata.csv").write_bytes(content)
    source = FolderSource(pictures)
    assert captions(source) == {str(number): [] for number in range(len(TEXTS))}
    assert [name for some in source.ledger.passed_over.values() for name in some.names] == ["metadata.csv"]
    with pytest.raises(ValueError, match=told):
        FolderSource(pictures, only=("metadata.csv",))


def test_blank_lines_are_none_before_the_header_too(pictures):
    (pictures / "metadata.csv").write_bytes(b"\r\n\nfile_name,text\r\n\r\n0.png,a fox\r\n \r\n")
    assert captions(FolderSource(pictures)) == {"0": [Caption("a fox")]}


@pytest.mark.parametrize(
    ("beside", "header", "told"),
    [
        ("captions.jsonl", "file_name,text", "a list beside captions.jsonl"),
        ("0.txt", "file_name,text", "a list beside captions of the names of images"),
        (None, "file_name,prompt", "there are file_name, prompt; --image-field"),
        (None, "picture,text", "there are picture, text; --image-field"),
        (None, "caf\xe9,text", "list_not_utf8"),
    ],
)
def test_a_table_changes_nothing_where_other_captions_are_or_its_columns_are_not_known(pictures, beside, header, told):
    if beside:
        text = json.dumps({"file_name": "0.png", "text": "the one"}) if beside.endswith("l") else "the one"
        (pictures / beside).write_text(text)
    before = captions(FolderSource(pictures))
    (pictures / "metadata.csv").write_bytes(f"{header}\n0.png,another\n".encode("latin-1"))
    source = FolderSource(pictures)
    assert captions(source) == before
    assert told in source.ledger.what_was_seen()


def test_a_list_of_another_kind_is_counted_beside_others_and_keeps_its_directory(pictures):
    (pictures / "good").mkdir()
    (pictures / "good" / "a.png").write_bytes(PICTURE)
    (pictures / "captions.jsonl").write_bytes(b"<!DOCTYPE html><html>Please log in</html>")
    (pictures / "metadata.csv").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (pictures / "good" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a fox"}))
    source = FolderSource(pictures)
    skipped: list = []
    assert [record.key for _, record in visit(source, lambda record: record, skipped=skipped)] == ["good/a"]
    assert [(one.name, one.reason) for one in skipped] == [("captions.jsonl", "list_mistaken")]
    assert "is HTML, expected JSON" in skipped[0].detail
    seen = source.ledger.what_was_seen()
    assert "no entry of the list above it names it 4" in seen
    assert "a list beside captions.jsonl, which counts instead 1" in seen
    (pictures / "good.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "a fox"}))
    for name in ("captions.jsonl", "metadata.csv"):
        both = FolderSource(pictures, only=(name, "good.jsonl"))
        assert [both.record_name(index) for index in range(len(both))] == [name, "0.png"]
        with pytest.raises(ValueError, match=rf"list_mistaken: {pictures / name} is .*, expected (JSON|CSV)\. "):
            FolderSource(pictures, only=(name,))


def test_a_list_that_has_gone_makes_bad_records_and_no_crash(pictures):
    path = pictures / "metadata.jsonl"
    path.write_text(json.dumps({"file_name": "0.png", "text": "a fox"}))
    source = FolderSource(pictures)
    path.unlink()
    with pytest.raises(BadExample, match="caption_unreadable"):
        source.record(0)
