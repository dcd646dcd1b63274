"""Failures that the person can mend, which end a recipe with a sentence and not with a traceback."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from diptych.core.files.errors import Failure
from diptych.core.training.signals import Stopped, StopSignals
from diptych.engine.flags import with_flags

EXPECTED = (Failure, ImportError, MemoryError, OSError, ValueError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def exit_status(run: Callable[[], int], options: object = None) -> int:
    """What `run` returns; 1, and the error in a sentence, where it raises an expected one; 130 after Ctrl-C.
    DIPTYCH_TRACEBACK=1 shows it all.

    Args:
        run: a recipe, after its command line.
        options: what the command line gave; a message that names one of their fields is shown with its flag.
    """
    try:
        with _any_name_printed():
            return run()
    except EXPECTED as error:
        if os.environ.get("DIPTYCH_TRACEBACK"):
            raise
        print(f"\n{type(error).__name__}: {with_flags(_sentence(error), options)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped by SIGINT.", file=sys.stderr)
        return 128 + signal.SIGINT


def stoppable(work: Callable[[StopSignals], int]) -> int:
    """What `work` returns; where a signal stops it, the status by which shells know the signal.

    Args:
        work: which the same command takes up again.
    """
    with StopSignals() as stop:
        try:
            return work(stop)
        except Stopped:
            print(f"\nStopped by {stop.received}. The same command goes on from there.", flush=True)
            return stop.exit_status


@contextmanager
def _any_name_printed() -> Iterator[None]:
    """Names of files and captions that have no bytes in the terminal's encoding are printed as escapes."""
    terminal = sys.stdout
    if not isinstance(terminal, TextIOWrapper) or terminal.errors != "strict":
        yield
        return
    terminal.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        terminal.reconfigure(errors="strict")


def _sentence(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"There is no memory left{f' ({error})' if str(error) else ''}. A smaller --batch-size needs less."
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{error}. Free some space, then give the same command again."
    return str(error)
