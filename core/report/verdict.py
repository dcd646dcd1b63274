"""The verdict on a run: sentences for one that learned nothing, by measures that anybody can repeat."""

import math
from collections.abc import Mapping, Sequence

from diptych.core.training.best import LOSS, shown

FEWEST_STEPS = 20
STANDARD_ERRORS = 2.0


def warnings_of(
    rows: Sequence[Mapping],
    *,
    fresh: bool,
    recall: float,
    chance: float,
    queries: int,
) -> list[str]:
    """What is wrong with a run that has ended, a sentence each; empty where nothing is.

    - Steps were skipped because they were not finite.
    - The mean loss of the last tenth of the steps (`mean_loss`) is not below the loss of the first step. Asked of runs
      of 20 steps or more that began with fresh weights, because a loss that goes on may rise with what is added to it.
    - Recall@1 is at most two standard errors, √(chance · (1 - chance) / queries), above what guessing gives.

    Args:
        rows: of the metrics, as `core.training.metrics.read_metrics` gives them.
        fresh: whether the weights were drawn, and not taken over.
        recall: recall@1 of the held-out captions, from 0 to 1.
        chance: of a picture drawn at random to be right, the mean over the captions.
        queries: how many captions there are.
    """
    steps = [row for row in rows if "loss" in row]
    found = []
    if steps and (skipped := steps[-1].get("skipped_steps", 0)):
        found.append(f"{skipped:,} of {steps[-1]['step']:,} steps were skipped, because they were not finite.")
    if fresh and len(steps) >= FEWEST_STEPS:
        first, last = float(steps[0]["loss"]), mean_loss(steps[-(len(steps) // 10) :])
        if not last < first:
            rate = max(row.get("learning_rate", math.nan) for row in steps)
            found.append(
                f"The loss ended at {last:.4g}, and it began with {first:.4g}: nothing was learned. Lower "
                f"--learning-rate (its highest was {rate:.3g}) or raise --warmup-examples."
            )
    if recall <= chance + STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / queries):
        found.append(
            f"The right picture comes first for {recall:.1%} of {queries:,} held-out captions, and guessing gives "
            f"{chance:.1%}: that is no better than chance."
        )
    return found


def mean_loss(rows: Sequence[Mapping]) -> float:
    """The mean of the finite losses of rows, those of steps that were not skipped; NaN where there is none."""
    finite = [loss for row in rows if math.isfinite(loss := float(row["loss"]))]
    return sum(finite) / len(finite) if finite else math.nan


def before_training(rows: Sequence[Mapping]) -> dict[str, float]:
    """What the evaluation before the first step found, by name, with the loss; empty where there was none."""
    return _found(next((row for row in rows if "evaluation" in row and row["examples"] == 0), None))


def gained(rows: Sequence[Mapping]) -> str:
    """A sentence on what training changed of the numbers that were taken before it; empty where none were."""
    before = before_training(rows)
    after = _found(next((row for row in reversed(rows) if "evaluation" in row), None))
    changes = [f"{quantity(name, before[name])} -> {shown(name, after[name])}" for name in before if name in after]
    return f"Before training and after: {', '.join(changes)}" if changes else ""


def best_text(best: Mapping) -> str:
    """A few words on the best evaluation of a run, as its results have it."""
    value = quantity(best["by"], best["value"])
    if best["examples"] == 0:
        return f"Best before the first step, with {value}; nothing after it was better"
    where = "at its end" if best["evaluations_since"] == 0 else f"after {best['examples']:,} examples"
    return f"Best {where}, with {value}"


def quantity(name: str, value: float) -> str:
    """A number of an evaluation with its name, for people."""
    return f"{'validation loss' if name == LOSS else name} {shown(name, value)}"


def _found(row: Mapping | None) -> dict[str, float]:
    if row is None:
        return {}
    loss = {LOSS: row["validation_loss"]} if "validation_loss" in row else {}
    return {**row["evaluation"], **loss}
