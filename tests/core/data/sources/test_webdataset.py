"""Shards as strangers write them: nothing hostile is followed, nothing damaged passes unnoticed, the rest is read."""

import gzip
import io
import os
import random
import resource
import tarfile
import time

import pytest

from diptych.core.data.ledger import visit
from diptych.core.data.records import BadExample, Record
from diptych.core.data.sources import shard_index
from diptych.core.data.sources.cache import pixels_of
from diptych.core.data.sources.subset import Subset
from diptych.core.data.sources.tar import Damage, Member, scan, scan_file
from diptych.core.data.sources.webdataset import WebDatasetSource
from diptych.core.files.random_access import LocalFile
from diptych.core.report.ledger_text import ledger_text
from tests.core.data.pictures import encoded, pixels
from tests.core.data.sources.content import add_member, content_of, expected, write_tars

PICTURE = encoded(pixels(0), "JPEG")
SAMPLES = 5


@pytest.fixture
def shard(tmp_path):
    """Five good samples of a picture and a caption."""
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(SAMPLES):
            add_member(tar, f"{number:03d}.jpg", PICTURE)
            add_member(tar, f"{number:03d}.txt", f"caption {number}".encode())
    return path


def _read(source: WebDatasetSource) -> tuple[dict[str, Record], list[str]]:
    """Good records by key, and the reasons of the others."""
    good, reasons = {}, []
    for index in range(len(source)):
        try:
            record = source.record(index)
            for reference in record.images:
                source.read(reference)
            good[record.key] = record
        except BadExample as error:
            reasons.append(error.reason)
    return good, sorted(reasons)


def _complete(good: dict[str, Record]) -> list[str]:
    return [key for key, record in good.items() if record.images and record.captions]


def _header_offset(path, name: str) -> int:
    with tarfile.open(path) as tar:
        return tar.getmember(name).offset


