"""The source that is meant by what a person types, or the error that says what would have been one."""

import pytest

from diptych.core.data.emoji import EmojiSource
from diptych.core.data.records import Caption
from diptych.core.data.sources.folder import FolderSource
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.region_labelling import Search, label_regions
from diptych.core.data.sources.region_labels import LabelledSource
from diptych.core.data.sources.webdataset import WebDatasetSource
from tests.core.data.sources.content import COUNT, Everywhere, picture, write_folder, write_parquet, write_tars


def test_emoji_is_the_embedded_data():
    assert isinstance(open_source("emoji"), EmojiSource)


def test_folders_and_shards_are_told_apart_by_what_is_in_them(tmp_path):
    write_folder(tmp_path / "pictures")
    write_tars(tmp_path / "shards", 3)
    assert isinstance(open_source(str(tmp_path / "pictures")), FolderSource)
    assert isinstance(open_source(tmp_path / "shards"), WebDatasetSource)


def test_number_ranges_and_stars_name_shards(tmp_path):
    shards = write_tars(tmp_path / "set[1]", 3)
    opened = open_source(tmp_path / "set[1]" / "shard-{000..002}.tar")
    assert opened.shards == shards
    assert len(opened) == COUNT
    write_tars(tmp_path / "plain", 3)
    assert len(open_source(tmp_path / "plain" / "*-00[01].tar")) == COUNT * 2 // 3


@pytest.mark.parametrize("shards", [False, True])
def test_data_with_the_boxes_that_a_detector_found(tmp_path, shards):
    if shards:
        write_tars(tmp_path / "data", 3)
    else:
        write_folder(tmp_path / "data")
    plain = open_source(tmp_path / "data")
    made = label_regions(plain, Everywhere(), tmp_path / "regions.jsonl", Search(most=2))
    labelled = open_source(f"labelled:{tmp_path / 'regions.jsonl'}:{tmp_path / 'data'}")
    assert isinstance(labelled, LabelledSource)
    assert labelled.fingerprint() == made.fingerprint() != plain.fingerprint()
    assert len(labelled) == len(plain) == COUNT
    record = labelled.record(1)
    assert [(region.box, region.score) for region in record.regions] == [((0.25, 0.0, 0.75, 0.5), 0.5)] * 2
    assert record.captions == plain.record(1).captions
    assert plain.record(1).regions == ()
    with pytest.raises(ValueError, match="of another source"):
        open_source(f"labelled:{tmp_path / 'regions.jsonl'}:emoji")


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("nowhere", FileNotFoundError, "captions.jsonl"),
        ("shards/{000..002}.tar", FileNotFoundError, "000.tar"),
        ("*.tar", FileNotFoundError, r"\*\.tar"),
        ("{5..1}.tar", ValueError, "backwards"),
        ("pipe:curl http://example.org/a.tar", ValueError, "a program to run"),
        ("readme.md", ValueError, "cannot tell"),
        ("labelled:regions.jsonl", ValueError, "not of the form"),
        ("labelled::pictures", ValueError, "not of the form"),
        ("labelled:regions.jsonl:nowhere", FileNotFoundError, "no file or folder nowhere"),
        ("labelled:regions.jsonl:pictures", FileNotFoundError, "recipes.label --data pictures --output regions.jsonl"),
    ],
)
def test_what_cannot_be_opened_says_what_could(tmp_path, monkeypatch, spec, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "readme.md").write_text("hello")
    write_folder(tmp_path / "pictures")
    with pytest.raises(error, match=words):
        open_source(spec)


def test_a_folder_of_splits_asks_for_one(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match="choose one"):
        open_source(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", None])
@pytest.mark.parametrize("name", ["metadata.parquet", "captions.parquet"])
def test_a_list_in_parquet_is_passed_over_beside_images_and_lists(tmp_path, name, suffix):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.JPG").write_bytes(picture(0))
    (tmp_path / name).write_bytes(b"PAR1")
    if suffix == ".csv":
        (tmp_path / "metadata.csv").write_text("file_name,text\nsub/a.JPG,a fox\n")
    elif suffix == ".jsonl":
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "sub/a.JPG", "text": "a fox"}')
    source = open_source(tmp_path)
    assert isinstance(source, FolderSource)
    assert source.record(0).captions == ((Caption("a fox"),) if suffix else ())
    assert [some.names for some in source.ledger.passed_over.values()] == [[name]]
    (tmp_path / "sub" / "a.JPG").unlink()
    if not suffix:
        with pytest.raises(ValueError, match=name):
            open_source(tmp_path)


def test_everything_beside_the_files_that_are_read_is_counted(tmp_path):
    write_tars(tmp_path, 2)
    for name in ("README.md", ".gitattributes", "more/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    seen = open_source(tmp_path).ledger.passed_over
    assert {rule: named.names for rule, named in seen.items()} == {
        "what is beside *.tar, which are read": [".gitattributes", "README.md", "more/"]
    }


def test_what_is_beside_the_folder_of_the_files_is_counted_too(tmp_path):
    pytest.importorskip("pyarrow", reason="the optional package pyarrow is not installed")
    write_parquet(tmp_path / "data" / "train-0.parquet")
    for name in ("README.md", "data/notes.txt"):
        (tmp_path / name).write_text("x")
    seen = open_source(tmp_path).ledger.passed_over
    assert [named.names for named in seen.values()] == [["README.md", "data/notes.txt"]]
