"""Visiting records: what is of no use is counted once, named, and never ends a walk by itself."""

import pickle

import pytest

from diptych.core.data.ledger import Ledger, RecordParts, Skipped, TooManySkipped, ledger_of, visit
from diptych.core.data.left_out_file import LEFT_OUT, LeftOutFile
from diptych.core.data.reasons import MOST_NAMES, with_names
from diptych.core.data.records import BadExample, Caption, LeftOut, Record
from diptych.core.data.sources.cache import CachedSource
from diptych.core.data.sources.small import ChosenRecords, FileSource
from diptych.core.data.sources.subset import Subset
from diptych.core.report.ledger_text import ledger_text

CAPTIONS = RecordParts(2, "a, b.jpg", (LeftOut("caption 2", "caption_empty"), LeftOut("caption 3", "caption_empty")))


class Broken:
    """Records of which some cannot be read."""

    def __init__(self, size: int, broken: set[int]):
        self.size, self.broken = size, broken

    def __len__(self):
        return self.size

    def record(self, index):
        if index in self.broken:
            raise BadExample("caption_not_utf8", f"number {index}")
        return Record(f"key {index}", (), (Caption("x"),))

    def record_name(self, index):
        return f"{index}.jpg"

    def fingerprint(self):
        return "broken"


def keys(source) -> list[str]:
    return [key for _, key in visit(source, lambda record: record.key)]


def test_a_visit_gives_the_good_and_counts_the_others_once():
    source = Broken(5, {1, 3})
    assert keys(source) == keys(source) == ["key 0", "key 2", "key 4"]
    ledger = ledger_of(source)
    assert list(ledger.skipped) == [1, 3]
    assert ledger.skipped[3] == Skipped("3.jpg", "caption_not_utf8", "number 3", 3)


def test_views_share_their_sources_ledger_and_its_names():
    source = Broken(40, {7, 30})
    parts = [Subset(source, fraction=0.3, held_out=held_out) for held_out in (True, False)]
    assert sorted(keys(parts[0]) + keys(parts[1])) == sorted(f"key {n}" for n in range(40) if n not in source.broken)
    views = (*parts, CachedSource(source, 1), ChosenRecords(source, [7, 8]))
    assert all(ledger_of(view) is ledger_of(source) for view in views)
    keys(views[-1])
    assert list(ledger_of(source).skipped) == [7, 30]


def test_what_the_visitor_cannot_use_is_a_record_of_no_use_too():
    def captioned(record):
        if record.key == "key 2":
            raise BadExample("caption_empty")
        return record.key

    source, here = Broken(4, {1}), []
    keys(source)
    assert [key for _, key in visit(source, captioned, [1, 2, 3], skipped=here)] == ["key 3"]
    assert [(one.name, one.reason) for one in here] == [("1.jpg", "caption_not_utf8"), ("2.jpg", "caption_empty")]


@pytest.mark.parametrize(
    ("size", "bad", "share", "refused"),
    [
        (61, 5, 0.05, True),
        (61, 5, 0.1, False),
        (60, 3, 0.05, False),
        (60, 4, 0.05, True),
        (4, 1, 0.05, False),
        (4, 1, 0.0, True),
        (4, 2, 0.05, True),
        (4, 4, 1.0, False),
    ],
)
def test_the_limit_is_a_share_of_the_records(size, bad, share, refused):
    source = Broken(size, set(range(bad)))
    ledger_of(source).max_skipped = share
    if not refused:
        assert len(keys(source)) == size - bad
        return
    with pytest.raises(
        TooManySkipped, match=rf"{bad} of {size} records .*--max-skipped.* caption_not_utf8 {bad} \(0\.jpg"
    ):
        keys(source)


def test_names_are_kept_up_to_a_bound_and_counts_are_exact():
    ledger = Ledger("data")
    for number in range(MOST_NAMES + 5):
        ledger.pass_over("the suffix .xmp", f"{number}.xmp")
    assert ledger.passed_over["the suffix .xmp"].count == MOST_NAMES + 5
    assert sum(line.get("more", 1) for line in ledger.lines()) == MOST_NAMES + 5
    assert with_names(ledger.passed_over) == f"the suffix .xmp {MOST_NAMES + 5:,} (0.xmp, 1.xmp, 2.xmp, ...)"


def test_a_ledger_travels_empty():
    ledger = Ledger("data", 7, 0.5)
    ledger.skip(Skipped("a", "image_empty", place=0))
    again = pickle.loads(pickle.dumps(ledger))
    assert (again.name, again.size, again.max_skipped, bool(again)) == ("data", 7, 0.5, False)