def _overwrite(path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_the_good_shard_is_good(shard):
    good, reasons = _read(WebDatasetSource([shard]))
    assert _complete(good) == ["000", "001", "002", "003", "004"]
    assert reasons == []


@pytest.mark.parametrize("damage", [bytes(512), bytes(range(256)) * 2, b"\xff" * 512])
def test_a_damaged_header_costs_one_file_and_is_reported(shard, damage):
    _overwrite(shard, _header_offset(shard, "002.jpg"), damage)
    with tarfile.open(shard) as tar:
        silently = sum(name.endswith(".jpg") for name in tar.getnames())
    assert silently == 2, "tarfile itself says nothing of the three lost pictures"
    good, reasons = _read(WebDatasetSource([shard]))
    assert _complete(good) == ["000", "001", "003", "004"]
    assert good["002"].images == ()
    assert reasons == ["tar_header_damaged"]


def test_a_truncated_shard_keeps_what_is_whole_and_says_so(shard):
    offset = _header_offset(shard, "003.jpg")
    os.truncate(shard, offset + 512 + len(PICTURE) // 2)
    good, reasons = _read(WebDatasetSource([shard]))
    assert _complete(good) == ["000", "001", "002"]
    assert reasons == ["tar_truncated"]
    os.truncate(shard, offset)
    assert _read(WebDatasetSource([shard]))[1] == ["tar_truncated"], "cut between two members, without an end mark"


def test_a_member_that_says_it_is_larger_than_the_file_hides_nothing(shard):
    header = bytearray(512)
    with tarfile.open(shard) as tar:
        member = tar.getmember("001.jpg")
        member.size = 1 << 30
        header[:] = member.tobuf(tarfile.GNU_FORMAT)
    _overwrite(shard, _header_offset(shard, "001.jpg"), bytes(header))
    good, reasons = _read(WebDatasetSource([shard]))
    assert _complete(good) == ["000", "002", "003", "004"]
    assert reasons == ["tar_truncated"]


def test_a_member_that_says_it_is_smaller_loses_only_itself(shard):
    with tarfile.open(shard) as tar:
        member = tar.getmember("001.jpg")
        member.size = 10
        header = member.tobuf(tarfile.GNU_FORMAT)
    _overwrite(shard, _header_offset(shard, "001.jpg"), header)
    good, reasons = _read(WebDatasetSource([shard]))
    assert set(_complete(good)) == {"000", "001", "002", "003", "004"}
    assert reasons == ["tar_header_damaged"]
    assert WebDatasetSource([shard]).read(good["001"].images[0]) == PICTURE[:10], "its picture will not decode"


def test_a_real_gigabyte_is_refused_by_its_size(tmp_path):
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        member = tarfile.TarInfo("large.jpg")
        member.size = 1 << 30
        file.write(member.tobuf())
        file.truncate(512 + (1 << 30) + 1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    assert _read(WebDatasetSource([path]))[1] == ["image_file_too_large"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "tar_link_refused"),
        (tarfile.LNKTYPE, "tar_link_refused"),
        (tarfile.CHRTYPE, "tar_device_refused"),
        (tarfile.BLKTYPE, "tar_device_refused"),
        (tarfile.FIFOTYPE, "tar_device_refused"),
        (tarfile.GNUTYPE_SPARSE, "tar_sparse_refused"),
    ],
)
def test_links_and_devices_are_refused(tmp_path, kind, reason):
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        add_member(tar, "good.jpg", PICTURE)
        add_member(tar, "good.txt", b"good")
        member = tarfile.TarInfo("evil.jpg")
        member.type = kind
        member.linkname = "/etc/passwd"
        tar.addfile(member)
    good, reasons = _read(WebDatasetSource([path]))
    assert _complete(good) == ["good"]
    assert reasons == [reason]


def test_names_are_keys_and_never_paths(tmp_path, monkeypatch):
    path = tmp_path / "names.tar"
    (tmp_path / "outside.txt").write_text("secret")
    names = ["../outside", "/etc/passwd", "a/../../b", "deep/er/still/c", "d" * 300]
    with tarfile.open(path, "w") as tar:
        for name in names:
            for suffix, data in ((".jpg", PICTURE), (".txt", b"caption")):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    good, reasons = _read(WebDatasetSource([path]))
    assert list(good) == names
    assert {record.captions[0].text for record in good.values()} == {"caption"}
    assert reasons == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["names.tar", "outside.txt"]


def test_only_images_and_captions_are_looked_at(tmp_path):
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.jpg", "a.txt", "a.pkl", "a.pyd", "a.seg.png", "._a.jpg", "b.json", "c.webp"):
            add_member(tar, name, b'{"caption": "x"}' if name.endswith("json") else PICTURE if "jpg" in name else b"x")
    good, reasons = _read(WebDatasetSource([path]))
    assert {key: (len(record.images), len(record.captions)) for key, record in good.items()} == {
        "a": (1, 1),
        "b": (0, 1),
        "c": (1, 0),
    }
    assert reasons == []


def test_a_repeated_name_is_reported_and_the_first_is_kept(tmp_path):
    path = tmp_path / "repeated.tar"
    with tarfile.open(path, "w") as tar:
        add_member(tar, "a.jpg", PICTURE)
        add_member(tar, "a.txt", b"first")
        add_member(tar, "a.txt", b"second")
    good, reasons = _read(WebDatasetSource([path]))
    assert good["a"].captions[0].text == "first"
    assert reasons == ["tar_name_repeated"]


@pytest.mark.parametrize("keyword", ["path", "size"])
@pytest.mark.parametrize("part", ["length", "value"])
def test_thousands_of_digits_in_a_pax_header_cost_their_member_alone(tmp_path, keyword, part):
    path = tmp_path / "digits.tar"
    digits = b"9" * 4999  # more than `int` takes
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    record = digits + b" " + keyword.encode() + b"=1\n" if part == "length" else b"5010 size=" + digits + b"\n"
    header.size = len(record)
    with tarfile.open(path, "w") as tar:
        add_member(tar, "a.jpg", PICTURE)
        add_member(tar, "a.txt", b"a")
        tar.addfile(header, io.BytesIO(record))
        add_member(tar, "b.jpg", PICTURE)
        add_member(tar, "b.txt", b"b")
    good, reasons = _read(WebDatasetSource([path]))
    assert _complete(good) == ["a", "b"]
    assert reasons == ["tar_header_damaged"]


@pytest.mark.parametrize("kind", [tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_says_it_is_larger_than_any_file_hides_nothing(tmp_path, kind):
    path = tmp_path / "huge.tar"
    header = tarfile.TarInfo("huge")
    header.type, header.size = kind, 1 << 80
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
    with tarfile.open(tmp_path / "good.tar", "w") as tar:
        add_member(tar, "a.jpg", PICTURE)
        add_member(tar, "a.txt", b"a")
    with path.open("ab") as file:
        file.write((tmp_path / "good.tar").read_bytes())
    good, reasons = _read(WebDatasetSource([path]))
    assert (_complete(good), reasons) == (["a"], ["tar_truncated"])


def test_a_shard_of_another_kind_is_counted_beside_others_and_refused_alone(shard, tmp_path):
    packed = tmp_path / "packed.tar"
    packed.write_bytes(gzip.compress(shard.read_bytes()))
    good, reasons = _read(WebDatasetSource([packed, shard]))
    assert (len(_complete(good)), reasons) == (SAMPLES, ["tar_mistaken"])
    with pytest.raises(ValueError, match=r"packed.tar holds no samples .*is gzip-compressed, .* Unpack it with gunzip"):
        WebDatasetSource([packed])
    (tmp_path / "zeros.tar").write_bytes(bytes(10_240))
    with pytest.raises(ValueError, match=r"zeros.tar holds no samples: none of its members is named as an image"):
        WebDatasetSource([tmp_path / "zeros.tar"])
    with tarfile.open(tmp_path / "arrays.tar", "w") as tar:
        add_member(tar, "a.npy", b"1")
    with pytest.raises(ValueError, match=r"named as an image .* Passed over: the suffix \.npy.*\(arrays.tar: a.npy\)"):
        WebDatasetSource([tmp_path / "arrays.tar"])


def test_empty_and_joined_archives(shard, tmp_path):
    empty = tmp_path / "empty.tar"
    empty.write_bytes(b"")
    assert _read(WebDatasetSource([empty, shard]))[1] == ["tar_empty"]
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        add_member(tar, "more.jpg", PICTURE)
        add_member(tar, "more.txt", b"more")
    joined = tmp_path / "joined.tar"
    joined.write_bytes(shard.read_bytes() + (tmp_path / "more.tar").read_bytes())
    good, reasons = _read(WebDatasetSource([joined]))
    assert len(_complete(good)) == SAMPLES + 1
    assert reasons == []


def test_a_thousand_damaged_shards_are_read_or_reported(shard, tmp_path):
    rng = random.Random(0)
    original = shard.read_bytes()
    path = tmp_path / "damaged.tar"
    intact = 0
    start = time.process_time()
    for _ in range(1000):
        data = bytearray(original)
        for _ in range(rng.choice([1, 2, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        found = list(scan(LocalFile(path)))
        members = [entry for entry in found if isinstance(entry, Member)]
        assert len(members) <= 2 * SAMPLES
        assert all(0 <= member.offset <= member.offset + member.size <= len(data) for member in members)
        reported = any(isinstance(entry, Damage) for entry in found)
        assert reported or len(members) == 2 * SAMPLES
        intact += not reported
    assert 100 < intact < 900
    assert time.process_time() - start < 15


def test_the_index_is_kept_and_used_until_the_shard_changes(tmp_path, monkeypatch):
    shards = write_tars(tmp_path / "set")
    folder = tmp_path / "index"
    first = WebDatasetSource(shards, index_folder=folder)
    assert len(list(folder.iterdir())) == len(shards)
    built = []
    monkeypatch.setattr(shard_index, "scan_file", lambda shard: built.append(1) or scan_file(shard))
    again = WebDatasetSource(shards, index_folder=folder)
    assert not built
    assert content_of(again) == content_of(first) == expected()
    assert again.fingerprint() == first.fingerprint()
    with tarfile.open(shards[0], "a") as tar:
        add_member(tar, "new.jpg", PICTURE)
    assert len(WebDatasetSource(shards, index_folder=folder)) == len(first) + 1
    assert len(built) == 1
    for index in folder.iterdir():
        index.write_bytes(index.read_bytes()[:100])
    assert len(WebDatasetSource(shards, index_folder=folder)) == len(first) + 1
    assert len(built) == 3, "damaged index files are built anew"


def test_an_index_that_cannot_be_kept_costs_no_more_than_time(shard, tmp_path, monkeypatch):
    def full_disk(*arguments, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_index, "write_arrays", full_disk)
    with pytest.warns(UserWarning, match="could not be kept.*No space left"):
        source = WebDatasetSource([shard], index_folder=tmp_path / "index")
    assert len(source) == SAMPLES
    assert not (tmp_path / "index").exists()


def test_more_shards_than_open_files(tmp_path, monkeypatch):
    shards = write_tars(tmp_path, shards=6)
    monkeypatch.setattr("diptych.core.data.sources.webdataset._MOST_OPEN_FILES", 2)
    source = WebDatasetSource(shards)
    assert content_of(source) == expected()
    assert len(source._files) == 2


def test_a_shard_that_shrinks_while_it_is_read_is_noticed(shard):
    source = WebDatasetSource([shard])
    reference = source.record(4).images[0]
    os.truncate(shard, reference[1] + 10)
    with pytest.raises(BadExample, match="image_truncated"):
        source.read(reference)


def test_members_that_are_not_read_are_counted_by_the_rule(shard, tmp_path):
    others = ("clip_22.05.jpg", "000.image.jpg", "a.bmp", "b.TIF", "000.npy", "._000.jpg", "noise")
    with tarfile.open(shard, "a") as tar:
        for name in others:
            add_member(tar, name, PICTURE)
    for source in (WebDatasetSource([shard], index_folder=tmp_path / "indices") for _ in range(2)):  # built, and read
        assert len(source) == SAMPLES
        named = {name.removeprefix("shard.tar: ") for some in source.ledger.passed_over.values() for name in some.names}
        assert named == set(others)
        rule = next(rule for rule in source.ledger.passed_over if rule.startswith("more than one dot"))
        assert source.ledger.passed_over[rule].count == 2
        assert "the suffix .bmp" in source.ledger.what_was_seen()


def test_samples_of_several_shards_have_keys_of_their_own(shard, tmp_path):
    other = tmp_path / "other.tar"
    other.write_bytes(shard.read_bytes())
    source = WebDatasetSource([shard, other])
    keys = [source.record(index).key for index in range(len(source))]
    assert keys[SAMPLES - 1 : SAMPLES + 2] == ["004", "000#5", "001#6"]
    assert source.member_name(SAMPLES) == "000"


@pytest.mark.parametrize("damage", ["name twice", "caption of bytes", "cut off"])
def test_one_damaged_record_ends_no_split(shard, damage):
    with tarfile.open(shard, "a") as tar:
        add_member(tar, "000.jpg" if damage == "name twice" else "900.txt", b"caf\xe9" * 600)
    if damage == "cut off":
        os.truncate(shard, _header_offset(shard, "900.txt") + 1_000)
    source = WebDatasetSource([shard])
    parts = [Subset(source, fraction=0.5, held_out=held_out) for held_out in (True, False)]
    found = sorted(record.key for part in parts for _, record in visit(part, lambda record: record))
    assert found == sorted(set(found))
    assert len(found) == SAMPLES
    assert len(source.ledger.skipped) == 1
    assert next(iter(source.ledger.skipped.values())).name.startswith("shard.tar: ")


def test_bad_records_of_one_name_count_each_and_have_names_of_their_own(tmp_path):
    """Data sets number their shards from 000 each; a member may come again and again."""
    for name in ("cc3", "cc12"):
        (tmp_path / name).mkdir()
        with tarfile.open(tmp_path / name / "000.tar", "w") as tar:
            for _ in range(3):
                add_member(tar, "a.jpg", b"no picture")
    source = WebDatasetSource(sorted(tmp_path.glob("*/000.tar")))
    assert list(visit(source, lambda record: pixels_of(source, record.images[0]))) == []
    named = [one.name for one in source.ledger.skipped.values()]
    assert named[:3] == ["cc12/000.tar: a", "cc12/000.tar: a.jpg, damage 1", "cc12/000.tar: a.jpg, damage 2"]
    assert len(set(named)) == len(source) == 6
    assert ledger_text([source.ledger]).startswith("000.tar: 0 of 6 records read")
