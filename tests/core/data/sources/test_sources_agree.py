"""The same content gives the same records, whatever it is kept in."""

import json
import os
import pickle
import re
import shutil
from itertools import islice
from pathlib import Path

import pytest

from diptych.core.data.ledger import visit
from diptych.core.data.loading.loader import Loader
from diptych.core.data.records import Source
from diptych.core.data.sources.balancing import BalancedSource
from diptych.core.data.sources.cache import CachedSource
from diptych.core.data.sources.mixture import LanguageMixture
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.region_labelling import label_regions
from diptych.core.data.sources.small import ChosenRecords
from diptych.core.data.sources.source_view import SourceView
from diptych.core.data.sources.subset import Subset
from diptych.core.data.sources.word_attributes import WordAttributes
from tests.core.data.pictures import encoded, pixels, preprocess
from tests.core.data.sources import content

KINDS = {
    "folder": content.write_folder,
    "folder with metadata.jsonl": content.write_listed_folder,
    "folder with captions.jsonl": lambda path: content.write_listed_folder(path, "captions.jsonl"),
    "tar shards": content.write_tars,
    "one tar": lambda path: content.write_tars(path, 1),
    "GNU tar": lambda path: content.write_tars(path, format=content.tarfile.GNU_FORMAT),
    "ustar": lambda path: content.write_tars(path, format=content.tarfile.USTAR_FORMAT),
    "Parquet": lambda path: content.write_parquet(path / "part.parquet"),
    "Parquet of the hub": lambda path: content.write_parquet(path / "data" / "train-0.parquet", hugging_face=True),
    "Arrow on disk": content.write_arrow,
}


@pytest.fixture(params=KINDS)
def written(request, tmp_path) -> Path:
    if "Parquet" in request.param or "Arrow" in request.param:
        pytest.importorskip("pyarrow", reason="the optional package pyarrow is not installed")
    KINDS[request.param](tmp_path / "set")
    return tmp_path / "set"


def _source(path: Path) -> Source:
    return open_source(path)


def test_every_kind_holds_the_same_records(written):
    source = _source(written)
    assert isinstance(source, Source)
    assert len(source) == content.COUNT
    assert content.content_of(source) == content.expected()


def test_sources_survive_pickling_before_and_after_use(written):
    source = _source(written)
    fresh = pickle.loads(pickle.dumps(source))
    content.content_of(source)
    used = pickle.loads(pickle.dumps(source))
    assert content.content_of(fresh) == content.content_of(used) == content.expected()
    assert fresh.fingerprint() == used.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("bad", ["pipe", "page", "empty", "dangling link", "folder"])
@pytest.mark.parametrize(
    ("kind", "suffix"), [("tar shards", "tar"), ("Parquet", "parquet"), ("Arrow on disk", "arrow")]
)
def test_a_file_that_cannot_be_read_is_a_record_beside_others_and_refused_alone(tmp_path, kind, suffix, bad):
    if kind != "tar shards":
        pytest.importorskip("pyarrow", reason="the optional package pyarrow is not installed")
    path = tmp_path / "set" / f"00-bad.{suffix}"
    KINDS[kind](tmp_path / "set")
    make = {
        "pipe": lambda: os.mkfifo(path),
        "page": lambda: path.write_text("<!doctype html><p>Not found</p>"),
        "empty": path.touch,
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "folder": path.mkdir,
    }
    make[bad]()
    for spec in (tmp_path / "set", tmp_path / "set" / f"*.{suffix}"):
        source = open_source(spec, index_folder=tmp_path / "index")
        good = visit(source, lambda record, of=source: (record.key, (of.read(record.images[0]), record.captions)))
        assert dict(found for _, found in good) == content.expected()
        assert [Path(one.name.partition(":")[0]).name for one in source.ledger.skipped.values()] == [path.name]
        assert len(source) == content.COUNT + 1
    before = source.fingerprint()
    assert pickle.loads(pickle.dumps(source)).fingerprint() == before
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    assert open_source(tmp_path / "elsewhere").fingerprint() == before
    for other in (tmp_path / "elsewhere").glob(f"*.{suffix}"):
        if other.name != path.name:
            other.unlink()
    with pytest.raises(ValueError, match=path.name):
        open_source(tmp_path / "elsewhere")