def test_what_is_skipped_is_in_the_file_at_once_and_the_next_process_goes_on_from_it(tmp_path):
    path = tmp_path / "run" / LEFT_OUT
    first = Ledger("photos", 9)
    first.pass_over("the suffix .bmp", "c.bmp")
    with LeftOutFile(path, [first]) as file:
        file.begin(anew=True)
        first.skip(Skipped("caf\udce9.jpg", "image_empty", place=4))
        first.leave_out_parts(CAPTIONS)
        killed = path.read_bytes()
    assert sorted(path.read_bytes().splitlines()) == sorted(killed.splitlines())
    path.write_bytes(killed + b'{"data": "pho')
    second = Ledger("photos", 9)
    with LeftOutFile(path, [second, Ledger("others")]) as file:
        file.begin()
        second.skip(Skipped("b.jpg", "image_empty", place=5))
    assert [one.name for one in second.skipped.values()] == ["caf\udce9.jpg", "b.jpg"]
    assert with_names(second.left_out) == "caption_empty 2 (a, b.jpg, caption 2, a, b.jpg, caption 3)"
    assert len(path.read_text().splitlines()) == 4


def test_nothing_to_name_leaves_no_file(tmp_path):
    with LeftOutFile(tmp_path / LEFT_OUT, [Ledger("photos", 9)]) as file:
        file.begin()
        assert not any(tmp_path.iterdir())


def test_a_run_that_is_refused_or_begins_anew_takes_nothing_from_the_file(tmp_path):
    path, other = tmp_path / LEFT_OUT, Ledger("photos", 9)
    path.write_text('{"data": "photos", "what": "skipped", "reason": "image_empty", "name": "a.jpg", "record": 40}\n')
    before = path.read_bytes()
    other.skip(Skipped("b.jpg", "image_empty", place=1))
    with pytest.raises(ValueError, match="refused"), LeftOutFile(path, [other]):
        raise ValueError("refused")
    assert path.read_bytes() == before
    with LeftOutFile(path, [other]) as file:
        file.begin(anew=True)
    assert list(other.skipped) == [1]
    assert path.read_text().count("\n") == path.read_text().count("b.jpg") == 1


def test_a_part_counts_once_and_goes_with_its_record():
    ledger = Ledger("photos", 9)
    for _ in range(2):
        ledger.leave_out_parts(CAPTIONS)
    assert ledger.left_out["caption_empty"].count == 2
    ledger.skip(Skipped("a, b.jpg", "image_empty", place=2))
    ledger.leave_out_parts(CAPTIONS)
    assert (ledger.left_out, len(ledger.skipped)) == ({}, 1)


def test_records_of_one_name_are_told_apart_by_their_places():
    class Twins(Broken):
        def record_name(self, index):
            return "twin.jpg"

    source = Twins(9, {3, 5, 8})
    keys(Subset(CachedSource(source, 1), fraction=0.5, held_out=True))
    keys(ChosenRecords(source, [8, 8, 0]))
    assert list(ledger_of(source).skipped) == [3, 5, 8]
    assert ledger_text([ledger_of(source)]).startswith("data: 6 of 9 records read")


def test_the_text_says_what_was_read_and_why_the_rest_was_not():
    ledger = Ledger("photos", 60)
    ledger.skip(Skipped("b.jpg", "image_truncated", place=7))
    ledger.leave_out("region_box", "a.json: annotation 6")
    ledger.pass_over("the suffix .bmp", "c.bmp")
    text = ledger_text([ledger, Ledger("", 5)], "runs/left_out.jsonl")
    assert text.splitlines() == [
        "photos: 59 of 60 records read",
        "  skipped           1  image_truncated: b.jpg",
        "  left out          1  region_box: a.json: annotation 6",
        "  passed over       1  the suffix .bmp: c.bmp",
        "All of them by name: runs/left_out.jsonl",
    ]


def test_a_file_that_is_not_there_is_named():
    source = FileSource(["/nope.jpg"])
    assert list(visit(source, lambda record: source.read(record.images[0]))) == []
    assert with_names(ledger_of(source).skipped_by_reason) == "image_missing 1 (/nope.jpg)"


def test_names_are_printed_whatever_bytes_they_hold_and_many_reasons_by_their_number():
    ledger = Ledger("photos", 60)
    ledger.skip(Skipped("caf\udce9\x1b[2J\n.jpg", "image_empty", place=0))
    for number in range(30):
        ledger.pass_over(f"the suffix .{number}", f"x.{number}")
    text = ledger_text([ledger])
    assert r"caf\udce9\x1b[2J\n.jpg" in text
    text.encode()
    assert text.count("passed over") == 11
    assert "20  for 20 other reasons" in text
    assert ledger.what_was_seen().endswith(", ....")
