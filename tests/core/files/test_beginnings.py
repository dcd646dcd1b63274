"""Files that are not what their name says: the error of every reader says what they are.

Special files are never waited for.
"""

import gzip
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.image import decode
from diptych.core.data.records import BadExample
from diptych.core.data.sources.captions import captions_from_text, object_from_json
from diptych.core.data.sources.coco import CocoRegionSource
from diptych.core.data.sources.folder import FolderSource
from diptych.core.data.sources.parquet import ArrowSource, ParquetSource
from diptych.core.data.sources.refcoco import read_original
from diptych.core.data.sources.region_labels import LabelledSource
from diptych.core.data.sources.webdataset import WebDatasetSource
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.vocabularies import open_vocabulary
from diptych.core.files.beginnings import OTHERS_TEXT, kind_of, mistaken
from diptych.core.files.fields import read_fields
from diptych.core.files.json_objects import read_json
from diptych.core.files.regular import open_regular
from diptych.core.weights.open import open_weights
from diptych.core.weights.safetensors import write_safetensors
from tests.core.data.hostile import accepted_pictures
from tests.core.data.pictures import encoded

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 1503456789\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please log in.</body></html>\n"
WRONG = {
    "a git-lfs pointer": (POINTER, "git lfs pull"),
    "HTML": (PAGE, "log in"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "log in"),
    "gzip-compressed": (gzip.compress(bytes(range(256)) * 8, mtime=0), "gunzip"),
    "empty": (b"", "fetch it again"),
}

READERS = {
    "model.safetensors": open_weights,
    "weights.npz": open_weights,
    "model.weights.h5": open_weights,
    "config.json": read_json,
    "preprocessor_config.json": read_fields,
    "tokenizer.model": open_tokenizer,
    "tokenizer.json": lambda path: open_vocabulary(path.parent),
    "shard.tar": lambda path: WebDatasetSource([path]),
    "data.parquet": lambda path: ParquetSource([path]),
    "data.arrow": lambda path: ArrowSource([path]),
    "instances.json": lambda path: CocoRegionSource(path, path.parent),
    "references.json": lambda path: read_original(path, path, path.parent),
    "captions.jsonl": lambda path: FolderSource(path.parent),
    "metadata.csv": lambda path: FolderSource(path.parent),
    "train.tsv": lambda path: FolderSource(path.parent, only=(path.name,)),
    "regions.jsonl": lambda path: LabelledSource(FolderSource(path.parent), path),
}
EMPTY_BY_RIGHT = ("captions.jsonl", "regions.jsonl")  # before the first line is written


def beside_a_picture(folder: Path, name: str, data: bytes) -> Path:
    if name == "regions.jsonl":
        (folder / "a.jpg").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8), "JPEG"))
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_a_well_known_wrong_file_and_what_to_do(tmp_path, name, kind):
    if kind == "empty" and name in EMPTY_BY_RIGHT:
        pytest.skip(f"an empty {name} is the beginning of one")
    data, advice = WRONG[kind]
    path = beside_a_picture(tmp_path, name, data)
    with pytest.raises(ValueError, match=f"is {kind}, expected [^.].*{advice}") as caught:
        READERS[name](path)
    assert str(path) in str(caught.value), "the file is named"


@pytest.mark.parametrize("kind", WRONG)
def test_readers_of_bytes_give_the_same_as_the_detail_of_a_bad_example(kind):
    data, advice = WRONG[kind]
    readers = [object_from_json]
    readers += [decode] if data else []  # of which "image_empty" says all
    readers += [captions_from_text] if kind in OTHERS_TEXT else []
    for read in readers:
        with pytest.raises(BadExample, match=f"is {kind}, expected .*{advice}"):
            read(data)


def test_what_is_of_the_right_kind_or_of_none_is_left_to_its_reader(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"a": np.zeros(2, np.float32)})
    stored = (tmp_path / "model.safetensors").read_bytes()
    assert kind_of(stored) == "safetensors"
    assert mistaken(stored, "safetensors") is None
    assert "is safetensors, expected JSON" in (mistaken(stored, "JSON") or "")
    for beginning in (b"{}", b'\xef\xbb\xbf{"a": 1}', b"[[1, 2]]", b'[\n {"a"'):
        assert mistaken(beginning, "JSON") is None
    for beginning in (b"<head of a cat", b"<body> of a cat", b"<html of a cat", b"<bodies <3"):
        assert kind_of(beginning) is None
    for page in (b"<HTML><p>No", b"<html lang=en", b"<head><title>No", b"<body class=x>No</body>"):
        assert kind_of(page) == "HTML"
    for beginning in (b"a red fox", b"[sic] as it was", b"{curly}", b"\x0a\x0b\x0a\x05<unk>", bytes(512)):
        assert kind_of(beginning) is None
    kinds = {name.split()[-1]: kind_of(data) for name, data in accepted_pictures().items()}
    assert {name: kinds[name] for name in ("PNG", "JPEG", "WebP", "GIF")} == {
        name: name for name in ("PNG", "JPEG", "WebP", "GIF")
    }


@pytest.mark.parametrize(
    "name", ["shard.tar", "data.parquet", "instances.json", "captions.jsonl", "train.tsv", "config.json"]
)
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    signal.alarm(20)  # a test that waited for ever would say nothing
    try:
        with pytest.raises((OSError, ValueError), match="this is a named pipe, expected a regular file") as caught:
            READERS[name](tmp_path / name)
    finally:
        signal.alarm(0)
    assert name in str(caught.value)


def test_devices_and_folders_are_refused_by_name(tmp_path):
    with pytest.raises(OSError, match="this is a device, expected a regular file: '/dev/zero'"):
        open_regular("/dev/zero")
    with pytest.raises(OSError, match="this is a folder"):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")
