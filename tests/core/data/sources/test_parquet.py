"""Tables: cells that hold no image are refused, columns that are missing are named, memory is bounded."""

import subprocess
import sys
import time

import numpy as np
import pytest

from diptych.core.data.ledger import visit
from diptych.core.data.records import BadExample, Caption
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.parquet import ArrowSource, ParquetSource
from diptych.core.data.sources.reading import Reading
from diptych.core.data.sources.subset import Subset
from tests.core.data.pictures import encoded, pixels
from tests.core.data.sources.content import COUNT, content_of, write_arrow, write_parquet
from tests.tree import ROOT

pyarrow = pytest.importorskip("pyarrow", reason="the optional package pyarrow is not installed")
pytest.importorskip("pyarrow.parquet", reason="pyarrow is built without Parquet")

PICTURE = encoded(pixels(0))
COUNTED = pyarrow.proxy_memory_pool(pyarrow.default_memory_pool())  # has to outlive what is taken from it


def _source(tmp_path, **columns) -> ParquetSource:
    path = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return ParquetSource([path])


def test_captions_may_be_strings_or_lists_with_languages(tmp_path):
    source = _source(
        tmp_path,
        image=[PICTURE] * 3,
        caption=["a fox", None, "ein Fuchs"],
        texts=[["more", "words"], ["only these"], None],
        language=["en", "en", "de"],
    )
    assert [source.record(index).captions for index in range(3)] == [
        (Caption("a fox", "en"), Caption("more", "en"), Caption("words", "en")),
        (Caption("only these", "en"),),
        (Caption("ein Fuchs", "de"),),
    ]
    assert source.record(1).key == "table.parquet:1"


def test_cells_without_an_image_are_refused(tmp_path):
    images = [
        {"bytes": PICTURE, "path": "a.png"},
        {"bytes": None, "path": "b.png"},
        {"bytes": None, "path": None},
        None,
    ]
    source = _source(tmp_path, image=images, text=["x"] * 4)
    assert source.read(source.record(0).images[0]) == PICTURE
    reasons = []
    for index in (1, 2, 3):
        with pytest.raises(BadExample) as caught:
            source.read(source.record(index).images[0])
        reasons.append(caught.value.reason)
    assert reasons == ["image_not_embedded", "image_missing", "image_missing"]
    with pytest.raises(BadExample, match="image_not_bytes"):
        (paths := _source(tmp_path, image=["a.png"], text=["x"])).read(paths.record(0).images[0])


def test_missing_columns_and_foreign_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"columns photo, text; needed are an image column \(image"):
        _source(tmp_path, photo=[PICTURE], text=["x"])
    with pytest.raises(ValueError, match="caption column"):
        _source(tmp_path, image=[PICTURE], other=[3])
    with pytest.raises(ValueError, match="no rows"):
        _source(tmp_path, image=pyarrow.array([], pyarrow.binary()), text=pyarrow.array([], pyarrow.string()))
    for name, source in (("broken.parquet", ParquetSource), ("broken.arrow", ArrowSource)):
        (tmp_path / name).write_bytes(b"no table")
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            source([tmp_path / name])


def test_a_group_damaged_later_is_a_bad_example(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    source = ParquetSource([tmp_path / "a.parquet"])
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:400] = bytes(396)
    (tmp_path / "a.parquet").write_bytes(data)
    outcomes = set()
    for index in range(COUNT):
        try:
            source.read(source.record(index).images[0])
            outcomes.add("read")
        except BadExample as error:
            outcomes.add(error.reason)
    assert "table_damaged" in outcomes


