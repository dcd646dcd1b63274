"""Data sets in clip-benchmark's layout: shards in their order, labels beside their images."""

import tarfile

import numpy as np
import pytest

from diptych.core.data.sources.clip_benchmark import dataset_type, is_clip_benchmark, shards_of
from diptych.core.data.sources.labels import NO_LABEL, read_labels
from diptych.core.data.sources.webdataset import WebDatasetSource
from tests.core.data.pictures import encoded, pixels
from tests.core.data.sources.clip_benchmark_set import write_split
from tests.core.data.sources.content import add_member


def samples(labels):
    return [{"webp": encoded(pixels(place), "WEBP"), "cls": str(label).encode()} for place, label in enumerate(labels)]


def test_labels_come_with_their_images_in_the_order_of_the_shards(tmp_path):
    labels = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
    # More than ten shards: 10.tar follows 9.tar, not 1.tar.
    write_split(tmp_path, "test", samples(labels), shards=12)
    assert is_clip_benchmark(tmp_path, "test")
    assert not is_clip_benchmark(tmp_path, "train")
    shards = shards_of(tmp_path, "test")
    assert [shard.name for shard in shards] == [f"{number}.tar" for number in range(12)]
    source = WebDatasetSource(shards)
    found = read_labels(source, None)
    assert found.unlabelled == {}
    np.testing.assert_array_equal(found.of_records, labels)
    for index, label in enumerate(labels):
        record = source.record(index)
        assert record.key == f"s{index:07d}"
        assert source.read(record.images[0]) == samples(labels)[index]["webp"], label


def test_a_label_of_another_shard_is_not_taken_for_that_of_an_equal_key(tmp_path):
    paths = []
    for number, label in enumerate((b"0", b"1")):
        paths.append(tmp_path / f"{number}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            add_member(tar, "same.png", encoded(pixels(number)))
            add_member(tar, "same.cls", label)
    np.testing.assert_array_equal(read_labels(WebDatasetSource(paths), None).of_records, [0, 1])
    np.testing.assert_array_equal(read_labels(WebDatasetSource(paths[::-1]), None).of_records, [1, 0])


def test_labels_that_are_missing_or_no_numbers_are_counted(tmp_path):
    odd = samples([0, 1, 2, 3, 4, 5])
    del odd[1]["cls"]
    odd[2]["cls"] = b"two"
    odd[3]["cls"] = b"-1"
    odd[4]["cls"] = b"1" * 100
    odd[5] = {"cls": b"5"}  # no image: it is counted where images are read
    source = WebDatasetSource(write_split(tmp_path, "test", odd, shards=1))
    found = read_labels(source, None)
    np.testing.assert_array_equal(found.of_records, [0, *[NO_LABEL] * (len(source) - 1)])
    assert found.unlabelled == {"label_missing": 1, "label_not_a_number": 3}


def test_labels_may_have_white_space_around_them(tmp_path):
    spaced = samples([7])
    spaced[0]["cls"] = b" 7\n"
    source = WebDatasetSource(write_split(tmp_path, "test", spaced, shards=1))
    np.testing.assert_array_equal(read_labels(source, None).of_records, [7])


def test_keys_in_folders_are_found(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add_member(tar, "./deep/one.first.png", encoded(pixels(0)))
        add_member(tar, "./deep/one.png", encoded(pixels(0)))
        add_member(tar, "./deep/one.cls", b"4")
    np.testing.assert_array_equal(read_labels(WebDatasetSource([path]), None).of_records, [4])


def test_captions_are_no_labels(tmp_path):
    texts = [{"webp": encoded(pixels(0), "WEBP"), "txt": b"one\ntwo"}]
    shards = write_split(tmp_path, "test", texts, shards=1)
    record = WebDatasetSource(shards).record(0)
    assert record.labels == ()
    assert [caption.text for caption in record.captions] == ["one", "two"]


def test_what_is_missing_is_named(tmp_path):
    write_split(tmp_path, "train", samples([0, 1]))
    with pytest.raises(FileNotFoundError, match="has the splits train"):
        shards_of(tmp_path, "test")
    (tmp_path / "train" / "1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 are missing: 1\.tar"):
        shards_of(tmp_path, "train")
    (tmp_path / "train" / "nshards.txt").write_text("many")
    with pytest.raises(ValueError, match="number of shards, got 'many'"):
        shards_of(tmp_path, "train")


def test_the_type_is_classification_unless_it_says_retrieval(tmp_path):
    assert dataset_type(tmp_path) == "classification"
    (tmp_path / "dataset_type.txt").write_text("Retrieval\n")
    assert dataset_type(tmp_path) == "retrieval"
    (tmp_path / "dataset_type.txt").write_text("multilabel\n")
    with pytest.raises(ValueError, match="'multilabel'; classification and retrieval"):
        dataset_type(tmp_path)
