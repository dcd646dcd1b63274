"""Processes that train together stop and save after the same step, whichever of them wanted to."""

import numpy as np
import pytest

from diptych.core.placement import Placement
from diptych.core.training.signals import StopSignals
from diptych.core.training.together import Together, added


def together(process: int = 0, told=None) -> Together:
    placement = Placement(process=process, processes=2)
    if told is not None:
        object.__setattr__(placement, "told", lambda value: told(value))
    return Together(placement)


def stopped() -> StopSignals:
    stop = StopSignals()
    stop.received = "SIGTERM"
    return stop


def test_a_signal_to_one_is_asked_and_all_stop_a_step_after_the_answer():
    receiver, other = together(0), together(1)
    assert receiver.asks(stopped(), saves=False) == (1.0, 0.0)
    assert other.asks(StopSignals(), saves=False) == (0.0, 0.0)
    for process in (receiver, other):
        process.hear(3, [np.array([0.0, 0.0])])
        process.hear(4, [np.array([0.0, 0.0]), np.array([1.0, 0.0])])  # of two pieces of a batch
        assert not process.stops_after(4)
        process.hear(5, [np.array([1.0, 0.0])])  # asked again, and answered with the step that is then the last
        assert process.stops_after(5)


def test_only_who_writes_asks_to_save_and_once_until_it_is_saved():
    writer, other = together(0, told=lambda value: [value, value]), together(1)
    assert other.asks(StopSignals(), saves=True) == (0.0, 0.0)
    assert writer.asks(StopSignals(), saves=True) == (0.0, 1.0)
    assert writer.asks(StopSignals(), saves=True) == (0.0, 0.0)
    for process in (writer, other):
        process.hear(7, [np.array([0.0, 1.0])])
        assert [process.saves_after(step) for step in (7, 8, 9)] == [False, True, False]
    writer.count({}, 0)
    assert writer.asks(StopSignals(), saves=True) == (0.0, 1.0)


@pytest.mark.parametrize(("stop", "finished", "by_another"), [(StopSignals(), False, True), (stopped(), False, False)])
def test_a_signal_that_another_received_counts_as_received(stop, finished, by_another):
    process = together(1)
    assert not process.stopped_by_another(StopSignals(), finished=False)
    process.hear(1, [np.array([1.0, 0.0])])
    assert not process.stopped_by_another(stop, finished=True)
    assert process.stopped_by_another(stop, finished) is by_another
    assert stop.exit_status == 143


def test_what_the_others_met_is_added_up_and_not_ones_own():
    theirs = [{"skipped": {"truncated": 2}, "read": 30}, {"skipped": {"truncated": 1, "animated": 4}, "read": 40}]
    process = together(0, told=lambda value: [value, *theirs])
    process.count({"animated": 100}, 1_000)
    assert process.skipped == {"truncated": 3, "animated": 4}
    assert process.read == 70
    assert added({"a": 1}, {}, {"a": 2, "b": 3}) == {"a": 3, "b": 3}
