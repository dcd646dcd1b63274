"""Threads give what their calls return, and nobody waits for a call that hangs."""

import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from diptych.core.data.loading.threads import DaemonThreads

HANGS = """
import threading
from diptych.core.data.loading.threads import DaemonThreads
DaemonThreads(1, "test").submit(threading.Event().wait)
"""


def test_calls_give_their_results_and_errors_in_order():
    threads = DaemonThreads(2, "test")
    assert [future.result(5) for future in [threads.submit(pow, base, 2) for base in range(20)]] == [
        base**2 for base in range(20)
    ]
    with pytest.raises(ZeroDivisionError):
        threads.submit(divmod, 1, 0).result(5)
    threads.close()
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(pow, 1, 1)


def test_closing_drops_what_has_not_begun_and_does_not_wait_for_what_hangs():
    threads, begun, end = DaemonThreads(1, "test"), threading.Event(), threading.Event()
    hanging = threads.submit(lambda: (begun.set(), end.wait()))
    waiting = threads.submit(pow, 2, 2)
    assert begun.wait(5)
    started = time.monotonic()
    threads.close(grace_seconds=0.05)
    assert time.monotonic() - started < 2
    with pytest.raises(CancelledError):
        waiting.result(1)
    assert not hanging.done()
    end.set()


def test_the_end_of_the_process_does_not_wait_either():
    subprocess.run([sys.executable, "-c", HANGS], check=True, timeout=30)
