"""The writing of checkpoints while training goes on: parts by a thread of each process, then the whole."""

import secrets
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diptych.core.placement import Placement
from diptych.core.training.checkpoint import CheckpointError, Saving
from diptych.core.training.checkpoint_parts import Pieces


class BackgroundSaving:
    """Writes one checkpoint after another, each by a thread of its own, of which one at a time is under way.

    Every process writes its part. That it is on the disk the others hear with what they ask each other in each step
    (`asks`, `hear`), and when that is so of all, the first process makes the checkpoint of them. A process alone goes
    on to that at once.

    Made by all processes together, before the first step.

    Args:
        folder: of the checkpoints, the same for all processes.
        placement: of this process among all.
    """

    def __init__(self, folder: Path, placement: Placement):
        self._folder, self._placement = folder, placement
        self._alone = placement.processes == 1
        self._attempt = "" if self._alone else placement.told(secrets.token_hex(4))[0]
        self._under_way: _UnderWay | None = None
        self._failed_after = -1

    def begin(self, step: int, pieces: Pieces, state: Mapping, failed: OSError | None = None) -> None:
        """Begins to write this process's part of the checkpoint of a step; the one before must be settled.

        Args:
            pieces: in memory that nobody else changes; the list is emptied once they are written.
            state: see `checkpoint.save`; the first process's counts.
            failed: why this process cannot write its part.
        """
        assert self._under_way is None, "the checkpoint before is not settled"
        part, parts = self._placement.process + 1, self._placement.processes
        saving = Saving(self._folder, step, part=part, parts=parts, attempt=self._attempt)
        self._under_way = _UnderWay(saving, pieces, state, completes=self._placement.writes, failed=failed)
        if self._alone:
            self._under_way.agree(complete=True)
        self._under_way.start()

    @property
    def asks(self) -> tuple[float, float]:
        """What this process asks along with a step: whether its part is not written yet, and whether it never will."""
        now = self._under_way
        return (float(not now.written.is_set()), float(now.error is not None)) if now else (0.0, 0.0)

    def hear(self, step: int, answers: Sequence[np.ndarray]) -> None:
        """The answers of a step, one a piece of its batch, that was taken after `begin`: the largest of any process."""
        if self._under_way is None:
            return
        unwritten, failed = np.max(answers, axis=0)
        if failed and self._failed_after < 0:
            self._failed_after = step + 1
        elif not unwritten and not failed:
            self._under_way.agree(complete=True)

    def failed(self, step: int) -> bool:
        """Whether all know, when so many steps are done, that the checkpoint under way has failed."""
        if self._alone:
            return self._under_way is not None and self._under_way.error is not None
        return 0 <= self._failed_after <= step

    def settle(self) -> str | None:
        """Waits for the checkpoint under way; where it failed, returns what all processes had to say. All must call it,
        between the same steps.
        """
        now = self._under_way
        if now is None:
            return None
        now.written.wait()
        failed = self._told(now)
        now.agree(complete=failed is None)
        now.join()
        failed = failed or self._told(now)
        if failed is not None and self._placement.writes:
            now.saving.abandon()
        self._under_way, self._failed_after = None, -1
        if now.error is not None and not isinstance(now.error, (CheckpointError, OSError)):
            raise now.error
        return failed

    def leave(self) -> None:
        """Lets go of what is under way, where an error ends this process and the others know nothing of it."""
        if self._under_way is not None:
            self._under_way.agree(complete=False)
            self._under_way = None

    def _told(self, now: "_UnderWay") -> str | None:
        """What failed on any process, by name."""
        said = None if now.error is None else [socket.gethostname(), str(now.error) or repr(now.error)]
        told = self._placement.told(said)
        if self._alone:
            return told[0] and told[0][1]
        return " ".join(f"Process {n} on {one[0]} {one[1]}" for n, one in enumerate(told) if one) or None


class _UnderWay(threading.Thread):
    """The writing of one checkpoint by one process.

    Attributes:
        written: set once its part is on the disk, or has failed.
        error: of what failed.
    """

    def __init__(
        self, saving: Saving, pieces: Pieces, state: Mapping, *, completes: bool, failed: Exception | None = None
    ):
        super().__init__(name="checkpoint", daemon=True)  # a process that an error ends does not wait for it
        self.saving, self._pieces, self._state, self._completes = saving, pieces, state, completes
        self.written = threading.Event()
        self.error = failed
        self._agreed, self._complete = threading.Event(), False

    def agree(self, *, complete: bool) -> None:
        """Whether the parts of all processes are there, or one of them never will be."""
        if not self._agreed.is_set():
            self._complete = complete
            self._agreed.set()

    def run(self) -> None:
        if self.error is None:
            try:
                self.saving.write(self._pieces, self._state)
            except Exception as error:
                self.error = error
        self._pieces.clear()
        self.written.set()
        if self.error is not None or not self._completes:
            return
        self._agreed.wait()
        if self._complete:
            try:
                self.saving.complete()
            except Exception as error:
                self.error = error
