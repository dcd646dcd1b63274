"""Holding a part of a source out by the records' keys."""

import hashlib
import tarfile

import numpy as np
import pytest

from diptych.core.data.records import Caption, Record
from diptych.core.data.sources.place_set import PlaceSet
from diptych.core.data.sources.subset import Subset
from diptych.core.data.sources.webdataset import WebDatasetSource
from tests.core.data.sources.content import add_member


class Keys:
    """Records with given keys and no pictures."""

    def __init__(self, keys):
        self.keys = list(keys)

    def __len__(self):
        return len(self.keys)

    def record(self, index):
        return Record(key=self.keys[index], images=(self.keys[index],), captions=(Caption("a caption"),))

    def read(self, reference):
        return reference.encode()

    def fingerprint(self):
        return ",".join(self.keys)


def keys_of(source) -> list[str]:
    return [source.record(index).key for index in range(len(source))]


@pytest.mark.parametrize("fraction", [0.05, 0.5])
def test_the_two_parts_share_nothing_and_leave_nothing_out(fraction):
    source = Keys(f"picture {number}" for number in range(1000))
    held_out, rest = (Subset(source, fraction=fraction, held_out=part) for part in (True, False))
    assert sorted(keys_of(held_out) + keys_of(rest)) == sorted(source.keys)
    assert abs(len(held_out) / 1000 - fraction) < 0.05
    assert held_out.read(held_out.record(0).images[0]) == keys_of(held_out)[0].encode()


def test_a_record_stays_on_its_side_when_others_come():
    few, many = Keys(map(str, range(100))), Keys(map(str, range(300)))
    before = set(keys_of(Subset(few, fraction=0.3, held_out=True)))
    after = set(keys_of(Subset(many, fraction=0.3, held_out=True)))
    assert before == after & set(few.keys)


def test_parts_have_fingerprints_of_their_own():
    source = Keys("abcdef")
    prints = {Subset(source, fraction=f, held_out=part).fingerprint() for f in (0.2, 0.3) for part in (True, False)}
    assert len(prints) == 4
    assert source.fingerprint() not in prints


@pytest.mark.parametrize("size", [1, 7, 8, 4_095, 4_096, 4_097, 1_300_000])
@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_a_set_of_places_is_the_list_of_them(size, share):
    places = np.flatnonzero(np.random.default_rng(size).random(size) < share)
    found = PlaceSet(size, np.array_split(places, 7))
    assert len(found) == len(places)
    assert np.array_equal(np.concatenate(list(found.parts())), places)
    numbers = range(len(places)) if len(places) < 5_000 else [0, 1, len(places) // 2, len(places) - 1]
    assert [found.place(number) for number in numbers] == places[list(numbers)].tolist()
    with pytest.raises(IndexError):
        found.place(len(places))
    some = np.arange(size // 3, min(size, size // 3 + 9_000))
    mine = found.holds(some)
    assert np.array_equal(mine, np.isin(some, places))
    assert np.array_equal(found.numbers(some[mine]), np.searchsorted(places, some[mine]))


@pytest.mark.parametrize("kept", [False, True])
def test_shards_are_split_by_the_hashes_in_their_indices_as_by_their_records(tmp_path, kept):
    """Where keys repeat, too, and where they look as if a place had been added."""
    names = [[f"{number}" for number in range(40)], [f"{number}" for number in range(20, 60)], ["1#3", "25#45", "x#1"]]
    shards = []
    for number, of_shard in enumerate(names):
        shards.append(tmp_path / f"{number}.tar")
        with tarfile.open(shards[-1], "w") as tar:
            for name in of_shard:
                add_member(tar, f"{name}.txt", b"a caption")
            add_member(tar, f"{of_shard[0]}.txt", b"again")
    for _ in range(2):
        source = WebDatasetSource(shards, index_folder=tmp_path / "kept" if kept else None)
        keys = [source.record(place).key for place in range(len(source)) if source.member_name(place)]
        assert len(keys) == len(set(keys)) == 83
        for held_out in (True, False):
            found = Subset(source, fraction=0.3, held_out=held_out)
            shares = {key: int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 for key in keys}
            assert keys_of(found) == [key for key in keys if (shares[key] < 0.3) == held_out]
        assert [one.reason for one in source.ledger.skipped.values()] == ["tar_name_repeated"] * 3
