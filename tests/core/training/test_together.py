"""Processes that train together stop and save after the same step, whichever of them wanted to; one asks nobody."""

import math

import numpy as np
import pytest

from diptych.core.placement import ALONE, Placement
from diptych.core.training.signals import Stopped, StopSignals
from diptych.core.training.together import Together

NOBODY = np.array([0.0, 0.0])
STOP, SAVE = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def together(process: int = 0, *, save_seconds: float = math.inf) -> Together:
    return Together(Placement(process=process, processes=2), save_seconds)


def stopped() -> StopSignals:
    stop = StopSignals()
    stop.received = "SIGTERM"
    return stop


def test_a_signal_to_one_is_asked_and_all_stop_a_step_after_the_answer():
    receiver, other = together(0), together(1)
    assert receiver.asks(stopped()) == (1.0, 0.0)
    assert other.asks(StopSignals()) == (0.0, 0.0)
    for process, signal in ((receiver, stopped()), (other, StopSignals())):
        process.hear(3, [NOBODY])
        process.hear(4, [NOBODY, STOP])  # of two pieces of a batch
        assert not process.stops(4, signal)
        process.hear(5, [STOP])  # asked again, and answered with the step that is then the last
        assert process.stops(5, signal)


def test_only_who_writes_asks_to_save_and_once_until_it_is_saved():
    writer, other = together(0, save_seconds=0), together(1, save_seconds=0)
    assert other.asks(StopSignals()) == (0.0, 0.0)
    assert writer.asks(StopSignals()) == (0.0, 1.0)
    assert writer.asks(StopSignals()) == (0.0, 0.0)
    for process in (writer, other):
        process.hear(7, [SAVE])
        assert [process.saves(step) for step in (7, 8, 9)] == [False, True, False]
    writer.saved()
    assert writer.asks(StopSignals()) == (0.0, 1.0)


def test_a_signal_that_another_received_counts_as_received():
    process = together(1)
    process.leave(StopSignals(), finished=False)
    process.hear(1, [STOP])
    process.leave(StopSignals(), finished=True)
    process.leave(stopped(), finished=False)  # who received it itself says so itself
    stop = StopSignals()
    with pytest.raises(Stopped):
        process.leave(stop, finished=False)
    assert stop.exit_status == 143


def test_what_the_others_met_is_added_to_ones_own():
    theirs = [{"skipped": {"truncated": 2}, "read": 30}, {"skipped": {"truncated": 1, "animated": 4}, "read": 40}]
    placement = Placement(process=0, processes=3)
    object.__setattr__(placement, "told", lambda value: [value, *theirs])
    process = Together(placement, math.inf)
    process.count({"animated": 100}, 1_000)
    assert process.skipped({"animated": 101}) == {"animated": 105, "truncated": 3}
    assert process.read(1_010) == 1_080


def test_one_alone_asks_nobody_and_stops_and_saves_at_once():
    alone = Together(ALONE, 0)
    assert alone.asks(stopped()) == ()
    alone.hear(1, [])
    assert alone.saves(1)
    assert not Together(ALONE, math.inf).saves(1)
    assert alone.stops(1, stopped())
    assert not alone.stops(1, StopSignals())
    with pytest.raises(Stopped), alone.leaving(stopped()):
        pass
    with together().leaving(stopped()):
        pass
    alone.count({"truncated": 1}, 9)
    assert (alone.skipped({"truncated": 1}), alone.read(9)) == ({"truncated": 1}, 9)
