"""The verdict on a run: sentences for one that learned nothing, by measures that anybody can repeat."""

import math
from collections.abc import Mapping, Sequence

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

    - What `training_warnings` finds in its metrics.
    - Recall@1 is at most two standard errors, √(chance · (1 - chance) / queries), above what guessing gives, or cannot
      be any other.

    Args:
        rows: of the metrics, as `core.training.metrics.read_metrics` gives them.
        fresh: whether the weights were drawn, and not taken over.
        recall: recall@1 of the held-out captions, from 0 to 1.
        chance: of a picture drawn at random to be right, the mean over the captions.
        queries: how many captions there are.
    """
    found = training_warnings(rows, fresh=fresh)
    if chance == 1:
        return [
            *found,
            "All held-out captions are of one picture, which every guess finds: recall says nothing. Hold out more, by "
            "--val-fraction or --val-data.",
        ]
    return found + no_better_than_chance(
        "The right picture comes first for", recall, chance=chance, count=queries, of="held-out captions"
    )


def training_warnings(rows: Sequence[Mapping], *, fresh: bool) -> list[str]:
    """What the metrics of a run say is wrong with it, a sentence each.

    - Steps were skipped because they were not finite.
    - The mean loss of the last tenth of the steps (`mean_loss`) is not below the loss of the first step. Asked of runs
      of 20 steps or more that began with fresh weights, because a loss that goes on may rise with what is added to it.

    Args:
        rows, fresh: as for `warnings_of`.
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
    return found


def no_better_than_chance(what: str, share: float, *, chance: float, count: int, of: str) -> list[str]:
    """A sentence on a share of right answers that is at most two standard errors above what guessing gives; none for
    another.
    """
    if share > chance + STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / count):
        return []
    return [f"{what} {share:.1%} of {count:,} {of}, and guessing gives {chance:.1%}: that is no better than chance."]


def mean_loss(rows: Sequence[Mapping]) -> float:
    """The mean of the finite losses of rows, those of steps that were not skipped; NaN where there is none."""
    finite = [loss for row in rows if math.isfinite(loss := float(row["loss"]))]
    return sum(finite) / len(finite) if finite else math.nan


def before_training(rows: Sequence[Mapping]) -> dict[str, float]:
    """What the evaluation before the first step found, by name, with "validation_loss"; empty where there was none."""
    return _found(next((row for row in rows if "evaluation" in row and row["examples"] == 0), None))


def gained(rows: Sequence[Mapping]) -> str:
    """A sentence on what training changed of the numbers that were taken before it; empty where none were."""
    before = before_training(rows)
    after = _found(next((row for row in reversed(rows) if "evaluation" in row), None))
    changes = [
        f"{name} {_shown(name, before[name])} -> {_shown(name, after[name])}" for name in before if name in after
    ]
    return f"Before training and after: {', '.join(changes)}" if changes else ""


def _found(row: Mapping | None) -> dict[str, float]:
    if row is None:
        return {}
    loss = {"validation_loss": row["validation_loss"]} if "validation_loss" in row else {}
    return {**row["evaluation"], **loss}


def _shown(name: str, value: float) -> str:
    return f"{value:.4g}" if name == "validation_loss" else f"{value:.1%}"
