"""Keys that repeat in the data are unique in a source."""

from collections import Counter
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.data.sources import keys as keys_of_sources
from diptych.core.data.sources.keys import UniqueKeys, hashed


@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1]), max_size=40))
def test_what_repeats_is_found_in_ranges_as_in_one_piece(numbers):
    def parts():
        for begin in range(0, len(numbers), 7):
            some = numbers[begin : begin + 7]
            yield np.arange(begin, begin + len(some)), np.array(some, np.uint64)

    right = sorted(number for number, times in Counter(numbers).items() if times > 1)
    with pytest.MonkeyPatch.context() as patch:
        for most in (50, 3):
            patch.setattr(keys_of_sources, "MOST_HASHES", most)
            assert UniqueKeys(parts)._repeated.tolist() == right


@given(st.lists(st.sampled_from(["image", "a", "b", "c", "é"]), max_size=30))
def test_every_record_has_a_key_of_its_own_and_the_first_keeps_it(keys):
    unique = UniqueKeys(lambda: hashed(zip(keys, count(), strict=False)))
    given_out = [unique.key(key, place) for place, key in enumerate(keys)]
    assert len(set(given_out)) == len(keys)
    for key in set(keys):
        assert given_out[keys.index(key)] == key
    assert all(key == own for key, own in zip(keys, given_out, strict=True) if Counter(keys)[key] == 1)


@given(st.lists(st.sampled_from(["a", "a#0", "a#1", "a#2", "a#1#2", "a#x", "#1", "#", "", "1"]), max_size=12))
def test_keys_that_look_as_if_they_had_been_made_are_not_taken_for_those(keys):
    unique = UniqueKeys(lambda: hashed(zip(keys, count(), strict=False)))
    given_out = [unique.key(key, place) for place, key in enumerate(keys)]
    assert len(set(given_out)) == len(keys)
    if len(set(keys)) == len(keys):
        assert given_out == keys
    for key, own in zip(keys, given_out, strict=True):
        assert key == own or "#" in key or keys.count(key) > 1
