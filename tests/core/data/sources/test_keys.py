"""Keys that repeat in the data are unique in a source."""

from collections import Counter
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from diptych.core.data.sources.keys import UniqueKeys


@given(st.lists(st.sampled_from(["image", "a", "b", "c", "é"]), max_size=30))
def test_every_record_has_a_key_of_its_own_and_the_first_keeps_it(keys):
    unique = UniqueKeys(lambda: zip(keys, count(), strict=False))
    given_out = [unique.key(key, place) for place, key in enumerate(keys)]
    assert len(set(given_out)) == len(keys)
    for key in set(keys):
        assert given_out[keys.index(key)] == key
    assert all(key == own for key, own in zip(keys, given_out, strict=True) if Counter(keys)[key] == 1)


@given(st.lists(st.sampled_from(["a", "a#0", "a#1", "a#2", "a#1#2", "a#x", "#1", "#", "", "1"]), max_size=12))
def test_keys_that_look_as_if_they_had_been_made_are_not_taken_for_those(keys):
    unique = UniqueKeys(lambda: zip(keys, count(), strict=False))
    given_out = [unique.key(key, place) for place, key in enumerate(keys)]
    assert len(set(given_out)) == len(keys)
    if len(set(keys)) == len(keys):
        assert given_out == keys
    for key, own in zip(keys, given_out, strict=True):
        assert key == own or "#" in key or keys.count(key) > 1
