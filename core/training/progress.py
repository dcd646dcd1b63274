"""Progress of a training run for the person watching: step, loss, speed, time left."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Self, TextIO

from diptych.core.progress import ProgressDisplay, format_duration

WINDOW_S = 30.0
MIN_WINDOW_STEPS = 5


class Progress:
    """Shows step, loss, examples a second, learning rate, utilisation and the time left.

    The speed is that of the last 30 s (at least 5 steps) of this process; the first step, which compiles, is not
    counted, and neither are steps done before a resume.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        batch_size: int = 1,
        *,
        interval_s: float = 10.0,
        stream: TextIO | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total_steps, self.batch_size = total_steps, batch_size
        self._display = ProgressDisplay(
            "step",
            total_steps,
            start_step,
            waiting="first step (compiles)",
            interval_s=interval_s,
            stream=stream,
            live=live,
        )
        self._clock = clock
        self._step = start_step
        self._logs: Mapping[str, Any] = {}
        self._window: deque[tuple[float, int]] = deque()
        self._shown_step: int | None = None

    @property
    def examples_per_second(self) -> float | None:
        """Speed over the window; None until two steps have been seen."""
        if len(self._window) < 2:
            return None
        (first_time, first_step), (last_time, last_step) = self._window[0], self._window[-1]
        return (last_step - first_step) * self.batch_size / max(last_time - first_time, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the speed over the window; None until it is known."""
        speed = self.examples_per_second
        return None if not speed else (self.total_steps - self._step) * self.batch_size / speed

    def restart(self) -> None:
        """Measure the speed anew from the next step's end on."""
        self._window.clear()

    def update(self, step: int, logs: Mapping[str, Any]) -> None:
        """Say that `step` steps are done. `logs` may hold loss, learning_rate, utilisation (0..1) and anything else of
        one number.

        Values become Python floats only when they are shown, so arrays still being computed on a device are not waited
        for each step.
        """
        now = self._clock()
        self._step, self._logs = step, logs
        self._window.append((now, step))
        while len(self._window) > MIN_WINDOW_STEPS and now - self._window[1][0] > WINDOW_S:
            self._window.popleft()
        if self._display.due(now) or step >= self.total_steps:
            self._show(now)

    def message(self, text: str) -> None:
        """Print a line of text, above the bar where there is one."""
        self._display.message(text)

    def close(self) -> None:
        """Show the last state and leave the terminal as it was; a second call does nothing."""
        if self._shown_step != self._step and self._window:
            self._show(self._clock())
        self._display.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, now: float) -> None:
        self._shown_step = self._step
        self._display.show(now, self._step, self._figures())

    def _figures(self) -> list[str]:
        parts = []
        if "loss" in self._logs:
            parts.append(f"loss {float(self._logs['loss']):.4f}")
        if (speed := self.examples_per_second) is not None:
            parts.append(f"{speed:,.0f} examples/s" if speed >= 10 else f"{speed:.2g} examples/s")
        if (seconds := self.seconds_left) is not None:
            parts.append(f"{format_duration(seconds)} left")
        if "learning_rate" in self._logs:
            parts.append(f"lr {float(self._logs['learning_rate']):.2e}")
        if self._logs.get("utilisation") is not None:
            parts.append(f"utilisation {float(self._logs['utilisation']):.0%}")
        return parts
