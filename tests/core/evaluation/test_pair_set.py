"""Reading an evaluation set."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.core.data.emoji import HELD_OUT_DESIGNER, TOKENIZER_PATH, evaluation_set
from diptych.core.data.examples.naflex import NaFlexLengths
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.image import decode
from diptych.core.data.ledger import ledger_of
from diptych.core.data.reasons import with_names
from diptych.core.data.records import Caption, Record
from diptych.core.evaluation.pair_set import Classes, read_pairs
from tests.core.data.pictures import MemorySource

PREPROCESS = Preprocess(image_size=24, context_length=8, tokenizer_path=TOKENIZER_PATH)


class Spoilt:
    """A source of which every third picture is broken."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return 30

    def record(self, index):
        return self.source.record(index)

    def read(self, reference):
        index = [self.source.record(i).images[0] for i in range(30)].index(reference)
        return b"not a picture" if index % 3 == 0 else self.source.read(reference)

    def fingerprint(self):
        return "spoilt"


@pytest.fixture(scope="module")
def source():
    return evaluation_set("held_out", languages=("en", "de"))


def test_captions_point_at_their_image(source):
    pairs = read_pairs(source, PREPROCESS, name="new concepts", most_records=20)
    assert pairs.images.shape == (20, 24, 24, 3)
    assert pairs.tokens.shape == (len(pairs.captions), 8)
    assert set(pairs.languages) == {"en", "de"}
    records = [source.record(int(i)) for i in np.linspace(0, len(source) - 1, 20).astype(int)]
    for text, label in zip(pairs.captions, pairs.caption_labels, strict=True):
        assert text in {caption.text for caption in records[label].captions}
    lengths = np.array([PREPROCESS.tokenizer.length(text) for text in pairs.captions])
    assert pairs.clipped == (lengths > 8).sum() > 0
    assert np.array_equal((pairs.tokens != PREPROCESS.tokenizer.pad_id).sum(axis=1), np.minimum(lengths, 8))
    english = pairs.in_language("en")
    assert sorted(pairs.caption_labels[english]) == list(range(20))
    assert all(reference[0] == HELD_OUT_DESIGNER for record in records for reference in record.images)


def test_bad_records_are_counted_and_labels_close_up(source):
    pairs = read_pairs(Spoilt(source), PREPROCESS, name="spoilt")
    assert len(pairs.images) == 20
    assert sum(pairs.skipped.values()) == 10
    assert set(pairs.caption_labels) == set(range(20))


def test_bad_parts_of_a_record_are_left_out_and_counted():
    class Parts(MemorySource):
        def record(self, index):
            good = super().record(index)
            captions = (Caption("" if index in (1, 2) else "first", "en"), *(() if index == 2 else good.captions))
            return Record(good.key, (index, index + 8), captions)

    source = Parts(4, {1: "image_damaged", 3: "image_empty", 11: "image_truncated"})
    pairs = read_pairs(source, PREPROCESS, name="parts")
    assert pairs.skipped == {"caption_empty": 1, "image_empty": 1}
    assert pairs.caption_labels.tolist() == [0] * 4 + [1] * 3
    assert np.array_equal(pairs.images[1], PREPROCESS.image(decode(source.read(9))))
    ledger = ledger_of(source)
    assert (list(ledger.skipped), ledger.size) == ([2, 3], 4)
    assert with_names(ledger.left_out) == "caption_empty 1 (record-1, caption 1), image_damaged 1 (record-1, image 1)"


def test_labels_by_position_do_not_survive_bad_records(source):
    classes = Classes(name="c", names=["a"], prompts=[["a"]], labels=np.zeros(30, np.int64))
    with pytest.raises(ValueError, match="labels go by position, and 10 records are bad"):
        read_pairs(Spoilt(source), PREPROCESS, name="spoilt", classes=classes)


def test_patches_come_beside_the_squares_where_asked_for(source):
    make = replace(PREPROCESS, naflex=NaFlexLengths(patch_size=8))
    pairs = read_pairs(source, make, name="patches", most_records=5, sequence_length=20)
    plain = read_pairs(source, PREPROCESS, name="squares", most_records=5)
    assert np.array_equal(pairs.images, plain.images)
    assert plain.patches is plain.spatial_shapes is None
    records = [source.record(int(i)) for i in np.linspace(0, len(source) - 1, 5).astype(int)]
    for place, record in enumerate(records):
        cut = make.naflex.cut(decode(source.read(record.images[0])), 20, "bilinear_antialias")
        assert np.array_equal(pairs.patches[place], cut["patches"])
        assert np.array_equal(pairs.spatial_shapes[place], cut["spatial_shapes"])
    with pytest.raises(ValueError, match="needs a Preprocess with naflex"):
        read_pairs(source, PREPROCESS, name="patches", sequence_length=20)
