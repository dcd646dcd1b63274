"""Contestants timed in turn, so that whatever else the machine does hits all, and compared round by round."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

PAUSE = 0.02
"""Seconds before each call: threads of the one before, which wait for more work at full speed, come to rest."""


def take_turns(
    contestants: Mapping[str, Callable[[], Any]], rivals: Mapping[str, str], *, repeats: int
) -> dict[str, dict[str, float]]:
    """Calls each once, which compiles it, then all in turn, `repeats` times.

    Args:
        contestants: functions that return when their result is there.
        rivals: contestant -> the one it is compared with.

    Returns:
        name -> "ms" and "fastest_ms" of a call by the clock, "cpu_ms" of this process's threads, and how the rival
        compares: "ratio" and "cpu_ratio", the medians over the rounds of own time / the rival's. Above 1, the rival is
            the faster.
    """
    for call in contestants.values():
        call()
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for name in _turns(contestants, repeats):
        time.sleep(PAUSE)
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        contestants[name]()
        wall[name].append(time.perf_counter() - wall_start)
        cpu[name].append(time.process_time() - cpu_start)
    return {
        name: {
            "ms": statistics.median(wall[name]) * 1e3,
            "fastest_ms": min(wall[name]) * 1e3,
            "cpu_ms": statistics.median(cpu[name]) * 1e3,
            "ratio": _median_ratio(wall[name], wall[rivals[name]]),
            "cpu_ratio": _median_ratio(cpu[name], cpu[rivals[name]]),
        }
        for name in contestants
    }


def training_steps(
    steps: Mapping[str, Callable[[Any], float]],
    rivals: Mapping[str, str],
    batch: Any,
    *,
    repeats: int,
    tolerance: float,
    amount: int,
    unit: str,
) -> dict[str, dict[str, float]]:
    """Steps that must learn the same, in turn as by `take_turns`; prints a line of each.

    Args:
        steps: each takes a step on the batch and returns its loss.
        tolerance: relative, of the losses of the first three steps.
        amount, unit: what a batch has of which the rate is told, such as 8 "images".

    Raises:
        SystemExit: the losses differ.
    """
    losses = {name: [step(batch) for _ in range(3)] for name, step in steps.items()}
    first = next(iter(losses.values()))
    if not all(
        math.isclose(*pair, rel_tol=tolerance) for found in losses.values() for pair in zip(found, first, strict=True)
    ):
        raise SystemExit(f"The losses differ, so no time is reported: {losses}")
    times = take_turns({name: partial(step, batch) for name, step in steps.items()}, rivals, repeats=repeats)
    for name, row in times.items():
        print(
            f"  {name:<20}{row['ms']:9.1f} ms {1e3 * amount / row['ms']:10,.1f} {unit} a second  {row['ratio']:.2f} of "
            f"{rivals[name]}, {row['cpu_ratio']:.2f} in CPU time"
        )
    return times


def _median_ratio(times: list[float], rival: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(times, rival, strict=True))


def in_turn(
    contestants: Mapping[str, Callable[[], Any]],
    elapsed: Callable[[Callable[[], Any], int], float],
    *,
    rounds: int,
    seconds: float = 0.0,
    most: int = 200,
) -> dict[str, list[float]]:
    """Seconds of a call of each, once a round, all in turn.

    Args:
        contestants: functions, each called once before anything counts; they need not wait for their result.
        elapsed: `(call, calls)` -> the seconds that so many calls in a row take, results included.
        seconds: about as long each is called in a row, which hides what it costs to start and to wait; at most `most`
            times.
    """
    calls = dict.fromkeys(contestants, 1)
    for name, call in contestants.items():
        elapsed(call, 1)
        if seconds:
            calls[name] = max(1, min(most, round(seconds / max(elapsed(call, 1), 1e-9))))
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for name in _turns(contestants, rounds):
        taken[name].append(elapsed(contestants[name], calls[name]) / calls[name])
    return taken


def by_clock(call: Callable[[], Any], calls: int, wait: Callable[[Any], None]) -> float:
    """Seconds that so many calls in a row take, and the wait for the last one's result."""
    start = time.perf_counter()
    for _ in range(calls):
        result = call()
    wait(result)
    return time.perf_counter() - start


def _turns(names: Iterable[str], rounds: int) -> Iterator[str]:
    """Every name once a round; none comes always after the same."""
    names = list(names)
    for turn in range(rounds):
        for place in range(len(names)):
            yield names[(turn + place) % len(names)]
