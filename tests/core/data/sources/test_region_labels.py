"""Phrases of captions, and regions that a detector finds, once."""

import contextlib
import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.data.emoji.scenes import SceneSource
from diptych.core.data.ledger import ledger_of
from diptych.core.data.records import BadExample, Caption, Record, Region, Source
from diptych.core.data.sources.phrases import CATEGORIES, STOP_WORDS, ngrams
from diptych.core.data.sources.region_labelling import Detection, Search, label_part, label_regions
from diptych.core.data.sources.region_labels import LabelledSource
from diptych.core.data.sources.region_parts import Part
from tests.core.data.pictures import MemorySource

WORDS = st.sampled_from(["red", "dog", "on", "the", "a", "mat", "Zürich", "don't", "狐", "of"])


class FakeDetector:
    """Sees each phrase in a box that hangs on its length, surely in one ending in "picture", hardly elsewhere."""

    def __init__(self, tag: str = "fake", stop_after: int | None = None):
        self.tag, self.stop_after, self.calls = tag, stop_after, 0

    def detect(self, pictures, phrases):
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        assert all(pixels.dtype == np.uint8 for pixels in pictures)
        return [self._seen(of_one) for of_one in phrases]

    def _seen(self, phrases):
        size = [min(len(phrase), 20) / 20 for phrase in phrases]
        return [
            Detection(
                (0.0, 0.0, one, one), phrase, 0.3 if phrase == "picture 3" else 0.9 if "picture" in phrase else 0.2
            )
            for phrase, one in zip(phrases, size, strict=True)
        ]

    def fingerprint(self) -> str:
        return self.tag


# Phrases


@given(st.lists(WORDS, max_size=12), st.integers(1, 12))
def test_ngrams_are_all_runs_but_those_of_stop_words_alone(words, longest):
    found = ngrams(" ".join(words), longest=longest)
    lower = [word.lower() for word in words]
    runs = {
        tuple(lower[begin:end])
        for begin in range(len(lower))
        for end in range(begin + 1, len(lower) + 1)
        if end - begin <= longest
    }
    assert len(set(found)) == len(found)
    assert set(found) == {" ".join(run) for run in runs if not set(run) <= STOP_WORDS}


def test_ngrams_end_at_punctuation_and_words_at_their_edges():
    assert ngrams("A dog, 'red' apple.") == ["a dog", "dog", "red", "red apple", "apple"]
    assert ngrams("狐、猫") == ["狐", "猫"]
    assert ngrams("ice-cream — (cold)") == ["ice-cream", "cold"]
    assert ngrams("don't") == ["don't"]


def test_nothing_to_look_for():
    assert ngrams("") == ngrams("of the") == ngrams("?!") == ngrams(" - ") == []


@given(st.text(max_size=200), st.integers(1, 10))
def test_any_text_has_clean_ngrams(text, longest):
    for phrase in ngrams(text, longest=longest):
        assert phrase == " ".join(phrase.split()) != ""
        assert len(phrase.split()) <= longest


def test_categories_are_names_of_things():
    assert len(set(CATEGORIES)) == len(CATEGORIES) > 100
    assert all(name == name.strip().lower() and ngrams(name) for name in CATEGORIES)


# Labels


def test_what_is_found_is_scored_kept_and_attached(tmp_path):
    source = MemorySource(4)
    labelled = label_regions(source, FakeDetector(), tmp_path / "regions.jsonl")
    assert isinstance(labelled, Source)
    assert len(labelled) == 4
    record = labelled.record(1)
    assert record.captions == source.record(1).captions
    assert {region.text for region in record.regions} >= {"picture", "picture 1", "picture 1 in de"}
    assert all("picture" in region.text and region.score == 0.9 for region in record.regions)
    languages = {region.text: region.language for region in record.regions}
    assert languages["picture 1"] == "en"
    assert languages["picture 1 in ja"] == "ja"
    assert next(region.box for region in record.regions if region.text == "picture") == (0.0, 0.0, 0.35, 0.35)
    assert labelled.read(1) == source.read(1)


def test_threshold_and_most_choose_the_surest(tmp_path):
    source = MemorySource(4)
    at = label_regions(source, FakeDetector(), tmp_path / "at", Search(threshold=0.3)).record(3).regions
    above = label_regions(source, FakeDetector(), tmp_path / "above", Search(threshold=0.31)).record(3).regions
    assert {region.text for region in at} - {region.text for region in above} == {"picture 3"}
    few = label_regions(source, FakeDetector(), tmp_path / "few", Search(most=2)).record(3).regions
    assert [region.score for region in few] == [0.9, 0.9]
    all_of_them = label_regions(source, FakeDetector(), tmp_path / "all", Search(threshold=0.0)).record(3).regions
    assert all(one.score >= other.score for one, other in pairwise(all_of_them))
    assert {region.score for region in all_of_them} == {0.2, 0.3, 0.9}


