"""A record becomes an example by its settings alone; what is remembered changes nothing but the time."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.class_targets import ClassTargets
from diptych.core.data.examples.naflex import NaFlexLengths, patchify, target_size
from diptych.core.data.image import decode, resize
from diptych.core.data.pixels import FixedSize, Normalization
from diptych.core.data.records import BadExample, Caption, Record, Region
from diptych.core.data.sampling import Part, Place
from diptych.core.data.sources.cache import CachedSource, pixels_of
from diptych.core.data.sources.labels import ClassNames
from diptych.core.data.sources.subset import Subset
from tests.core.data.parts import SmallTargets, SmallViews
from tests.core.data.pictures import MemorySource, pixels, preprocess

PARTS = {"targets": SmallTargets(), "views": SmallViews(), "selection_chunks": 3}


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
    fields, language = preprocess(language_weights={"de": 1})(source.record(2), source, Place(0, 0))
    assert fields.keys() == {"image", "text"}
    assert np.array_equal(fields["image"], resize(decode(source.read(2)), 8))
    assert np.array_equal(fields["text"], preprocess().tokenizer.encode("picture 2 in de", 12))
    assert language == "de"


@pytest.mark.parametrize("method", ["bilinear", "bicubic_antialias"])
def test_the_resize_method_is_the_one_asked_for(method):
    image = preprocess(resize_method=method).image(pixels(1))
    assert np.array_equal(image, resize(pixels(1), 8, method=method))
    assert not np.array_equal(image, resize(pixels(1), 8))


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_a_reference_sees_the_same_picture_at_its_own_size(augmentation):
    source, place = MemorySource(3), Place(0, 0)
    make = preprocess(augmentation=augmentation)
    plain, _ = make(source.record(2), source, place)
    both, _ = replace(make, reference_size=12)(source.record(2), source, place)
    larger, _ = replace(make, image_size=12)(source.record(2), source, place)
    assert both["reference_image"].shape == (12, 12, 3)
    assert np.array_equal(both["reference_image"], larger["image"])
    assert np.array_equal(both["image"], plain["image"])
    assert both.keys() == replace(make, reference_size=12).declared.keys()


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
        {"reference_size": 12},
        {"opening_examples": 5},
        {"targets": SmallTargets()},
        {"targets": SmallTargets(7)},
        {"views": SmallViews()},
        {"views": SmallViews(3)},
        {"naflex": NaFlexLengths()},
        {"naflex": NaFlexLengths(halve_from=None)},
        {"selection_chunks": 1},
        {"selection_chunks": 2},
    ]
    prints = {base.fingerprint(), *(replace(base, **change).fingerprint() for change in changes)}
    assert len(prints) == 1 + len(changes)
    assert pickle.loads(pickle.dumps(base)).fingerprint() == preprocess().fingerprint()
    one, other = {"en": 1, "de": 2}, {"de": 2, "en": 1}
    assert replace(base, language_weights=one).fingerprint() == replace(base, language_weights=other).fingerprint()


def test_several_captions_of_one_image_are_rows_of_tokens():
    source = MemorySource(3)
    make = preprocess(captions=3, language_weights={"en": 1})
    fields, language = make(source.record(1), source, Place(0, 0))
    tokens = fields["text"]
    assert tokens.shape == (3, 12)
    assert np.array_equal(tokens, np.stack([preprocess().tokens("picture 1 in en")] * 3))
    assert language == "en"
    three = preprocess(captions=3)
    drawn = {three(source.record(1), source, Place(0, index))[0]["text"].tobytes() for index in range(9)}
    assert len(drawn) > 3, "each caption is drawn for itself"


def test_the_opening_is_in_one_language_and_ends_where_it_says():
    source = MemorySource(3)
    make = preprocess(captions=2, opening_examples=100, opening_language="ja", language_weights={"en": 1})
    shapes = {}
    for index in (0, 99, 100, 104, 105):
        fields, language = make(source.record(1), source, Place(0, index, batch_size=15))
        shapes[index] = (fields["text"].shape[0], language)
    assert shapes == {0: (1, "ja"), 99: (1, "ja"), 100: (1, "ja"), 104: (1, "ja"), 105: (2, "en")}


class TwoImages(MemorySource):
    """Each record has a second image; those of even index have regions of the first."""

    def record(self, index: int) -> Record:
        plain = super().record(index)
        regions = () if index % 2 else (Region((0.0, 0.0, 0.5, 1.0), "the upper half"),)
        return Record(plain.key, (index, index + 1), plain.captions, regions)


@pytest.mark.parametrize("parts", [{name: part} for name, part in PARTS.items()] + [PARTS])
@pytest.mark.parametrize("captions", [1, 3])
def test_parts_change_nothing_of_what_is_there_without_them(parts, captions):
    source = MemorySource(4)
    plain, full = preprocess(captions=captions), preprocess(captions=captions, **parts)
    for index in range(12):
        place = Place(5, index, attempt=index % 2, stage=1)
        alone, language = plain(source.record(index % 4), source, place)
        together, same_language = full(source.record(index % 4), source, place)
        assert together.keys() > alone.keys()
        assert language == same_language
        assert all(np.array_equal(alone[name], together[name]) for name in alone)


def test_each_part_draws_for_itself():
    source, place = MemorySource(4), Place(5, 2)
    record = source.record(1)
    everything, _ = preprocess(**PARTS)(record, source, place)
    for name, part in PARTS.items():
        alone, _ = preprocess(**{name: part})(record, source, place)
        assert all(np.array_equal(alone[field], everything[field]) for field in alone)
    assert len({place.rng(part).random() for part in Part}) == len(Part)
    other, _ = preprocess(**PARTS)(record, source, place._replace(attempt=1))
    for field in ("target_tokens", "global_view", "selection_noise"):
        assert not np.array_equal(everything[field], other[field])


def test_targets_are_of_the_first_caption_and_of_the_image_that_the_regions_are_on():
    source, make = TwoImages(10), preprocess(captions=2, targets=SmallTargets())
    seen = set()
    for index in range(40):
        record = source.record(index % 10)
        fields, language = make(record, source, Place(0, index))
        caption = record.captions_by_language[language][0]
        assert fields["target_tokens"][:2, 0].tolist() == [len(caption.text), len(record.regions)]
        assert np.array_equal(fields["text"][0], make.tokens(caption.text))
        images = [make.image(pixels(image % 10)) for image in record.images]
        shown = [np.array_equal(fields["image"], image) for image in images].index(True)
        assert not (record.regions and shown), "regions of another image"
        seen.add(shown)
        drawn, _ = preprocess(captions=2)(record, source, Place(0, index))
        assert record.regions or np.array_equal(drawn["image"], fields["image"])
    assert seen == {0, 1}


def test_regions_and_captions_without_a_text_are_as_if_they_were_not_there():
    class Spoilt(TwoImages):
        def record(self, index):
            good = super().record(index)
            regions = (Region((0.0, 0.0, 1.0, 1.0), ""), *good.regions)
            return replace(good, captions=(Caption("\u200b", "en"), *good.captions), regions=regions)

    make, left_out = preprocess(captions=2, targets=SmallTargets()), []
    for index in range(8):
        place = Place(0, index)
        good, bad = (kind(4) for kind in (TwoImages, Spoilt))
        (expected, _), (fields, _) = (
            make(good.record(index % 4), good, place),
            make(bad.record(index % 4), bad, place, left_out),
        )
        assert all(np.array_equal(fields[name], expected[name]) for name in expected)
    assert {(one.part, one.reason) for one in left_out} == {
        ("caption 1", "caption_empty"),
        ("region 1", "caption_empty"),
    }


def test_noise_of_selection_is_gumbel():
    source, make = MemorySource(1), preprocess(selection_chunks=5)
    noise = np.stack([make(source.record(0), source, Place(0, index))[0]["selection_noise"] for index in range(2000)])
    assert noise.dtype == np.float32
    assert noise.shape == (2000, 5)
    assert abs(noise.mean() - np.euler_gamma) < 4 * np.pi / np.sqrt(6 * noise.size)
    assert abs(np.mean(noise < 1) - np.exp(-np.exp(-1))) < 4 * 0.5 / np.sqrt(noise.size)


def test_naflex_takes_the_place_of_the_square_and_augments_before_it():
    source, naflex = MemorySource(4), NaFlexLengths(patch_size=4, lengths=(6, 12), halve_from=None)
    make = preprocess(naflex=naflex)
    for index in range(8):
        place = Place(1, index, batch_size=2)
        fields, _ = make(source.record(index % 4), source, place)
        assert fields.keys() == {"patches", "spatial_shapes", "text"}
        length = naflex.length_of(1, 0, index // 2)
        assert fields["patches"].shape == (length, 48)
        size = target_size(24, 32, patch_size=4, max_num_patches=length)
        cut = patchify(resize(pixels(index % 4), size), 4)
        assert np.array_equal(fields["patches"][: len(cut)], cut)
        changed, _ = replace(make, augmentation=Augmentation())(source.record(index % 4), source, place)
        assert np.array_equal(changed["spatial_shapes"], fields["spatial_shapes"])
        assert not np.array_equal(changed["patches"], fields["patches"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"targets": SmallTargets(), "augmentation": Augmentation()}, "targets and augmentation exclude each other"),
        ({"naflex": NaFlexLengths(), "resize_method": "bilinear_antialias_float"}, "does not fit naflex"),
        ({"selection_chunks": 0}, "selection_chunks must be 1 or more"),
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        preprocess(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"context_length": 0},
        {"language_weights": {"en": 0}},
        {"language_weights": {"en": -1, "*": 2}},
        {"captions": -1},
        {"opening_examples": -1},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        preprocess(**wrong)


def test_pictures_without_texts_need_no_tokenizer_and_have_labels():
    source = MemorySource(4)
    make = preprocess(
        captions=0,
        tokenizer_path="nowhere",
        makers={"class": ClassTargets(classes=ClassNames(("cat", "dog")), mixup=0.2)},
    )
    record = replace(source.record(2), captions=(), labels=("dog",))
    fields, language = make(record, source, Place(0, 5))
    assert fields.keys() == make.declared.keys() == {"image", "label", "mixup"}
    assert (fields["label"], language) == (1, "und")
    assert 0.5 <= fields["mixup"] <= 1
    assert fields["mixup"] == make(record, source, Place(0, 5))[0]["mixup"]
    assert make.fingerprint() != replace(make, image_size=9).fingerprint()
    for labels, reason in (((), "label_missing"), (("horse",), "label_unknown"), (("cat", "dog"), "label_repeated")):
        with pytest.raises(BadExample, match=reason):
            make(replace(record, labels=labels), source, Place(0, 5))


def test_the_cache_reads_each_thing_once_and_gives_the_same():
    source = CountingSource(4)
    cached = CachedSource(source, megabytes=10)
    make = preprocess(augmentation=Augmentation())
    for _ in range(3):
        for index in range(4):
            made, _ = make(cached.record(index), cached, Place(0, index))
            plain, _ = make(MemorySource(4).record(index), MemorySource(4), Place(0, index))
            assert all(np.array_equal(made[name], plain[name]) for name in ("image", "text"))
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


class DrawnSource(MemorySource):
    """Draws its pictures instead of decoding them."""

    def __init__(self, size: int, cheap: bool):
        super().__init__(size)
        self.cheap_pixels, self.drawn = cheap, 0

    def pixels(self, reference: int) -> np.ndarray:
        self.drawn += 1
        return pixels(reference, 16, 16)


@pytest.mark.parametrize(("cheap", "drawn"), [(True, 9), (False, 3)])
def test_a_source_with_pixels_is_asked_for_them_and_cheap_ones_are_not_kept(cheap, drawn):
    source = DrawnSource(3, cheap)
    for whole in (source, Subset(source, fraction=1.0, held_out=True)):
        cached = CachedSource(whole, megabytes=10)
        source.drawn = 0
        for _ in range(3):
            for reference in range(3):
                assert np.array_equal(pixels_of(cached, reference), pixels(reference, 16, 16))
        assert source.drawn == drawn
        fields, _ = preprocess()(whole.record(1), whole, Place(0, 0))
        assert np.array_equal(fields["image"], resize(pixels(1, 16, 16), 8))


def test_records_compare_and_group_their_captions():
    captions = (Caption("a", "en"), Caption("b", "de"), Caption("c", "en"))
    record = Record("key", ("image",), captions)
    assert record == Record("key", ("image",), captions)
    assert record.captions_by_language == {"en": (captions[0], captions[2]), "de": (captions[1],)}


def test_a_picture_that_keeps_its_aspect_is_cut_from_its_middle():
    """As the checkpoint's own `FixedSize` does, at any size of the square; augmented pictures show the same part."""
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    make = preprocess(image_size=16, shortest_edge_ratio=1.25, resize_method="bicubic_antialias")
    whole = FixedSize(height=16, width=16, resize="bicubic_antialias", shortest_edge=20)
    assert np.array_equal(make.image(wide), whole.picture(wide))
    assert (make.image(wide) == 200).all()
    assert make.fixed_size(32).shortest_edge == 40
    assert whole.region(wide).shape == (16, 16, 3)
    assert whole.region(np.zeros((100, 50, 3), np.uint8)).shape == (40, 40, 3)
    changed = replace(make, augmentation=Augmentation(zoom=(1.0, 1.0))).image(wide, np.random.default_rng(0))
    assert changed.std(axis=(0, 1)).max() == 0
    assert FixedSize(height=16, width=16).region(wide) is wide


def test_how_pixels_are_normalised_and_cut_is_part_of_the_fingerprint():
    plain = preprocess()
    assert plain.fingerprint() == preprocess(shortest_edge_ratio=None, normalization=Normalization()).fingerprint()
    others = [preprocess(shortest_edge_ratio=1.0), preprocess(normalization=Normalization(mean=(0.1, 0.2, 0.3)))]
    assert len({plain.fingerprint(), *(other.fingerprint() for other in others)}) == 3


def test_boxes_and_a_crop_exclude_each_other():
    with pytest.raises(ValueError, match="targets and shortest_edge_ratio exclude each other"):
        preprocess(targets=object(), shortest_edge_ratio=1.0)
