"""Visiting records: what is of no use is counted once, named, and never ends a walk by itself."""

import pickle

import pytest

from diptych.core.data.ledger import MOST_NAMES, Ledger, Skipped, TooManySkipped, ledger_of, visit, with_names
from diptych.core.data.left_out_file import LEFT_OUT, LeftOutFile
from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.data.sources.cache import CachedSource
from diptych.core.data.sources.small import ChosenRecords, FileSource
from diptych.core.data.sources.subset import Subset
from diptych.core.report.ledger_text import ledger_text


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
    assert list(ledger.skipped) == ["1.jpg", "3.jpg"]
    assert ledger.skipped["3.jpg"] == Skipped("3.jpg", "caption_not_utf8", "number 3")


def test_views_share_their_sources_ledger_and_its_names():
    source = Broken(40, {7, 30})
    parts = [Subset(source, fraction=0.3, held_out=held_out) for held_out in (True, False)]
    assert sorted(keys(parts[0]) + keys(parts[1])) == sorted(f"key {n}" for n in range(40) if n not in source.broken)
    views = (*parts, CachedSource(source, 1), ChosenRecords(source, [7, 8]))
    assert all(ledger_of(view) is ledger_of(source) for view in views)
    keys(views[-1])
    assert list(ledger_of(source).skipped) == ["7.jpg", "30.jpg"]


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
    ledger.skip(Skipped("a", "image_empty"))
    again = pickle.loads(pickle.dumps(ledger))
    assert (again.name, again.size, again.max_skipped, bool(again)) == ("data", 7, 0.5, False)


def test_what_is_skipped_is_in_the_file_at_once_and_the_next_process_goes_on_from_it(tmp_path):
    path = tmp_path / "run" / LEFT_OUT
    first = Ledger("photos", 9)
    first.pass_over("the suffix .bmp", "c.bmp")
    with LeftOutFile(path, [first]):
        first.skip(Skipped("caf\udce9.jpg", "image_empty"))
        killed = path.read_bytes()
    assert path.read_bytes().splitlines() == killed.splitlines()[::-1]
    path.write_bytes(killed + b'{"data": "pho')
    second = Ledger("photos", 9)
    with LeftOutFile(path, [second, Ledger("others")]):
        second.skip(Skipped("b.jpg", "image_empty"))
    assert list(second.skipped) == ["caf\udce9.jpg", "b.jpg"]
    assert len(path.read_text().splitlines()) == 2


def test_nothing_to_name_leaves_no_file(tmp_path):
    with LeftOutFile(tmp_path / LEFT_OUT, [Ledger("photos", 9)]):
        assert not any(tmp_path.iterdir())


def test_the_text_says_what_was_read_and_why_the_rest_was_not():
    ledger = Ledger("photos", 60)
    ledger.skip(Skipped("b.jpg", "image_truncated"))
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
    ledger.skip(Skipped("caf\udce9\x1b[2J\n.jpg", "image_empty"))
    for number in range(30):
        ledger.pass_over(f"the suffix .{number}", f"x.{number}")
    text = ledger_text([ledger])
    assert r"caf\udce9\x1b[2J\n.jpg" in text
    text.encode()
    assert text.count("passed over") == 11
    assert "20  for 20 other reasons" in text
    assert ledger.what_was_seen().endswith(", ....")
