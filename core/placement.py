"""The place of a run: this process among all that carry it out, and the devices that it computes on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def _alone(said: bytes) -> list[bytes]:
    return [said]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One process of a run; made by `diptych.backends.join`, and handed to all that must know of it.

    Attributes:
        process: its number, from 0.
        processes: how many carry the run out together.
        devices: of this process, that share each of its batches.
        fsdp: over how many devices of all processes weights, slots, averages and teacher are spread, neighbours each
            with a part; 1 where every device holds all of them.
        zero: whether slots, averages and teacher alone are spread, over all processes.
        gather: what all processes say, by their numbers, on each of them; all must speak, in the same order.

    Raises:
        ValueError: for numbers that cannot be.
    """

    process: int = 0
    processes: int = 1
    devices: int = 1
    fsdp: int = 1
    zero: bool = False
    gather: Callable[[bytes], list[bytes]] = field(default=_alone, repr=False, compare=False)

    def __post_init__(self):
        if not 0 <= self.process < self.processes or self.devices < 1:
            raise ValueError(
                f"A run has processes 0 to n - 1, each with a device or more; got process {self.process} of "
                f"{self.processes} and {self.devices} devices."
            )
        if self.fsdp < 1 or self.processes * self.devices % self.fsdp:
            raise ValueError(
                f"--fsdp {self.fsdp} spreads the state of a run over so many of its devices, and must divide their "
                f"number; there are {self.processes * self.devices} ({self.processes} processes with {self.devices} "
                "each)."
            )

    @property
    def writes(self) -> bool:
        """Whether this process writes what the run leaves, and talks; one of them does."""
        return self.process == 0

    def rows(self, batch_size: int, pieces: int = 1) -> tuple[range, ...]:
        """The rows of a batch that are this process's own: its part of each piece into which the batch is cut, so that
        the processes' first pieces together are the first piece of the batch.

        Raises:
            ValueError: where the batch cannot be dealt out evenly.
        """
        among = pieces * self.processes * self.devices
        if batch_size % among:
            cut = f", in {pieces} pieces," if pieces > 1 else ""
            raise ValueError(
                f"A batch of {batch_size} cannot be dealt out evenly{cut} over {self.processes} processes with "
                f"{self.devices} devices each: choose a --batch-size that is a multiple of {among}."
            )
        if self.processes == 1:
            return (range(batch_size),)
        piece, own = batch_size // pieces, batch_size // pieces // self.processes
        firsts = (number * piece + self.process * own for number in range(pieces))
        return tuple(range(first, first + own) for first in firsts)

    def told(self, value: Any) -> list[Any]:
        """What each process says, JSON-ready, by their numbers; all must speak."""
        return (
            [value] if self.processes == 1 else [json.loads(said) for said in self.gather(json.dumps(value).encode())]
        )

    def wait(self) -> None:
        """Returns when all processes have come so far."""
        self.gather(b"")

    def check_same(self, value: Any, what: str) -> None:
        """Raises ValueError, on every process, where one of them has another value than the rest."""
        each = self.told(value)
        if any(one != each[0] for one in each):
            listed = "; ".join(f"process {number}: {one}" for number, one in enumerate(each))
            raise ValueError(f"The processes of a run differ in {what}: {listed}.")


ALONE = Placement()
"""One process with one device."""

_COUNTS = (
    "WORLD_SIZE",  # torchrun, accelerate
    "OMPI_COMM_WORLD_SIZE",  # Open MPI
    "PMI_SIZE",  # MPICH, Intel MPI
    "SLURM_STEP_NUM_TASKS",  # srun
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
)


def launched(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which a launcher says that it started this process as one of several; none where it is alone.

    Slurm's SLURM_NTASKS alone does not mean that: a batch script has it, too, and is one process. srun's step has
    SLURM_STEP_NUM_TASKS, and a task other than the first a SLURM_PROCID above 0.
    """
    found = {name: environment.get(name, "") for name in _COUNTS}
    many = {name: count for name, count in found.items() if count.isdecimal() and int(count) > 1}
    if (number := environment.get("SLURM_PROCID", "")).isdecimal() and int(number) > 0:
        many["SLURM_PROCID"] = number
    if (workers := _tensorflow_workers(environment.get("TF_CONFIG", ""))) > 1:
        many["TF_CONFIG"] = f"{workers} workers"
    return many


def _tensorflow_workers(config: str) -> int:
    try:
        cluster = json.loads(config)["cluster"]
        return sum(len(cluster.get(role, ())) for role in ("chief", "master", "worker"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return 0
