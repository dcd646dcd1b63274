"""The processes of a run in its training loop: what each asks, and what all have agreed on."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from diptych.core.placement import Placement
from diptych.core.training.signals import Stopped, StopSignals


class Together:
    """Lets all processes stop and save after the same step, and adds up what each has met; one alone asks nobody.

    Of several each asks along with a step, and its answer, the largest that any of them asked, comes back among the
    logs of that step. These are read while the next step is under way, on every process behind the same one at the
    latest: what was asked in step n holds after step n + 1.

    Args:
        placement: of this process among all.
        save_seconds: between two saves.
    """

    ASKED = ("stop", "save")
    """The numbers that a process asks with, in their order."""

    def __init__(self, placement: Placement, save_seconds: float):
        self._placement, self._save_seconds = placement, save_seconds
        self._alone = placement.processes == 1
        self._stop_after = self._save_after = -1
        self._asked_to_save = False
        self._skipped: dict[str, int] = {}
        self._read = 0
        self.saved()

    def saved(self) -> None:
        """Counts the time to the next save from now on."""
        self._last_save, self._asked_to_save = time.monotonic(), False

    def asks(self, stop: StopSignals) -> tuple[float, ...]:
        """What this process asks along with a step: to stop, and, where it writes, to save."""
        if self._alone:
            return ()
        saves = self._time_to_save and self._placement.writes and not self._asked_to_save
        self._asked_to_save |= saves
        return float(stop.stop_requested), float(saves)

    def hear(self, step: int, answers: Sequence[np.ndarray]) -> None:
        """The answers of a step, one a piece of its batch, where any were asked for."""
        stop, save = np.max(answers, axis=0) if answers else (False, False)
        if stop and self._stop_after < 0:
            self._stop_after = step + 1
        if save:
            self._save_after = step + 1

    def stops(self, step: int, stop: StopSignals) -> bool:
        """Whether training ends when so many steps are done, because of a signal."""
        return stop.stop_requested if self._alone else 0 <= self._stop_after <= step

    def saves(self, step: int) -> bool:
        """Whether it is time to save when so many steps are done."""
        return self._time_to_save if self._alone else self._save_after == step

    def leaving(self, stop: StopSignals) -> AbstractContextManager:
        """Around what one process leaves at once when a signal comes; several go on until all stop."""
        return stop.leaving_at_once() if self._alone else nullcontext()

    def leave(self, stop: StopSignals, finished: bool) -> None:
        """Raises Stopped where training ended for a signal that another process received; it counts as received
        here.
        """
        if self._stop_after >= 0 and not finished and not stop.stop_requested:
            stop.received = "SIGTERM"
            raise Stopped

    def count(self, skipped: Mapping[str, int], read: int) -> None:
        """Learn what the others have met; all must ask, with what they have met themselves."""
        told = self._placement.told({"skipped": dict(skipped), "read": read})
        others = [one for number, one in enumerate(told) if number != self._placement.process]
        self._skipped, self._read = _added(*(one["skipped"] for one in others)), sum(one["read"] for one in others)

    def skipped(self, own: Mapping[str, int]) -> dict[str, int]:
        """Bad examples by reason, one's own and what others had met at the last count."""
        return _added(own, self._skipped)

    def read(self, own: int) -> int:
        """Examples met, likewise."""
        return own + self._read

    @property
    def _time_to_save(self) -> bool:
        return time.monotonic() - self._last_save >= self._save_seconds


def _added(*counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by name, added up."""
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total