@pytest.mark.parametrize("at_once", [65_536, 10])
def test_rows_that_a_file_only_says_it_has_are_bad_examples(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("diptych.core.data.sources.parquet.ROWS_AT_ONCE", at_once)
    rows, path = 37, tmp_path / "few.parquet"
    columns = {"image": [PICTURE] * rows, "caption": ["a fox"] * rows, "id": range(rows)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, store_schema=False)
    data = bytearray(path.read_bytes())
    data[data.rindex(bytes([2 * rows]))] += 2 * 20  # as Thrift writes the number of a group's rows
    path.write_bytes(data)
    source = ParquetSource([path])
    good = [index for index, _ in visit(source, lambda record: source.read(record.images[0]))]
    assert (len(source), good) == (rows + 20, [*range(rows)])
    assert source.ledger.skipped_by_reason["table_damaged"].count == 20


def test_memory_is_bounded_by_the_groups_kept(tmp_path):
    write_parquet(tmp_path / "a.parquet", rows_a_group=2)
    source = ParquetSource([tmp_path / "a.parquet"], megabytes=0)
    for index in [*range(COUNT), *range(COUNT)]:
        source.read(source.record(index).images[0])
        assert len(source._tables) == 1
    roomy = ParquetSource([tmp_path / "a.parquet"])
    for index in range(COUNT):
        roomy.record(index)
    assert len(roomy._tables) == COUNT // 2


def repeated(value, rows: int):
    """A column of one value, which a file holds once."""
    return pyarrow.DictionaryArray.from_arrays(
        pyarrow.nulls(rows, pyarrow.int32()).fill_null(0), pyarrow.array([value])
    )


@pytest.mark.parametrize("form", ["bytes", "bytes and path"])
@pytest.mark.parametrize(("rows", "picture"), [(400_000, PICTURE), (3_000, PICTURE + bytes(1_000_000))])
def test_a_small_file_of_many_rows_takes_little_memory_and_time(tmp_path, form, rows, picture):
    image = repeated(picture, rows)
    if form == "bytes and path":
        image = pyarrow.StructArray.from_arrays([image, repeated("a.png", rows)], ["bytes", "path"])
    table = pyarrow.table({"image": image, "caption": repeated("a fox", rows)})
    path = tmp_path / "many.parquet"
    pyarrow.parquet.write_table(
        table, path, row_group_size=rows, store_schema=False, dictionary_pagesize_limit=1 << 24, compression="none"
    )
    assert path.stat().st_size < 2_000_000
    kept = pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(COUNTED)
    start = time.process_time()
    try:
        source = ParquetSource([path])
        for index in (rows - 1, 0):
            record = source.record(index)
            assert source.read(record.images[0]) == picture
            assert record.captions == (Caption("a fox"),)
    finally:
        pyarrow.set_memory_pool(kept)
    assert COUNTED.max_memory() < 64_000_000
    assert time.process_time() - start < 1


def test_rows_of_a_group_read_in_pieces_are_those_of_the_group(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", rows_a_group=COUNT)
    whole = content_of(ParquetSource([tmp_path / "a.parquet"]))
    monkeypatch.setattr("diptych.core.data.sources.parquet.ROWS_AT_ONCE", 3)
    pieces = ParquetSource([tmp_path / "a.parquet"])
    assert content_of(pieces) == whole
    assert len(pieces._groups) == -(-COUNT // 3)


@pytest.mark.parametrize("kind", [ParquetSource, ArrowSource])
@pytest.mark.parametrize("column", ["path", "key", "list"])
def test_keys_of_rows_read_in_pieces_are_unique_and_the_first_keeps_its_own(tmp_path, monkeypatch, kind, column):
    names = ["a", "b", "a", None, "b", "c", "a", "d", "d", None]
    monkeypatch.setattr("diptych.core.data.sources.parquet.ROWS_AT_ONCE", 3)
    paths = []
    for number, some in enumerate((names[:4], names[4:])):
        image = [{"bytes": PICTURE, "path": name and column == "path" and f"{name}.png" or None} for name in some]
        given = {} if column == "path" else {"id": [[name] if column == "list" and name else name for name in some]}
        table = pyarrow.table({"image": image, "caption": ["a fox"] * len(some)} | given)
        paths.append(tmp_path / f"{number}.{kind.kind.lower()}")
        if kind is ParquetSource:
            pyarrow.parquet.write_table(table, paths[-1], row_group_size=5)
        else:
            with pyarrow.ipc.new_stream(paths[-1], table.schema) as writer:
                writer.write_table(table, max_chunksize=3)
    source = kind(paths)
    a, b, c, d = (f"['{name}']" if column == "list" else name for name in "abcd")
    expected = [a, b, f"{a}#2", f"{paths[0].name}:3", f"{b}#4", c, f"{a}#6", d, f"{d}#8", f"{paths[1].name}:9"]
    assert [source.record(index).key for index in range(len(names))] == expected


def test_a_group_that_would_unpack_to_far_more_than_its_file_is_refused(tmp_path):
    path = tmp_path / "bomb.parquet"
    table = pyarrow.table({"image": [PICTURE], "caption": ["a" * 100_000_000]})
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)
    with pytest.raises(ValueError, match=r"bomb.parquet: row group 0 would unpack to 100,\d+,\d+ bytes, at most"):
        ParquetSource([path])


def test_arrow_files_of_both_forms_are_read(tmp_path):
    write_arrow(tmp_path / "streams")
    streams = sorted((tmp_path / "streams").glob("*.arrow"))
    table = pyarrow.ipc.open_stream(streams[0]).read_all()
    with pyarrow.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    stream, file = ArrowSource(streams[:1]), ArrowSource([tmp_path / "file.arrow"])
    assert len(stream) == len(file) == COUNT // 2
    for index in range(len(file)):
        assert stream.record(index).captions == file.record(index).captions
        assert stream.read(stream.record(index).images[0]) == file.read(file.record(index).images[0])


def test_without_pyarrow_the_error_says_what_to_install(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from diptych.core.data.sources.open import open_source\n"
        f"open_source({str(tmp_path / 'a.parquet')!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "ImportError: reading Parquet and Arrow files needs pyarrow: pip install 'diptych[parquet]'" in done.stderr


def test_splits_are_not_mixed_without_being_asked_to(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", hugging_face=True)
    with pytest.raises(ValueError, match="holds the splits test, train: choose one"):
        open_source(tmp_path)
    assert len(open_source(tmp_path / "data" / "train-*.parquet")) == COUNT


@pytest.mark.parametrize("kind", ["path", "id", "arrow"])
def test_rows_with_one_key_have_keys_of_their_own(tmp_path, kind):
    images = [{"bytes": PICTURE, "path": "image.png" if kind != "id" else None}] * 50
    columns = {"image": images, "text": [f"number {n}" for n in range(50)]} | ({"id": [0] * 50} if kind == "id" else {})
    if kind == "arrow":
        path = tmp_path / "data.arrow"
        table = pyarrow.table(columns)
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        source = ArrowSource([path])
    else:
        source = _source(tmp_path, **columns)
    keys = [source.record(index).key for index in range(50)]
    assert len(set(keys)) == 50
    assert keys[:2] == (["0", "0#1"] if kind == "id" else ["image", "image#1"])
    assert 0 < len(Subset(source, fraction=0.3, held_out=True)) < 50


def test_columns_of_other_names_are_read_by_a_flag(tmp_path):
    path = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"picture": [PICTURE], "prompt": ["a fox"], "text": ["other"]}), path)
    source = open_source(path, reading=Reading(caption_field="prompt", image_field="picture"))
    assert source.record(0).captions == (Caption("a fox"),)
    assert source.read(source.record(0).images[0]) == PICTURE
    with pytest.raises(ValueError, match="--image-field"):
        open_source(path)


@pytest.mark.parametrize("kind", ["Parquet", "Arrow"])
def test_a_caption_changed_in_place_among_large_images_is_noticed(tmp_path, kind):
    noise = np.random.default_rng(0).bytes(8_000_000)
    images = [noise[start : start + 100_000] for start in range(0, len(noise), 100_000)]
    table = pyarrow.table({"image": images, "text": [f"caption {number}" for number in range(len(images))]})
    path = tmp_path / "data.table"
    if kind == "Parquet":
        pyarrow.parquet.write_table(table, path, compression="none", write_statistics=False)
    else:
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    reader = ParquetSource if kind == "Parquet" else ArrowSource
    before = reader([path]).fingerprint()
    data = path.read_bytes()
    assert data.count(b"caption 17") == 1
    path.write_bytes(data.replace(b"caption 17", b"caption 71"))
    assert reader([path]).fingerprint() != before
