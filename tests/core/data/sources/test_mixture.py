"""Languages come in their shares in every stretch of a mixture, and the records of a language equally often."""

import json
import math
import pickle
import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.ledger import ledger_of
from diptych.core.data.records import BadExample, Caption, Record, Source
from diptych.core.data.sources import languages as languages_module
from diptych.core.data.sources import mixture as mixture_module
from diptych.core.data.sources.languages import records_by_language
from diptych.core.data.sources.mixture import LanguageMixture
from diptych.core.data.sources.subset import Subset
from diptych.core.data.sources.webdataset import WebDatasetSource
from diptych.core.report.mixture_table import mixture_table
from tests.core.data.sources.content import add_member


class Texts:
    """Records that hold the languages given for each; None stands for a record that cannot be read."""

    def __init__(self, languages, name="texts"):
        self.languages, self.name, self.reads = list(languages), name, 0

    def __len__(self):
        return len(self.languages)

    def record(self, index):
        self.reads += 1
        if self.languages[index] is None:
            raise BadExample("broken", str(index))
        captions = (Caption(f"{index} in {code} {n}", code) for code in self.languages[index].split() for n in (1, 2))
        return Record(key=str(index), images=(index,), captions=tuple(captions))

    def read(self, reference):
        return str(reference).encode()

    def fingerprint(self):
        return f"{self.name} {self.languages}"


def languages_of(mixture, places=None) -> list[str]:
    return [mixture.place(index)[1] for index in (range(len(mixture)) if places is None else places)]


def worst_window(languages: list[str], shares: dict[str, float], window: int) -> float:
    """The largest number of places by which any window has more or fewer of any language than its share."""
    worst = 0.0
    for code, share in shares.items():
        running = np.concatenate([[0], np.cumsum([found == code for found in languages])])
        worst = max(worst, np.abs(running[window:] - running[:-window] - share * window).max())
    return worst


@pytest.fixture
def three():
    """600 English, 300 German and 100 Thai records."""
    return Texts(["en"] * 600 + ["de"] * 300 + ["th"] * 100)


def test_fixed_shares_hold_in_every_window(three):
    mixture = LanguageMixture(three, shares={"en": 0.9, "*": 0.1}, length=4000)
    shares = {"en": 0.9, "de": 0.075, "th": 0.025}
    languages = languages_of(mixture)
    assert {code: count / 4000 for code, count in Counter(languages).items()} == pytest.approx(shares)
    assert worst_window(languages, shares, 200) <= 3
    with pytest.raises(AssertionError):  # the same shares in one heap a language
        assert worst_window(sorted(languages), shares, 200) <= 3


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=30),
    temperature=st.sampled_from([1.0, 2.0, 3.3, math.inf]),
    seed=st.integers(0, 2**32),
)
def test_any_temperature_holds_in_every_window(counts, temperature, seed):
    source = Texts([f"l{number:02}" for number, count in enumerate(counts) for _ in range(count)])
    mixture = LanguageMixture(source, temperature=temperature, length=4000, seed=seed)
    wanted = np.array(counts) ** (1 / temperature)
    shares = {f"l{number:02}": share for number, share in enumerate(wanted / wanted.sum())}
    assert worst_window(languages_of(mixture), shares, 256) <= 6


def test_temperature_1_keeps_proportions_and_infinity_makes_them_equal(three):
    for temperature, shares in (
        (1, (0.6, 0.3, 0.1)),
        (math.inf, (1 / 3,) * 3),
        (2, np.sqrt((6, 3, 1)) / np.sqrt((6, 3, 1)).sum()),
    ):
        mixture = LanguageMixture(three, temperature=temperature, length=3000)
        counts = Counter(languages_of(mixture))
        assert [counts[code] / 3000 for code in ("en", "de", "th")] == pytest.approx(shares, abs=1 / 3000)


def test_temperature_divides_what_the_named_leave(three):
    mixture = LanguageMixture(three, shares={"en": 1, "*": 1}, temperature=math.inf, length=400)
    assert Counter(languages_of(mixture)) == {"en": 200, "de": 100, "th": 100}
    only = LanguageMixture(three, shares={"th": 2, "de": 1}, length=300)
    assert Counter(languages_of(only)) == {"th": 200, "de": 100}


@pytest.mark.parametrize("length", [100, 1000, 2345])
def test_each_record_of_a_language_comes_equally_often(three, length):
    mixture = LanguageMixture(three, shares={"en": 0.5, "*": 0.5}, length=length)
    assert len(mixture) == length
    times = Counter(mixture.place(index) for index in range(length))
    for code, records in records_by_language(three).items():
        counts = [times[record, code] for record in records.tolist()]
        assert max(counts) - min(counts) <= 1
    assert {code for _, code in times} == {"en", "de", "th"}


def test_a_record_shows_the_captions_of_its_places_language_alone():
    source = Texts(["en de", "en", "en de th"] * 10)
    mixture = LanguageMixture(source, temperature=math.inf, length=90)
    seen = set()
    for index in range(90):
        number, language = mixture.place(index)
        record = mixture.record(index)
        assert record.key == str(number)
        assert record.images == (number,)
        assert [caption.text for caption in record.captions] == [f"{number} in {language} {n}" for n in (1, 2)]
        assert list(record.captions_by_language) == [language]
        seen.add((number, language))
    assert len(seen) == 60, "every record serves each of its languages"
    assert mixture.read(record.images[0]) == str(number).encode()


