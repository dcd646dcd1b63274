"""Records with rows of an index folder for images: each row is the vector of the picture that it stands for."""

import io
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.ledger import ledger_of
from diptych.core.data.loading.loader import Loader
from diptych.core.data.records import BadExample, Caption, Record, Source
from diptych.core.data.sources.mixture import LanguageMixture
from diptych.engine.embedding.augmented_views import AugmentedViews
from diptych.engine.embedding.embedded_pictures import EmbeddedPictures
from diptych.engine.embedding.image_stream import GOOD, Item, images
from diptych.engine.embedding.index_writer import IndexWriter
from diptych.engine.embedding.tally import Tally

SIZES = [2, 1, 0, 3, 1, 2, 1, 1]
"""Images of each record; record 6 cannot be read."""
BROKEN = (3, 1)
"""The record and image whose bytes are no picture."""


class Pictures:
    """Records with one or several pictures of one colour each, captioned in one or two languages."""

    def __len__(self) -> int:
        return len(SIZES)

    def record(self, index: int) -> Record:
        if index == 6:
            raise BadExample("broken", str(index))
        languages = ("en", "de") if index % 2 else ("en",)
        captions = tuple(Caption(f"{index} in {language}", language) for language in languages)
        return Record(f"record {index}", tuple((index, number) for number in range(SIZES[index])), captions)

    def read(self, reference: tuple[int, int]) -> bytes:
        if tuple(reference) == BROKEN:
            raise BadExample("image_truncated", "half of it")
        file = io.BytesIO()
        Image.new("RGB", (4, 4), colour(*reference)).save(file, "PNG")
        return file.getvalue()

    def fingerprint(self) -> str:
        return "pictures"


def colour(record: int, number: int) -> tuple[int, int, int]:
    return 20 * record, 40 * number, 7


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index folder in which a picture's vector is its colour."""
    return write_index(tmp_path_factory.mktemp("index"), Pictures(), lambda item: colour(item.record, item.number))


def write_index(folder: Path, source: Source, vector: Callable[[Item], Sequence[float]]) -> Path:
    card = {"model_fingerprint": "m", "data_fingerprint": source.fingerprint(), "dtype": "float32", "dim": 3}
    with IndexWriter(folder, {**card, "model": "m", "data": "d"}) as writer:
        writer.begin("images")
        items = [item for item, _ in images(source)]
        vectors = [vector(item) if item.status == GOOD else (0, 0, 0) for item in items]
        writer.append(items, np.array(vectors, np.float32))
        writer.finish()
    tally = Tally(source, "images")
    tally.add(items)
    tally.close()
    return folder


def embedded(source) -> list[tuple[str, int, tuple]]:
    """(name, number, vector or reason) of every image of every record that can be read."""
    found = []
    for place in range(len(source)):
        try:
            record = source.record(place)
        except BadExample:
            continue
        for number, row in enumerate(record.images):
            try:
                found.append((record.key, number, tuple(source.features(row).tolist())))
            except BadExample as error:
                found.append((record.key, number, error.reason))
    return found


@pytest.mark.parametrize("mixed", [False, True], ids=["as they are", "in a mixture of languages"])
def test_each_image_has_its_own_vector_and_a_bad_one_its_reason(index, mixed):
    source = LanguageMixture(Pictures(), shares={"en": 0.5, "de": 0.5}, length=24) if mixed else Pictures()
    view = EmbeddedPictures(source, index=index)
    assert isinstance(view.pictures, Pictures)
    found = embedded(view)
    keys = {f"record {record}" for record, size in enumerate(SIZES) if size and record != 6}
    assert {key for key, _, _ in found} == keys
    for key, number, vector in found:
        record = int(key.removeprefix("record "))
        assert vector == ("image_truncated" if (record, number) == BROKEN else colour(record, number))
    if mixed:
        assert len(found) > sum(SIZES)


def test_of_several_views_an_example_has_one_of_the_picture_that_it_would_have_seen(tmp_path):
    """The view is a further random choice; record, picture and caption are those of batches of pixels."""
    plain = Preprocess(image_size=4, context_length=6, tokenizer_path=TOKENIZER_PATH)
    augmented = replace(plain, augmentation=Augmentation(brightness=0.4))
    shown, again = (AugmentedViews(Pictures(), augmented, views=5, seed=2) for _ in range(2))
    first, second = shown.record(0).images[:2]
    assert not np.array_equal(shown.pixels(first), shown.pixels(second))
    np.testing.assert_array_equal(again.pixels(second), shown.pixels(second))
    index = write_index(tmp_path, shown, lambda item: json.loads(item.image)[1:])
    view = EmbeddedPictures(Pictures(), shown, index=index)
    assert view.fingerprint() != EmbeddedPictures(Pictures()).fingerprint()
    vectors = Loader(view, replace(plain, embedded=True), batch_size=4, seed=3, max_skipped=1.0)
    seen = Loader(Pictures(), plain, batch_size=4, seed=3, max_skipped=1.0)
    views = set()
    for number in range(30):
        one, other = seen.batch(number), vectors.batch(number)
        assert one.keys == other.keys
        np.testing.assert_array_equal(one.fields["text"], other.fields["text"])
        places = other.fields["image_features"].astype(int)
        expected = [colour(record, picture) for record, picture, _ in places]
        np.testing.assert_array_equal(one.fields["image"][:, 0, 0], expected)
        views |= set(places[:, 2].tolist())
    assert views == set(range(5))
    assert ledger_of(shown).skipped
    assert not ledger_of(view).skipped


def test_it_travels_to_worker_processes_without_its_vectors(index):
    view = EmbeddedPictures(Pictures(), index=index)
    view.record(0)
    assert len(pickle.dumps(view)) < 1_000
    assert embedded(pickle.loads(pickle.dumps(view))) == embedded(view)


def test_batches_of_vectors_hold_the_examples_that_batches_of_pixels_hold(index):
    """The same records, captions and replacements of bad ones; and a checkpoint of the one is resumed by the other."""
    plain = Preprocess(image_size=4, context_length=6, tokenizer_path=TOKENIZER_PATH)
    pixels = Loader(Pictures(), plain, batch_size=4, seed=3, max_skipped=1.0)
    view = EmbeddedPictures(Pictures(), index=index)
    vectors = Loader(view, replace(plain, embedded=True), batch_size=4, seed=3, max_skipped=1.0)
    assert vectors.fingerprint() == pixels.fingerprint()
    skipped = 0
    for number in range(12):
        one, other = pixels.batch(number), vectors.batch(number)
        assert one.keys == other.keys
        np.testing.assert_array_equal(one.fields["text"], other.fields["text"])
        np.testing.assert_array_equal(one.fields["image"][:, 0, 0], other.fields["image_features"])
        assert [(s.name, s.reason) for s in one.skipped] == [(s.name, s.reason) for s in other.skipped]
        skipped += len(one.skipped)
    assert skipped


def test_what_needs_pixels_is_refused_with_embedded_pictures():
    with pytest.raises(ValueError, match="have no pixels"):
        Preprocess(image_size=4, context_length=6, tokenizer_path="", embedded=True, augmentation=Augmentation())
    with pytest.raises(TypeError, match="are not embedded"):
        Loader(
            Pictures(),
            Preprocess(image_size=4, context_length=6, tokenizer_path=TOKENIZER_PATH, embedded=True),
            batch_size=2,
            seed=0,
        ).batch(0)
