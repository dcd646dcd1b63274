"""Signals that ask a run to stop: the first lets it save and leave, the second kills at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Self

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")


class Stopped(BaseException):
    """A signal asked to stop, and what was under way has been left.

    As `KeyboardInterrupt` it is no `Exception`, so that nothing on the way takes it for an error that it can deal with.
    """


class StopSignals:
    """While entered, the first SIGINT, SIGTERM, SIGUSR1 or SIGHUP sets `stop_requested`; a second one has the system's
    default effect.

    Within `leaving_at_once` the first one also raises `Stopped`, wherever the program is: in a wait for data, in an
    evaluation, while a model is built. That is for work that can be dropped in the middle. What cannot, such as a step
    or a checkpoint, stands outside of it or within `finishing_first`, and asks for `stop_requested` afterwards.

    The default effect of all four ends the process without running any Python, so it works also inside a long
    compilation. A signal that is ignored on entering (SIGHUP under nohup) stays ignored. On leaving, the handlers found
    on entering are put back. Outside the main thread Python allows no handlers; then nothing is caught.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._leaves_at_once = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def stop_requested(self) -> bool:
        return self.received is not None

    @property
    def exit_status(self) -> int:
        """0, or the status by which shells and schedulers know the signal: 130 SIGINT, 143 SIGTERM, 138 SIGUSR1, 129
        SIGHUP.
        """
        return 128 + signal.Signals[self.received] if self.received else 0

    @contextlib.contextmanager
    def leaving_at_once(self) -> Iterator[None]:
        """In the block a signal raises `Stopped` where it comes; entering it after one does so, too."""
        with self._leaving(at_once=True):
            if self.stop_requested:
                raise Stopped
            yield

    @contextlib.contextmanager
    def finishing_first(self) -> Iterator[None]:
        """In the block a signal is only remembered; one within `leaving_at_once` raises `Stopped` at its end."""
        with self._leaving(at_once=False):
            yield
        if self._leaves_at_once and self.stop_requested:
            raise Stopped

    @contextlib.contextmanager
    def _leaving(self, *, at_once: bool) -> Iterator[None]:
        before, self._leaves_at_once = self._leaves_at_once, at_once
        try:
            yield
        finally:
            self._leaves_at_once = before

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.Signals[name] for name in STOP_SIGNALS if hasattr(signal, name)):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, _frame: object) -> None:
        self.received = signal.Signals(number).name
        for other in self._previous:
            signal.signal(other, signal.SIG_DFL)
        show_cursor = "\x1b[?25h" if _is_terminal(2) else ""
        text = (
            f"{show_cursor}\n{self.received}: saving what is done, then leaving. "
            "Once more leaves at once, without saving.\n"
        )
        # A handler may interrupt a print, and streams are not reentrant: write to the descriptor.
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
        if self._leaves_at_once:
            raise Stopped


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
