"""Several processes that train together: what each asks, and what all have agreed on."""

from collections.abc import Mapping, Sequence

import numpy as np

from diptych.core.placement import Placement
from diptych.core.training.signals import StopSignals


class Together:
    """Lets all processes stop and save after the same step, and adds up what each has met.

    A process asks along with a step, and its answer, the largest that any of them asked, comes back among the logs of
    that step. These are read while the next step is under way, on every process behind the same one at the latest: what
    was asked in step n holds after step n + 1.

    Attributes:
        skipped, read: bad examples by reason, and all examples, that other processes had met at the last count.
    """

    def __init__(self, placement: Placement):
        self._placement = placement
        self._stop = self._save = -1
        self._asked_to_save = False
        self.skipped: dict[str, int] = {}
        self.read = 0

    def asks(self, stop: StopSignals, saves: bool) -> tuple[float, float]:
        """What this process asks along with a step: to stop, and, where it writes, to save."""
        saves = saves and self._placement.writes and not self._asked_to_save
        self._asked_to_save |= saves
        return float(stop.stop_requested), float(saves)

    def hear(self, step: int, answers: Sequence[np.ndarray]) -> None:
        """The answers of a step, one a piece of its batch."""
        stop, save = np.max(answers, axis=0)
        if stop and self._stop < 0:
            self._stop = step + 1
        if save:
            self._save = step + 1

    def stops_after(self, step: int) -> bool:
        """Whether all stop when so many steps are done."""
        return 0 <= self._stop <= step

    def saves_after(self, step: int) -> bool:
        """Whether all save when so many steps are done."""
        return self._save == step

    def stopped_by_another(self, stop: StopSignals, finished: bool) -> bool:
        """Whether training ended for a signal that another process received; it counts as received here."""
        if finished or self._stop < 0 or stop.stop_requested:
            return False
        stop.received = "SIGTERM"
        return True

    def count(self, skipped: Mapping[str, int], read: int) -> None:
        """Learn what the others have met; all must ask, with what they have met themselves."""
        told = self._placement.told({"skipped": dict(skipped), "read": read})
        others = [one for number, one in enumerate(told) if number != self._placement.process]
        self.skipped, self.read = added(*(one["skipped"] for one in others)), sum(one["read"] for one in others)
        self._asked_to_save = False


def added(*counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by name, added up."""
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total
