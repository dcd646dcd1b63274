"""Pictures of two lines: the same everywhere, by the tutorial's rules, with the true number of crossings."""

import hashlib
import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from diptych.core.data.image import decode
from diptych.core.data.lines import SIDE, LineSource, evaluation_lines
from tests.marks import ABOVE_THE_BACKENDS

pytestmark = ABOVE_THE_BACKENDS
GOLDEN = "c5c50ee8516ee1c2126e20c0fc803835b74f05aa1e6220810546af9c533a272a"
"""Of the first six pictures that are trained on."""


def crossed(lines) -> int:
    """By where each pair of segments meets, solved as two straight lines."""
    found = 0
    for first, last in pairwise(range(3)):
        (start, other_start), (end, other_end) = lines.rows[:, first], lines.rows[:, last]
        apart, closing = start - other_start, (start - other_start) - (end - other_end)
        found += closing != 0 and 0 < apart / closing < 1
    return found


def test_pictures_are_the_same_on_any_machine():
    source = LineSource()
    pixels = [source.pixels(index) for index in range(6)]
    assert hashlib.sha256(b"".join(picture.tobytes() for picture in pixels)).hexdigest() == GOLDEN
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.pixels(5), pixels[5])
    np.testing.assert_array_equal(decode(source.read(5)), pixels[5])
    assert again.fingerprint() == source.fingerprint() != LineSource(seed=1).fingerprint()


def test_labels_are_the_crossings_and_lines_lie_as_the_tutorial_says():
    source, counts = LineSource(length=400, seed=3), Counter()
    for index in range(len(source)):
        lines, record = source.lines(index), source.record(index)
        assert record.labels == (str(crossed(lines)),) == (record.captions[0].text,)
        assert record.prompt == "count"
        assert (np.abs(lines.rows[0] - lines.rows[1]) > 4).all()
        assert 0 <= lines.rows.min() <= lines.rows.max() < SIDE
        places = lines.columns / SIDE
        assert all(low - 1 / SIDE <= place <= low + 0.32 for place, low in zip(places, (0.01, 0.34, 0.67), strict=True))
        counts.update(record.labels)
    assert counts["1"] == pytest.approx(200, abs=40)
    assert counts["2"] == pytest.approx(100, abs=35)


def test_lines_are_drawn_where_they_are_the_red_one_above():
    source = LineSource(seed=9)
    for index in range(4):
        lines, picture = source.lines(index), source.pixels(index)
        assert (picture[0, 0] == 255).all() or lines.columns[0] < 4
        for column, blue, red in zip(lines.columns, *lines.rows, strict=True):
            assert tuple(picture[red, column]) == (255, 0, 0)
            assert tuple(picture[blue, column]) == (0, 0, 255)
        drawn = (picture.min(-1) < 128).sum()
        length = sum(np.hypot(np.diff(lines.columns), np.diff(rows)).sum() for rows in lines.rows)
        assert drawn == pytest.approx(2 * length, rel=0.15), "two pixels thick"


def test_what_is_judged_is_balanced_and_apart_from_what_is_trained_on():
    sets = evaluation_lines()
    assert [len(source) for source in sets.values()] == [999, 999]
    seeds = {LineSource().seed, *(source.seed for source in sets.values())}
    assert len(seeds) == 3
    for source in sets.values():
        assert [source.record(index).labels[0] for index in range(6)] == ["0", "1", "2"] * 2


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="length >= 1"):
        LineSource(length=0)
    with pytest.raises(IndexError, match="no picture 128 of 128"):
        LineSource().record(128)
