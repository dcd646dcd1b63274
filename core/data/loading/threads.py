"""Threads for what may hang, such as a read from a storage that does not answer: nothing ever waits for their end."""

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_GRACE_SECONDS = 2.0


class DaemonThreads:
    """Carries calls out in the order in which they are submitted, in so many threads.

    As a `ThreadPoolExecutor`, but for the end: neither `close` nor the end of the process waits for a call that does
    not return.
    """

    def __init__(self, count: int, name: str):
        self._calls: queue.SimpleQueue[tuple[Future, Callable[..., Any], tuple] | None] = queue.SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """What `function` will return; raises RuntimeError once closed."""
        if self._closed:
            raise RuntimeError("The threads are closed: no more calls are taken.")
        future: Future = Future()
        self._calls.put((future, function, arguments))
        return future

    def cancel(self) -> None:
        """Drops the calls that have not begun, and takes no more."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while call := self._calls.get_nowait():
                call[0].cancel()
        for _ in self._threads:
            self._calls.put(None)

    def close(self, grace_seconds: float = _GRACE_SECONDS) -> None:
        """As `cancel`, then waits for the calls under way, but no longer than the grace."""
        self.cancel()
        for thread in self._threads:
            thread.join(grace_seconds)
            grace_seconds = 0 if thread.is_alive() else grace_seconds

    def _serve(self) -> None:
        while call := self._calls.get():
            future, function, arguments = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
            del call, future, function, arguments  # a thread that waits keeps nothing alive
