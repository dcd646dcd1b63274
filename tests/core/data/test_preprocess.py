"""A record becomes an example by its settings alone; what is remembered changes nothing but the time."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from diptych.core.data.augmentation import Augmentation
from diptych.core.data.cache import CachedSource
from diptych.core.data.image import decode, resize
from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.data.sampling import example_rng
from tests.core.data.pictures import MemorySource, pixels, preprocess


class CountingSource(MemorySource):
    """Counts what is asked of it."""

    def __init__(self, size: int, bad: dict[int, str] | None = None):
        super().__init__(size, bad)
        self.records_read = self.images_read = 0

    def record(self, index: int) -> Record:
        self.records_read += 1
        return super().record(index)

    def read(self, reference: int) -> bytes:
        self.images_read += 1
        return super().read(reference)


def test_without_augmentation_the_image_is_the_resized_picture():
    source = MemorySource(3)
    image, tokens, language = preprocess(language_weights={"de": 1})(source.record(2), source, example_rng(0, 0))
    assert np.array_equal(image, resize(decode(source.read(2)), 8))
    assert np.array_equal(tokens, preprocess().tokenizer.encode("picture 2 in de", 12))
    assert language == "de"


@pytest.mark.parametrize("method", ["bilinear", "bicubic_antialias"])
def test_the_resize_method_is_the_one_asked_for(method):
    image = preprocess(resize_method=method).image(pixels(1))
    assert np.array_equal(image, resize(pixels(1), 8, method=method))
    assert not np.array_equal(image, resize(pixels(1), 8))


def test_a_caption_is_cleaned_and_a_bad_one_refused_whatever_its_type():
    make = preprocess()
    assert np.array_equal(make.tokens("  a\tfox\ufeff "), make.tokens("a fox"))
    for bad in ("", 3, None, ["a list"], {"a": "mapping"}, "x" * 20_000):
        with pytest.raises(BadExample, match="caption_"):
            make.tokens(bad)
    assert np.array_equal(make.tokens("fox " * 100)[:11], make.tokens("fox " * 20)[:11])


def test_fingerprints_differ_where_examples_do():
    base = preprocess()
    changes = [
        {"image_size": 9},
        {"context_length": 13},
        {"augmentation": Augmentation()},
        {"language_weights": {"en": 1}},
        {"resize_method": "bilinear"},
        {"captions": 2},
        {"opening_examples": 5},
    ]
    assert len({base.fingerprint(), *(replace(base, **change).fingerprint() for change in changes)}) == 8
    assert pickle.loads(pickle.dumps(base)).fingerprint() == preprocess().fingerprint()
    one, other = {"en": 1, "de": 2}, {"de": 2, "en": 1}
    assert replace(base, language_weights=one).fingerprint() == replace(base, language_weights=other).fingerprint()


def test_several_captions_of_one_image_are_rows_of_tokens():
    source = MemorySource(3)
    make = preprocess(captions=3, language_weights={"en": 1})
    image, tokens, language = make(source.record(1), source, example_rng(0, 0))
    assert tokens.shape == (3, 12)
    assert np.array_equal(tokens, np.stack([preprocess().tokens("picture 1 in en")] * 3))
    assert language == "en"
    drawn = {preprocess(captions=3)(source.record(1), source, example_rng(0, index))[1].tobytes() for index in range(9)}
    assert len(drawn) > 3, "each caption is drawn for itself"


def test_the_opening_is_in_one_language_and_ends_where_it_says():
    source = MemorySource(3)
    make = preprocess(captions=2, opening_examples=100, opening_language="ja", language_weights={"en": 1})
    shapes = {}
    for position in (0, 99, 100, None):
        _, tokens, language = make(source.record(1), source, example_rng(0, 5), position)
        shapes[position] = (tokens.shape[0], language)
    assert shapes == {0: (1, "ja"), 99: (1, "ja"), 100: (2, "en"), None: (2, "en")}


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"context_length": 0},
        {"language_weights": {"en": 0}},
        {"language_weights": {"en": -1, "*": 2}},
        {"captions": 0},
        {"opening_examples": -1},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        preprocess(**wrong)


def test_the_cache_reads_each_thing_once_and_gives_the_same():
    source = CountingSource(4)
    cached = CachedSource(source, megabytes=10)
    make = preprocess(augmentation=Augmentation())
    for _ in range(3):
        for index in range(4):
            made = make(cached.record(index), cached, example_rng(0, index))
            plain = make(MemorySource(4).record(index), MemorySource(4), example_rng(0, index))
            assert all(map(np.array_equal, made[:2], plain[:2]))
    assert (source.records_read, source.images_read) == (4, 4)
    assert len(cached) == 4
    assert cached.fingerprint() == source.fingerprint()


def test_a_full_cache_keeps_what_it_has_and_bad_pictures_are_met_each_time():
    picture_bytes = 24 * 32 * 3
    source = CountingSource(4, bad={3: "image_damaged"})
    cached = CachedSource(source, megabytes=2.5 * picture_bytes / 1e6)
    for _ in range(2):
        for reference in range(3):
            cached.pixels(reference)
        with pytest.raises(BadExample):
            cached.pixels(3)
    assert source.images_read == (2 + 1 + 1) + (1 + 1)


def test_a_cache_is_pickled_empty():
    cached = CachedSource(MemorySource(4), megabytes=10)
    small = len(pickle.dumps(cached))
    for reference in range(4):
        cached.pixels(reference)
        cached.record(reference)
    assert len(pickle.dumps(cached)) == small
    assert np.array_equal(pickle.loads(pickle.dumps(cached)).pixels(2), cached.pixels(2))


def test_records_compare_and_group_their_captions():
    captions = (Caption("a", "en"), Caption("b", "de"), Caption("c", "en"))
    record = Record("key", ("image",), captions)
    assert record == Record("key", ("image",), captions)
    assert record.captions_by_language == {"en": (captions[0], captions[2]), "de": (captions[1],)}