def test_categories_can_be_looked_for_instead(tmp_path):
    labelled = label_regions(
        MemorySource(2),
        FakeDetector(),
        tmp_path / "c",
        Search(longest=0, categories=("picture frame", "dog"), threshold=0.0),
    )
    assert [(region.text, region.language) for region in labelled.record(0).regions] == [
        ("picture frame", "en"),
        ("dog", "en"),
    ]


@pytest.mark.parametrize("torn", [b"", b'{"index":3,"reg'])
def test_it_goes_on_where_it_was_interrupted(tmp_path, torn):
    source, path = MemorySource(6), tmp_path / "regions.jsonl"
    whole = label_regions(source, FakeDetector(), tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        label_regions(source, FakeDetector(stop_after=3), path)
    with path.open("ab") as file:
        file.write(torn)
    with pytest.raises(ValueError, match="regions of 3 records, expected 6: call label_regions again"):
        LabelledSource(source, path)
    detector, seen = FakeDetector(), []
    labelled = label_regions(source, detector, path, progress=lambda done, count: seen.append((done, count)))
    assert detector.calls == 3
    assert seen == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert path.read_bytes() == whole.path.read_bytes()
    assert labelled.fingerprint() == whole.fingerprint()
    again = FakeDetector()
    label_regions(source, again, path)
    assert again.calls == 0


def test_what_was_of_no_use_is_known_whoever_met_it(tmp_path):
    """A caption of several costs itself; a picture its record, of which there are two of one name."""

    class Spoilt(MemorySource):
        def record(self, index):
            record = super().record(index)
            return Record("twins", record.images, (*record.captions, Caption("" if index else "x", "en")))

    path = tmp_path / "regions.jsonl"
    for stop_after in (1, None, None):
        source, detector = Spoilt(6, {2: "image_empty", 3: "image_damaged"}), FakeDetector(stop_after=stop_after)
        with pytest.raises(KeyboardInterrupt) if stop_after else contextlib.nullcontext():
            label_regions(source, detector, path)
    assert detector.calls == 0
    ledger = ledger_of(source)
    assert [(place, one.reason, one.detail) for place, one in ledger.skipped.items()] == [
        (2, "image_empty", "as the test wants it"),
        (3, "image_damaged", "as the test wants it"),
    ]
    assert ledger.left_out["caption_empty"].count == 3
    assert LabelledSource(source, path).record(1).regions


@pytest.mark.parametrize("batch_size", [2, 5, 50])
def test_parts_by_several_processes_give_the_file_of_one(tmp_path, batch_size):
    """Each is stopped and goes on by itself; what each met of no use is known to whoever puts them together."""
    bad = {1: "image_empty", 8: "image_truncated"}
    whole = label_regions(MemorySource(9, bad), FakeDetector(), tmp_path / "whole.jsonl").path.read_bytes()
    path = tmp_path / "regions.jsonl"
    for part in (Part(2, 3), Part(0, 3), Part(1, 3)):
        if path_of := [other for other in tmp_path.iterdir() if other.name.startswith(f"{path.name}.part-2")]:
            with pytest.raises(ValueError, match="expected each of 3 parts once"):
                label_regions(MemorySource(9, bad), FakeDetector(), path)
            assert path_of[0].exists()
        with pytest.raises(KeyboardInterrupt):
            label_part(MemorySource(9, bad), FakeDetector(stop_after=1), path, part)
        detector = FakeDetector()
        made = label_part(MemorySource(9, bad), detector, path, part, batch_size=batch_size)
        assert detector.calls < 3
    cut = made.read_bytes()
    made.write_bytes(cut[:-2])
    with pytest.raises(ValueError, match=r"part-1-of-3 has 2 of 3 records: .*--process-id 1 --num-processes 3"):
        label_regions(MemorySource(9, bad), FakeDetector(), path)
    made.write_bytes(cut)
    with pytest.raises(ValueError, match="begun with other settings: .*most"):
        label_regions(MemorySource(9, bad), FakeDetector(), path, Search(most=1))
    source, detector = MemorySource(9, bad), FakeDetector(stop_after=0)
    labelled = label_regions(source, detector, path)
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir() if "part" in file.name] == []
    assert [one.reason for one in ledger_of(source).skipped.values()] == list(bad.values())
    assert labelled.record(2).regions
    with pytest.raises(ValueError, match="by one process for all records"):
        label_part(MemorySource(9, bad), FakeDetector(), path, Part(0, 3))


