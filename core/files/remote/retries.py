"""Requests that are made again after a while, each time after a longer one, as long as there is hope."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from diptych.core.files.errors import RemoteError
from diptych.core.files.remote.store import TryAgain

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Retries:
    """How often something is asked, and how long is waited in between.

    attempts: requests in all.   first_seconds: the wait after the first, which doubles from one to the next.
    longest_seconds: no wait is longer, not even one that the server asks for.
    """

    attempts: int = 8
    first_seconds: float = 0.5
    longest_seconds: float = 60.0

    def answer(self, what: str, ask: Callable[[], Answer]) -> Answer:
        """What `ask` returns, asked again as long as it raises `TryAgain`.

        Args:
            what: the address that is asked, for the error.

        Raises:
            RemoteError: when it is given up.
        """
        begun = time.monotonic()
        for attempt in range(self.attempts):
            try:
                return ask()
            except TryAgain as error:
                last = error
            if attempt + 1 < self.attempts:
                time.sleep(self._wait(attempt, last))
        raise RemoteError(
            f"{what} could not be read: {last}. It was asked {self.attempts} times in "
            f"{time.monotonic() - begun:.0f} s. See whether the server can be reached and is well, then give the same "
            "command again."
        )

    def _wait(self, attempt: int, error: TryAgain) -> float:
        # Between half and all of it, so that many readers that failed together do not come back together.
        wait = self.first_seconds * 2**attempt * _JITTER.uniform(0.5, 1.0)
        return min(self.longest_seconds, max(wait, error.after or 0.0))


_JITTER = random.Random()  # of its own: the program's random numbers are not touched
USUAL = Retries()
