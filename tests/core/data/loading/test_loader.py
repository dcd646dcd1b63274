"""Batch b is a function of (source, preprocess, seed, b) alone, and what goes wrong is counted, named and bounded."""

import hashlib
import pickle
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import numpy as np
import pytest

from diptych.core.data.batch import ArrayField, Batch
from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.captioning import CaptionTargets
from diptych.core.data.examples.naflex import NaFlexLengths
from diptych.core.data.examples.views import Views
from diptych.core.data.ledger import TooManySkipped, ledger_of
from diptych.core.data.loading.examples import MOST_FAILURES_IN_A_ROW
from diptych.core.data.loading.loader import Loader
from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.placement import Placement
from tests.core.data.hostile import refused_captions, refused_pictures
from tests.core.data.parts import SmallTargets, SmallViews
from tests.core.data.pictures import LANGUAGES, MemorySource, encoded, pixels, preprocess

AUGMENTED = preprocess(augmentation=Augmentation(background=0.5, cutout=0.2), language_weights={"en": 0.5, "*": 0.5})


def loader(size: int = 50, bad: dict[int, str] | None = None, **settings) -> Loader:
    source = settings.pop("source", None) or MemorySource(size, bad)
    return Loader(source, settings.pop("preprocess", AUGMENTED), **({"batch_size": 12, "seed": 3} | settings))


def digest(batch: Batch) -> str:
    """A hash of all that a batch holds."""
    lists = repr((batch.keys, batch.languages, batch.skipped)).encode()
    arrays = b"".join(name.encode() + array.tobytes() for name, array in sorted(batch.fields.items()))
    return hashlib.sha256(arrays + batch.index.tobytes() + lists).hexdigest()


def digests(loader: Loader, start: int, count: int) -> list[str]:
    batches = loader.batches(start)
    try:
        return [digest(batch) for batch in islice(batches, count)]
    finally:
        batches.close()


