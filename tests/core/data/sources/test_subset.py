"""Holding a part of a source out by the records' keys."""

import pytest

from diptych.core.data.records import Caption, Record
from diptych.core.data.sources.subset import Subset


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