def test_fingerprints_tell_the_content_and_not_the_place(written, tmp_path):
    before = _source(written).fingerprint()
    moved = tmp_path / "elsewhere"
    written.rename(moved)
    assert _source(moved).fingerprint() == before
    victim = sorted(path for path in moved.rglob("*") if path.is_file() and path.suffix != ".json")[-1]
    victim.write_bytes(victim.read_bytes() + b"\0" * 512 if victim.suffix == ".tar" else b"x" + victim.read_bytes())
    try:
        after = _source(moved).fingerprint()
    except ValueError:
        return  # so damaged that it does not open
    assert after != before or victim.suffix == ".tar", "bytes after the end of an archive are not content"


def test_fingerprints_notice_captions_changed_in_place_and_not_a_copy(written, tmp_path):
    """Of the same sizes; times alone would refuse the copy, too."""
    before = _source(written).fingerprint()
    copied = shutil.copytree(written, tmp_path / "copied")
    for path in copied.rglob("*"):
        os.utime(path, (0, 0))
    assert _source(copied).fingerprint() == before
    changed = 0
    for path in copied.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            turned = re.sub(rb"number (\d+)", lambda found: b"number " + b"9" * len(found[1]), data)
            changed += turned != data
            path.write_bytes(turned)
    assert changed
    assert _source(copied).fingerprint() != before


def test_a_loader_reads_them(written):
    loader = Loader(_source(written), preprocess(), batch_size=4, seed=0)
    batches = loader.batches(0)
    keys = {key for batch in islice(batches, 3) for key in batch.keys}
    batches.close()
    assert keys == set(content.KEYS)
    assert not loader.skipped


VIEWS = {
    "held out": lambda source, _: Subset(source, fraction=1.0, held_out=True),
    "chosen": lambda source, _: ChosenRecords(source, range(len(source))),
    "mixture": lambda source, _: LanguageMixture(source),
    "balanced": lambda source, _: BalancedSource(source, WordAttributes({"threes": ["3"], "fours": ["4"]}, {})),
    "labelled": lambda source, path: label_regions(source, content.Everywhere(), path / "regions.jsonl"),
    "cached": lambda source, _: CachedSource(source, 1),
}
NOT_TEXT = os.fsdecode(b"caf\xe9")  # names of files are bytes


def write_coco(folder: Path, names: list[str]) -> None:
    """COCO's layout of the pictures in a folder."""
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names)]
    captions = [{"image_id": number, "caption": f"picture {number}"} for number in range(len(names))]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": captions}))


def named_so(folder: Path, kind: str) -> Source:
    """Pictures of names that are no text, in a folder of such a name."""
    names = [f"{NOT_TEXT}-{number}" for number in range(8)]
    pictures = folder / NOT_TEXT
    pictures.mkdir()
    files = {f"{name}.png": encoded(pixels(number)) for number, name in enumerate(names)}
    files |= {f"{name}.txt": f"picture {number}".encode() for number, name in enumerate(names)}
    if kind == "tar":
        with content.tarfile.open(pictures / f"{NOT_TEXT}.tar", "w") as tar:
            for name, data in files.items():
                content.add_member(tar, name, data)
        return open_source(pictures, index_folder=folder / "index")
    for name, data in files.items():
        (pictures / name).write_bytes(data)
    if kind == "list":
        lines = [{"file_name": f"{name}.png", "text": f"picture {number}"} for number, name in enumerate(names)]
        (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    if kind == "COCO":
        write_coco(pictures, names)
        return open_source(f"coco:{pictures / 'a.json'}:{pictures}")
    return open_source(pictures)


@pytest.mark.parametrize("kind", ["Parquet", "Arrow on disk"])
def test_tables_in_folders_of_such_names_are_read(tmp_path, kind):
    pytest.importorskip("pyarrow", reason="the optional package pyarrow is not installed")
    KINDS[kind](tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / NOT_TEXT)
    source = open_source(tmp_path / NOT_TEXT)
    assert content.content_of(pickle.loads(pickle.dumps(source))) == content.expected()
    assert len(source.fingerprint()) == 64


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["folder", "list", "tar", "COCO"])
def test_names_that_are_no_text_pass_through_every_view(tmp_path, kind, view):
    source = named_so(tmp_path, kind)
    shown = VIEWS[view](source, tmp_path)
    keys = [record.key for _, record in visit(shown, lambda record: record)]
    assert {NOT_TEXT in key for key in keys} == {True}
    assert view == "balanced" or len(set(keys)) == len(source) == 8
    assert shown.read(shown.record(0).images[0]).startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(shown)).fingerprint() == shown.fingerprint()


def test_every_view_is_among_them():
    here = [view for view in SourceView.__subclasses__() if view.__module__.startswith("diptych.core.data.sources")]
    assert len(here) == len(VIEWS) - 1  # a cache is none
