"""The rows of all processes are the batch, and what cannot be dealt out is refused."""

import pytest

from diptych.core.placement import ALONE, Placement


@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (2, 1), (3, 2), (4, 4)])
def test_every_row_belongs_to_one_process(processes, devices):
    size = 48
    dealt = [Placement(process=i, processes=processes, devices=devices).rows(size) for i in range(processes)]
    assert [row for rows in dealt for row in range(size)[rows]] == list(range(size))


def test_one_process_writes():
    assert [Placement(process=i, processes=3).writes for i in range(3)] == [True, False, False]
    assert ALONE.writes
    assert ALONE.rows(7) == slice(0, 7)


@pytest.mark.parametrize("given", [{"process": 1}, {"process": -1, "processes": 2}, {"devices": 0}])
def test_a_process_that_cannot_be_is_refused(given):
    with pytest.raises(ValueError, match="processes 0 to n - 1"):
        Placement(**given)


def test_a_batch_that_cannot_be_dealt_out_says_what_could():
    with pytest.raises(ValueError, match="multiple of 6"):
        Placement(processes=3, devices=2).rows(16)
