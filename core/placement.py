"""The place of a run: this process among all that carry it out, and the devices that it computes on."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One process of a run; made by `diptych.backends.placement`, and handed to all that must know of it.

    Attributes:
        process: its number, from 0.
        processes: how many carry the run out together.
        devices: of this process, that share each of its batches.

    Raises:
        ValueError: for numbers that cannot be.
    """

    process: int = 0
    processes: int = 1
    devices: int = 1

    def __post_init__(self):
        if not 0 <= self.process < self.processes or self.devices < 1:
            raise ValueError(
                f"A run has processes 0 to n - 1, each with a device or more; got process {self.process} of "
                f"{self.processes} and {self.devices} devices."
            )

    @property
    def writes(self) -> bool:
        """Whether this process writes what the run leaves, and talks; one of them does."""
        return self.process == 0

    def rows(self, batch_size: int) -> slice:
        """The rows of each batch of the run that are this process's own.

        Raises:
            ValueError: where the batch cannot be dealt out evenly.
        """
        if batch_size % (self.processes * self.devices):
            raise ValueError(
                f"A batch of {batch_size} cannot be dealt out evenly over {self.processes} processes with "
                f"{self.devices} devices each: choose a --batch-size that is a multiple of "
                f"{self.processes * self.devices}."
            )
        own = batch_size // self.processes
        return slice(self.process * own, (self.process + 1) * own)


ALONE = Placement()
"""One process with one device."""
