"""Named places where a test may kill the process, to prove that a run survives being killed there.

The environment variable ``DIPTYCH_FAULT_AT="name"`` or ``"name:nth"`` ends the process with status 137 (what a shell
reports after ``kill -9``) the first, or the nth, time that place is reached. Nothing is flushed and no handler runs, as
under a real SIGKILL. Unset, it costs one look-up.
"""

import os
from collections import Counter

FAULT_VARIABLE = "DIPTYCH_FAULT_AT"
FAULT_STATUS = 137
FAULT_POINTS = (
    "after_tensors",
    "after_part",
    "before_manifest",
    "before_fsync",
    "before_rename",
    "after_rename",
    "during_prune",
)

_visits: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """End the process here when ``DIPTYCH_FAULT_AT`` names this place and this visit.

    Raises: ValueError when the variable names no known place, so that a typing mistake cannot make a crash test pass.
    """
    wanted = os.environ.get(FAULT_VARIABLE)
    if not wanted:
        return
    wanted_name, _, nth = wanted.partition(":")
    if wanted_name not in FAULT_POINTS or (nth and not nth.isdecimal()):
        raise ValueError(
            f"{FAULT_VARIABLE}={wanted!r}: expected 'name' or 'name:nth' with a name of {', '.join(FAULT_POINTS)}"
        )
    _visits[name] += 1
    if name == wanted_name and _visits[name] == int(nth or 1):
        os._exit(FAULT_STATUS)