def test_a_place_is_a_pure_function_of_index_seed_and_source(three):
    assert isinstance(LanguageMixture(three), Source)
    first, again = (LanguageMixture(three, shares={"en": 0.9, "*": 0.1}, seed=3) for _ in range(2))
    other = LanguageMixture(three, shares={"en": 0.9, "*": 0.1}, seed=4)
    places = [first.place(index) for index in range(len(first))]
    assert [again.place(index) for index in reversed(range(len(again)))] == places[::-1]
    assert [pickle.loads(pickle.dumps(first)).place(index) for index in range(20)] == places[:20]
    assert [other.place(index) for index in range(len(other))] != places
    prints = {
        LanguageMixture(three, **arguments).fingerprint()
        for arguments in ({}, {"seed": 1}, {"length": 500}, {"temperature": 2}, {"shares": {"en": 1, "*": 1}},
            {"shares": {"en": 2, "*": 1}})
    }  # fmt: skip
    assert len(prints) == 6
    assert first.fingerprint() == again.fingerprint()
    assert LanguageMixture(Texts(["en", "de"])).fingerprint() not in prints


def test_places_are_the_same_for_ever(three):
    """Checkpoints of older versions resume on these; a change here is a change of every run's data."""
    mixture = LanguageMixture(three, shares={"en": 0.9, "*": 0.1}, seed=1)
    assert [mixture.place(index) for index in (0, 1, 7, 500, 999)] == [
        (126, "en"),
        (286, "en"),
        (300, "en"),
        (314, "en"),
        (551, "en"),
    ]


def test_a_source_is_read_once(three):
    languages_module._REMEMBERED.clear()
    LanguageMixture(three)
    LanguageMixture(three, temperature=5)
    assert three.reads == 1000
    for number in range(6):
        LanguageMixture(Texts(["en"], name=str(number)))
    assert len(languages_module._REMEMBERED) == 4


@settings(max_examples=30)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.floats(0, 1, exclude_max=True))
def test_the_way_is_sorted_in_pieces_as_in_one(places, start):
    places = np.array(places)
    right = mixture_module._spread(places, start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture_module, "_SORTED_AT_ONCE", 7)
        found = mixture_module._spread(places, start)
    assert all(map(np.array_equal, found, right))
    assert np.array_equal(np.bincount(right[0], minlength=len(places)), places)


def test_the_languages_of_shards_are_read_once_and_kept(tmp_path, monkeypatch):
    """Of a part of them, too, and what is of no use is told at each start."""
    captions = ["en", "de", "en", None, "de en"] * 8
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for place, languages in enumerate(captions[number::2]):
                told = [{"text": f"in {code}", "language": code} for code in (languages or "").split()]
                texts = json.dumps({"captions": [*told, *([{"text": ""}] if place == 5 else [])]})
                add_member(tar, f"{number}-{place}.json", texts.encode() if languages else b"no JSON")

    def start(folder):
        languages_module._REMEMBERED.clear()
        source = WebDatasetSource(sorted(tmp_path.glob("*.tar")), index_folder=folder)
        part = Subset(source, fraction=0.3, held_out=False)
        found = [LanguageMixture(one, shares={"en": 0.5, "de": 0.5}, length=40) for one in (source, part)]
        shown = [[one.record(place).captions for place in range(len(one))] for one in found]
        return [one.fingerprint() for one in found], shown, list(source.ledger.lines())

    right = start(None)
    assert start(tmp_path / "kept") == right
    monkeypatch.setattr("diptych.core.data.sources.webdataset.read_languages", lambda *_: pytest.fail("read again"))
    assert start(tmp_path / "kept") == right
    assert {line["what"] for line in right[2]} == {"skipped", "left out"}
    assert len([line for line in right[2] if line["what"] == "skipped"]) == 8


def test_unreadable_records_are_left_out_and_counted():
    mixture = LanguageMixture(Texts(["en", None, "de", ""] * 5))
    assert mixture.unreadable == 10
    assert len(mixture) == 20
    assert {mixture.place(index)[0] % 4 for index in range(20)} == {0, 2}


def test_captions_that_cannot_be_used_have_no_share_and_are_counted():
    class Spoilt(Texts):
        def record(self, index):
            record = super().record(index)
            return replace(record, captions=(*record.captions, Caption("", "th" if index else "en")))

    source = Spoilt(["en", "en de", "de"] * 2, name="spoilt")
    assert set(records_by_language(source)) == {"de", "en"}
    ledger = ledger_of(source)
    assert not ledger.skipped
    assert ledger.left_out["caption_empty"].names[:2] == ["0, caption 3", "1, caption 5"]
    assert ledger.left_out["caption_empty"].count == 6


def test_the_table_names_languages_and_shares(three):
    table = mixture_table(LanguageMixture(three, shares={"en": 0.9, "*": 0.1}))
    assert [" ".join(line.split()) for line in table.splitlines()[2:]] == [
        "English (en) 600 60.00% 90.00% 1.50",
        "German (de) 300 30.00% 7.50% 0.25",
        "Thai (th) 100 10.00% 2.50% 0.25",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shares": {"en": 0.9, "fr": 0.1}}, "no records in fr: it has de, en, th"),
        ({"shares": {"en": 1, "de": 1, "th": 1, "*": 1}}, "no records in other languages"),
        ({"shares": {"en": 1.0, "*": 0.0}}, "positive"),
        ({"shares": {}}, "positive"),
        ({"temperature": 0}, "positive"),
        ({"temperature": math.nan}, "positive"),
        ({"shares": {"en": 0.98, "*": 0.02}, "length": 100}, "no place is left for th. Raise length to 200"),
    ],
)
def test_impossible_mixtures_are_refused(three, arguments, words):
    with pytest.raises(ValueError, match=words):
        LanguageMixture(three, **arguments)


def test_a_source_without_captions_is_refused():
    with pytest.raises(ValueError, match="nothing to mix"):
        LanguageMixture(Texts([None, ""], name="empty"))