def test_parts_do_not_replace_what_one_process_began(tmp_path):
    path = tmp_path / "regions.jsonl"
    made = label_part(MemorySource(2), FakeDetector(), path, Part(0, 1))
    with pytest.raises(KeyboardInterrupt):
        label_regions(MemorySource(2), FakeDetector(stop_after=1), tmp_path / "other")
    (tmp_path / "other").rename(path)
    with pytest.raises(ValueError, match="has 1 of 2 records: delete it, or the 1 parts beside it"):
        label_regions(MemorySource(2), FakeDetector(), path)
    assert made.exists()
    label_regions(MemorySource(2), FakeDetector(), tmp_path / "whole").path.rename(path)
    label_regions(MemorySource(2), FakeDetector(stop_after=0), path)  # whoever put them together was killed
    assert not made.exists()


@pytest.mark.parametrize("cut", range(1, 120, 13))
def test_a_file_cut_anywhere_is_mended(tmp_path, cut):
    source, path = MemorySource(3), tmp_path / "regions.jsonl"
    whole = label_regions(source, FakeDetector(), path).path.read_bytes()
    path.write_bytes(whole[:-cut])
    label_regions(source, FakeDetector(), path)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:cut])
    label_regions(source, FakeDetector(), path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("detector", "settings", "name"),
    [
        ("fake", {"threshold": 0.5}, "threshold"),
        ("fake", {"most": 3}, "most"),
        ("fake", {"longest": 3}, "longest"),
        ("fake", {"categories": ("dog",)}, "categories"),
        ("other", {}, "detector"),
    ],
)
def test_changed_settings_are_refused(tmp_path, detector, settings, name):
    path = tmp_path / "regions.jsonl"
    label_regions(MemorySource(2), FakeDetector(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"begun with other settings: .*{name}"):
        label_regions(MemorySource(2), FakeDetector(detector), path, Search(**settings))
    assert path.read_bytes() == before


def test_another_source_and_other_files_are_refused(tmp_path):
    path, other = tmp_path / "regions.jsonl", tmp_path / "other.txt"
    label_regions(MemorySource(2), FakeDetector(), path)
    with pytest.raises(ValueError, match="source"):
        label_regions(MemorySource(2, tag="x"), FakeDetector(), path)
    with pytest.raises(ValueError, match="regions of another source"):
        LabelledSource(MemorySource(2, tag="x"), path)
    other.write_text("dear diary\n", encoding="utf-8")
    with pytest.raises(ValueError, match="begun with other settings"):
        label_regions(MemorySource(2), FakeDetector(), other)
    assert other.read_text(encoding="utf-8") == "dear diary\n"


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "regions.jsonl"
    labelled = label_regions(MemorySource(3), FakeDetector(), path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"x" * (len(lines[2]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    labelled.record(0)
    with pytest.raises(ValueError, match="line 3 of .* is damaged"):
        labelled.record(1)


def test_bad_examples_stay_bad_and_do_not_stop_the_rest(tmp_path):
    labelled = label_regions(MemorySource(3, bad={1: "image_truncated"}), FakeDetector(), tmp_path / "r.jsonl")
    assert labelled.record(0).regions
    assert labelled.record(2).regions
    with pytest.raises(BadExample, match="image_truncated: record-1"):
        labelled.record(1)


def test_records_without_captions_or_images(tmp_path):
    class Bare(MemorySource):
        def record(self, index):
            return Record("a", (0,), ()) if index == 0 else Record("b", (), (Caption("dog"),))

    labelled = label_regions(Bare(2), FakeDetector(), tmp_path / "r.jsonl")
    assert labelled.record(0).regions == ()
    with pytest.raises(BadExample, match="image_missing"):
        labelled.record(1)


def test_it_travels_and_its_fingerprint_follows_the_settings(tmp_path):
    source = MemorySource(2)
    one = label_regions(source, FakeDetector(), tmp_path / "one")
    other = label_regions(source, FakeDetector(), tmp_path / "other", Search(most=1))
    again = pickle.loads(pickle.dumps(one))
    assert again.record(0) == one.record(0)
    assert again.fingerprint() == one.fingerprint()
    assert len({source.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3


def test_pixels_of_drawn_sources_are_used(tmp_path):
    scenes = SceneSource(length=2, concepts=9, languages=("en",))
    labelled = label_regions(scenes, FakeDetector(), tmp_path / "r", Search(threshold=0.1))
    assert labelled.cheap_pixels
    assert np.array_equal(labelled.pixels(1), scenes.pixels(1))
    assert labelled.record(0).regions != scenes.record(0).regions
    assert all(isinstance(region, Region) for region in labelled.record(0).regions)


def test_the_file_is_lines_of_json(tmp_path):
    path = label_regions(MemorySource(2), FakeDetector(), tmp_path / "r").path
    header, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert header["detector"] == "fake"
    assert [line["index"] for line in lines] == [0, 1]