def test_resuming_anywhere_gives_the_tail():
    whole = digests(loader(bad={7: "image_damaged"}), 0, 9)
    assert len(set(whole)) == 9
    for start in range(9):
        assert digests(loader(bad={7: "image_damaged"}), start, min(3, 9 - start)) == whole[start : start + 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    bad = {7: "image_damaged", 30: "image_damaged"}
    alone = digests(loader(bad=bad, max_skipped=1.0), 5, 6)
    assert digests(loader(bad=bad, workers=workers, max_skipped=1.0), 5, 6) == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_the_pieces_of_two_processes_together_are_those_of_the_batch(workers):
    naflex = NaFlexLengths(patch_size=4, lengths=(4, 16), halve_from=16)
    settings = {"preprocess": preprocess(naflex=naflex), "batch_size": 16}
    dealt = [
        islice(loader(**settings, placement=Placement(process=i, processes=2), workers=workers).batches(), 6)
        for i in range(2)
    ]
    counts = set()
    for number, (first, second) in enumerate(zip(*dealt, strict=True)):
        whole = loader(**settings).batch(number)
        counts.add(count := naflex.pieces(whole.fields["patches"].shape[1]))
        for of_first, of_second, piece in zip(*(one.pieces(count) for one in (first, second, whole)), strict=True):
            assert of_first.keys + of_second.keys == piece.keys
    assert counts == {1, 2}


def test_workers_make_every_part_of_their_rows():
    parts = {"targets": SmallTargets(), "views": SmallViews(), "selection_chunks": 2}
    naflex = NaFlexLengths(patch_size=4, lengths=(4, 9, 16), halve_from=16)
    settings = {"preprocess": preprocess(naflex=naflex, **parts), "batch_size": 16}
    alone = digests(loader(**settings), 0, 8)
    assert digests(loader(**settings, workers=2), 0, 8) == alone
    made = [loader(**settings).batch(number) for number in range(8)]
    lengths = [batch.fields["patches"].shape[1] for batch in made]
    assert lengths == [naflex.length_of(3, 0, number) for number in range(8)]
    assert set(lengths) == {4, 9, 16}
    assert {batch.fields["selection_noise"].shape for batch in made} == {(16, 2)}
    steps = sum(len(batch.pieces(naflex.pieces(length))) for batch, length in zip(made, lengths, strict=True))
    assert steps == naflex.optimizer_steps(3, 0, 0, 8) > 8
    with pytest.raises(ValueError, match="multiple of 2"):
        loader(**settings | {"batch_size": 15})


def test_targets_and_views_as_recipes_use_them_fill_a_batch():
    targets = CaptionTargets(tokenizer_path=TOKENIZER_PATH, context_length=32)
    views = Views(global_size=8, local_size=4, patch_size=2, local_count=3)
    settings = {"preprocess": preprocess(targets=targets, views=views), "batch_size": 16}
    fields = loader(**settings).batch(0).fields
    assert fields["target_tokens"].shape == (16, 3, 32)
    assert not fields["target_weights"][:, 1:].any(), "records without regions have the caption task alone"
    assert fields["parallel"].any()
    assert not fields["parallel"].all()
    assert fields["local_views"].shape == (16, 3, 4, 4, 3)
    assert fields["masked_patches"].shape == (16, 8)
    assert digests(loader(**settings, workers=2), 0, 2) == digests(loader(**settings), 0, 2)


def test_parts_leave_the_pictures_and_texts_of_a_batch_as_they_are():
    parts = {"views": SmallViews(), "selection_chunks": 2}
    plain = [loader(bad={7: "image_damaged"}).batch(number) for number in range(5)]
    full = [
        loader(bad={7: "image_damaged"}, preprocess=replace(AUGMENTED, **parts)).batch(number) for number in range(5)
    ]
    for one, other in zip(plain, full, strict=True):
        assert all(np.array_equal(one.fields[name], other.fields[name]) for name in ("image", "text"))
        assert (one.keys, one.languages, one.skipped) == (other.keys, other.languages, other.skipped)
        assert set(other.fields) - set(one.fields) == {
            "global_view",
            "local_views",
            "masked_patches",
            "selection_noise",
        }


@pytest.mark.parametrize("settings", [{"prefetch": 1}, {"cache_megabytes": None}, {"cache_megabytes": 0.01}])
def test_neither_reading_ahead_nor_memory_changes_anything(settings):
    assert digests(loader(**settings), 0, 12) == digests(loader(), 0, 12)


@pytest.mark.parametrize("change", [{"seed": 4}, {"order": 1}, {"batch_size": 13}, {"preprocess": preprocess()}])
def test_what_should_change_the_batches_does(change):
    assert not set(digests(loader(**change), 0, 3)) & set(digests(loader(), 0, 3))
    assert loader(**change).fingerprint() != loader().fingerprint()


def test_fingerprint_is_of_the_content():
    assert loader().fingerprint() == loader(workers=1, prefetch=2).fingerprint()
    assert loader().fingerprint() != loader(51).fingerprint()


def test_an_epoch_shows_every_record_once_and_its_own_picture_and_caption():
    plain = loader(48, preprocess=preprocess(image_size=16), source=(source := MemorySource(48)))
    batches = plain.batches(0)
    epoch = list(islice(batches, 4))
    batches.close()
    assert Counter(key for batch in epoch for key in batch.keys) == Counter(f"record-{index}" for index in range(48))
    make = preprocess(image_size=16)
    for batch in epoch:
        for row, key in enumerate(batch.keys):
            record = source.record(int(key.removeprefix("record-")))
            caption = record.captions_by_language[batch.languages[row]][0]
            assert np.array_equal(batch.fields["text"][row], make.tokens(caption.text))
            assert np.array_equal(batch.fields["image"][row], make.image(pixels(record.images[0] % 16)))
    assert {language for batch in epoch for language in batch.languages} == set(LANGUAGES)


def test_indices_count_on_and_one_batch_can_be_made_alone():
    batches = list(islice(loader().batches(2), 3))
    assert np.concatenate([batch.index for batch in batches]).tolist() == list(range(24, 60))
    assert digest(loader().batch(3)) == digest(batches[1])


def test_bad_examples_are_replaced_and_counted_by_reason():
    bad = dict.fromkeys(range(0, 400, 40), "image_truncated") | {17: "image_too_large"}
    made = loader(400, bad, batch_size=20, preprocess=preprocess())
    batches = list(islice(made.batches(0), 60))
    assert made.skipped["image_truncated"] >= 30
    assert made.skipped["image_too_large"] >= 3
    assert sum(map(len, (batch.skipped for batch in batches))) == made.skipped.total()
    assert {one.name for batch in batches for one in batch.skipped} == {f"record-{index}" for index in bad}
    assert all(len(set(batch.keys)) == 20 for batch in batches), "a replacement repeats a record of its batch"
    assert not {key for batch in batches for key in batch.keys} & {f"record-{index}" for index in bad}


def test_replacements_never_repeat_a_record_of_their_batch_even_across_epochs():
    bad = dict.fromkeys(range(0, 90, 3), "image_damaged")
    made = loader(90, bad, batch_size=8, max_skipped=1.0, preprocess=preprocess())
    batches = list(islice(made.batches(0), 60))
    assert made.skipped.total() > 100
    assert all(len(set(batch.keys)) == 8 for batch in batches)


class HostileSource:
    """Good records, and one for each hostile picture and caption."""

    def __init__(self):
        good = encoded(pixels(0))
        self.made = [(f"good-{index}", good, "a good caption", None) for index in range(61)]
        self.made += [(f"picture: {name}", data, "fine", reason) for name, (data, reason) in refused_pictures().items()]
        self.made += [(f"caption: {name}", good, text, reason) for name, (text, reason) in refused_captions().items()]

    def __len__(self):
        return len(self.made)

    def record(self, index):
        key, _, caption, _ = self.made[index]
        return Record(key, (index,), (Caption(caption, "en"),))

    def read(self, reference):
        return self.made[reference][1]

    def fingerprint(self):
        return "hostile"


@pytest.mark.filterwarnings("ignore")
def test_the_hostile_corpus_is_skipped_reason_by_reason():
    source = HostileSource()
    assert len(source) % 2 == 0, "two batches are an epoch"
    made = loader(source=source, batch_size=len(source) // 2, max_skipped=1.0, preprocess=preprocess())
    skipped = [entry for batch in islice(made.batches(0), 2) for entry in batch.skipped]
    expected = {key: reason for key, _, _, reason in source.made if reason}
    assert len(expected) > 25
    assert {one.name: one.reason for one in skipped} == expected
    assert Counter(one.reason for one in skipped) == made.skipped
    assert {one.name: one.reason for one in ledger_of(source).skipped.values()} == expected


class PartlyGood(MemorySource):
    """Records of two images and four captions. Record 3 lacks a good first image and a caption in each language but
    German, record 5 any image, record 7 any caption.
    """

    def record(self, index):
        record = super().record(index)
        good = {"en": "", "ja": 7} if index == 3 else dict.fromkeys(LANGUAGES, None) if index == 7 else {}
        captions = [Caption(good.get(one.language, one.text), one.language) for one in record.captions]
        weighed = Caption("rarely", "de", -1 if index in (3, 7) else 0.5)
        return Record(record.key, (index, index + 16), (*captions, weighed))


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_parts_are_left_out_and_a_record_is_skipped_where_all_are_bad(workers):
    bad = {3: "image_damaged", 5: "image_empty", 21: "image_empty"}
    made = loader(source=PartlyGood(16, bad), batch_size=8, max_skipped=1.0, workers=workers, preprocess=AUGMENTED)
    batches = made.batches(0)
    seen = [
        (key, language)
        for batch in islice(batches, 40)
        for key, language in zip(batch.keys, batch.languages, strict=True)
    ]
    batches.close()
    assert {language for key, language in seen if key == "record-3"} == {"de"}
    assert len({key for key, _ in seen}) == 14
    ledger = ledger_of(made.examples.source)
    reasons = {one.name: one.reason for one in ledger.skipped.values()}
    assert reasons == {"record-5": "image_empty", "record-7": "caption_not_text"}
    assert {reason: named.names for reason, named in ledger.left_out.items()} == {
        "caption_empty": ["record-3, caption 1"],
        "caption_not_text": ["record-3, caption 3"],
        "caption_weight": ["record-3, caption 4"],
        "image_damaged": ["record-3, image 1"],
    }


def test_bad_parts_change_nothing_of_other_records():
    whole, partly = (loader(source=PartlyGood(16, bad), batch_size=8) for bad in ({}, {3: "image_damaged"}))
    for number in range(4):
        one, other = whole.batch(number), partly.batch(number)
        assert one.keys == other.keys
        rows = [key != "record-3" for key in one.keys]
        assert all(np.array_equal(one.fields[name][rows], other.fields[name][rows]) for name in one.fields)


def test_too_many_bad_examples_stop_with_the_reasons():
    bad = dict.fromkeys(range(0, 400, 10), "image_truncated") | dict.fromkeys(range(5, 400, 40), "caption_empty")
    made = loader(400, bad, batch_size=20)
    with pytest.raises(TooManySkipped, match=r"image_truncated \d+ .*, caption_empty \d+") as caught:
        list(islice(made.batches(0), 30))
    ledger = ledger_of(made.examples.source)
    assert caught.value.reasons == {reason: named.count for reason, named in ledger.skipped_by_reason.items()}
    assert "--max-skipped" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert made.position >= 7, "one unlucky batch is no reason to stop"
    allowed = loader(400, bad, batch_size=20, max_skipped=0.2)
    assert len(list(islice(allowed.batches(0), 30))) == 30


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_examples_stops_at_once(workers):
    made = loader(100, dict.fromkeys(range(100), "image_format"), workers=workers)
    with pytest.raises(TooManySkipped, match=f"image_format {MOST_FAILURES_IN_A_ROW}"):
        next(made.batches(0))


def test_a_few_records_can_still_be_replaced():
    made = loader(12, dict.fromkeys(range(6), "image_damaged"), batch_size=12, max_skipped=1.0)
    batch = next(made.batches(0))
    assert set(batch.keys) == {f"record-{index}" for index in range(6, 12)}


class BrokenSource(MemorySource):
    def read(self, reference):
        raise RuntimeError("the disk is on fire")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_that_is_no_bad_example_is_passed_on(workers):
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        next(loader(source=BrokenSource(20), workers=workers).batches(0))


def test_closing_ends_the_thread_and_the_work_ahead():
    made = loader()
    batches = made.batches(0)
    next(batches)
    assert any(thread.name.startswith("diptych-loader") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("diptych-loader") for thread in threading.enumerate())
    assert made.position == 1


class HangingSource(MemorySource):
    def read(self, reference):
        if reference == self.hanging:
            time.sleep(60)
        return super().read(reference)


def test_a_source_that_hangs_is_reported(capfd):
    source = HangingSource(40)
    made = loader(source=source, workers=1, prefetch=1)
    source.hanging = int(made.examples.order.records(1)[3])
    batches = made.batches(0)
    next(batches)
    made.stall_seconds = 1
    with pytest.raises(TimeoutError, match="hangs"):
        next(batches)
    assert "in read" in capfd.readouterr().err, "the worker's stack was not printed"


def test_too_few_records_for_a_batch_say_so():
    with pytest.raises(ValueError, match="at most 7"):
        loader(7)


def test_bad_examples_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(BadExample("image_damaged", "half of it")))
    assert (error.reason, error.detail, str(error)) == ("image_damaged", "half of it", "image_damaged: half of it")


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_make_their_own_rows_of_the_same_batches(workers):
    """Bad examples are replaced as they are in the whole batch."""
    bad = {7: "image_damaged", 31: "image_damaged"}
    whole = [loader(bad=bad, batch_size=16).batch(number) for number in range(4)]
    for process in range(2):
        placement = Placement(process=process, processes=2)
        rows = slice(8 * process, 8 * process + 8)
        own = list(islice(loader(bad=bad, batch_size=16, placement=placement, workers=workers).batches(), 4))
        for mine, all_rows in zip(own, whole, strict=True):
            assert mine.keys == all_rows.keys[rows]
            np.testing.assert_array_equal(mine.index, all_rows.index[rows])
            for name, array in mine.fields.items():
                np.testing.assert_array_equal(array, all_rows.fields[name][rows], err_msg=name)


def test_a_process_has_its_part_of_every_micro_batch():
    """The first halves of both processes' rows are the first half of the batch, and so are the second."""
    whole = loader(batch_size=16).batch(0)
    own = [
        loader(batch_size=16, placement=Placement(process=process, processes=2), micro_batches=2).batch(0)
        for process in range(2)
    ]
    for piece in range(2):
        keys = [key for mine in own for key in mine.pieces(2)[piece].keys]
        assert tuple(keys) == whole.pieces(2)[piece].keys


@dataclass(frozen=True)
class Labels:
    """Declares labels from 0 to 9."""

    largest: int
    declared: ClassVar = {"label": ArrayField(np.int32, (("batch",),), (0, 9), "a class")}

    def __call__(self, record, pixels, rng):
        return {"label": np.array(rng.integers(self.largest, self.largest + 1), np.int32)}


def test_a_maker_of_ones_own_fills_its_field():
    made = loader(preprocess=replace(AUGMENTED, makers={"labels": Labels(9)})).batch(0)
    plain = loader().batch(0)
    assert made.fields["label"].tolist() == [9] * len(made)
    assert all(np.array_equal(made.fields[name], array) for name, array in plain.fields.items())


def test_a_maker_that_breaks_its_word_is_named():
    with pytest.raises(ValueError, match=r"Batch.label is int32\[.*its values are from 10 to 10"):
        loader(preprocess=replace(AUGMENTED, makers={"labels": Labels(10)})).batch(0)


def test_two_makers_of_one_field_are_refused():
    both = replace(AUGMENTED, makers={"one": Labels(1), "other": Labels(2)})
    with pytest.raises(ValueError, match="The field label of a batch is made twice"):
        loader(preprocess=both).batch(0)
