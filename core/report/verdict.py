"""The verdict on a run: what training changed and what is wrong with it, by measures that anybody can repeat."""

import math
from collections.abc import Mapping, Sequence

from diptych.core.training.best import LOSS, BestEvaluation, shown
from diptych.core.training.metrics import MetricsRow

FEWEST_STEPS = 20
FEWEST_AVERAGED = 5
ROSE = 1.5
STANDARD_ERRORS = 2.0


def warnings_of(
    rows: Sequence[MetricsRow],
    *,
    fresh: bool,
    recall: float,
    chance: float,
    queries: int,
    settled_after: int = 0,
    max_logit_scale: float | None = None,
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
        settled_after, max_logit_scale: as for `training_warnings`.
    """
    found = training_warnings(rows, fresh=fresh, settled_after=settled_after, max_logit_scale=max_logit_scale)
    if chance == 1:
        found.append(
            "All held-out captions are of one picture, which every guess finds: recall says nothing. Hold out more, by "
            "--val-fraction or --val-data."
        )
        return found
    return found + no_better_than_chance(
        "The right picture comes first for", recall, chance=chance, count=queries, of="held-out captions"
    )


def no_better_than_chance(what: str, share: float, *, chance: float, count: int, of: str) -> list[str]:
    """A sentence on a share of right answers that is at most two standard errors above what guessing gives; none for
    another.
    """
    if share > chance + STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / count):
        return []
    return [f"{what} {share:.1%} of {count:,} {of}, and guessing gives {chance:.1%}: that is no better than chance."]


def training_warnings(
    rows: Sequence[MetricsRow], *, fresh: bool, settled_after: int = 0, max_logit_scale: float | None = None
) -> list[str]:
    """What the metrics of a run say is wrong with it, at its end or on the way, a sentence each.

    - Steps were skipped because they were not finite.
    - The mean loss of the last tenth of the steps (`mean_loss`) is not below the loss of the first step. Asked of runs
      of 20 steps or more that began with fresh weights, because a loss that goes on may rise with what is added to it.
    - That mean is 1.5 times the least mean of as many steps before, or the validation loss 1.5 times its least.
    - The scale of the logits is at its bound.

    Args:
        rows, fresh: as for `warnings_of`.
        settled_after: examples after which all batches are of one kind; before them the loss says nothing of those
            after.
        max_logit_scale: the bound of the scale; None for none.
    """
    steps = [row for row in rows if "loss" in row]
    if not steps:
        return []
    last = steps[-1]
    found = []
    if skipped := last.get("skipped_steps", 0):
        found.append(f"{skipped:,} of {last['step']:,} steps were skipped, because they were not finite.")
    rate = max(row.get("learning_rate", math.nan) for row in steps)
    lower = f"Lower --learning-rate (its highest was {rate:.3g})"
    if nothing := _nothing_learned(steps) if fresh else "":
        found.append(f"{nothing} {lower} or raise --warmup-examples.")
    elif rose := _rose([row for row in steps if row.get("examples", math.inf) > settled_after]):
        found.append(f"{rose} {lower}.")
    if rose := _rose_on_held_out_pairs(rows):
        found.append(rose)
    if max_logit_scale is not None and last.get("logit_scale", 0.0) >= max_logit_scale * (1 - 1e-5):
        found.append(
            f"The scale of the logits is at its bound, {max_logit_scale:g}: it would be larger without. Raise "
            "--max-logit-scale, or lower --learning-rate."
        )
    return found


def _nothing_learned(steps: Sequence[MetricsRow]) -> str:
    if len(steps) < FEWEST_STEPS:
        return ""
    first, last = float(steps[0]["loss"]), mean_loss(steps[-(len(steps) // 10) :])
    return "" if last < first else f"The loss ended at {last:.4g}, and it began with {first:.4g}: nothing was learned."


def _rose(steps: Sequence[MetricsRow]) -> str:
    if len(steps) < FEWEST_STEPS:
        return ""
    size = max(FEWEST_AVERAGED, len(steps) // 10)
    ends = range(len(steps), size - 1, -size)
    means = [(mean_loss(steps[end - size : end]), steps[end - 1]["examples"]) for end in ends]
    times = _times_the_least(means[::-1])
    return f"The loss ended at {times} examples." if times else ""


def _rose_on_held_out_pairs(rows: Sequence[MetricsRow]) -> str:
    times = _times_the_least([(_validation_loss(row), row.get("examples", 0)) for row in rows])
    if not times:
        return ""
    return (
        f"The validation loss ended at {times} examples: best/ holds the model of the best evaluation. Train on "
        "fewer --examples, or lower --learning-rate."
    )


def _times_the_least(losses: Sequence[tuple[float, int]]) -> str:
    """How much larger the last of (loss, examples) is than the least; empty where it is not much."""
    finite = [(loss, examples) for loss, examples in losses if math.isfinite(loss)]
    last, (least, examples) = (finite[-1][0], min(finite)) if finite else (0.0, (0.0, 0))
    if not last >= ROSE * least > 0:
        return ""
    return f"{last:.4g}, {last / least:.1f} times the {least:.4g} that it had at {examples:,}"


def _validation_loss(row: MetricsRow) -> float:
    return float(row.get("validation_loss", math.nan))


def mean_loss(rows: Sequence[MetricsRow]) -> float:
    """The mean of the finite losses of rows, those of steps that were not skipped; NaN where there is none."""
    finite = [loss for row in rows if math.isfinite(loss := float(row["loss"]))]
    return sum(finite) / len(finite) if finite else math.nan


def before_training(rows: Sequence[MetricsRow]) -> dict[str, float]:
    """What the evaluation before the first step found, by name, with the loss; empty where there was none."""
    return _found(next((row for row in rows if "evaluation" in row and row["examples"] == 0), None))


def changes(
    rows: Sequence[MetricsRow], retention_before: Mapping[str, float], retention_after: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Each number that was taken before training, as it was then and as it is at the end, by name.

    Args:
        rows: of the metrics.
        retention_before, retention_after: what the model scores on what it should not forget.
    """
    before = before_training(rows) | dict(retention_before)
    after = _found(next((row for row in reversed(rows) if "evaluation" in row), None)) | dict(retention_after)
    return {name: (value, after[name]) for name, value in before.items() if name in after}


def gained(changed: Mapping[str, tuple[float, float]]) -> str:
    """A sentence on what training changed; empty where nothing was measured before it."""
    told = [f"{quantity(name, before)} -> {shown(name, after)}" for name, (before, after) in changed.items()]
    return f"Before training and after: {'; '.join(told)}" if told else ""


def best_text(best: BestEvaluation) -> str:
    """Where the best evaluation of a run was, and what it found."""
    value = quantity(best["by"], best["value"])
    if best["examples"] == 0:
        return f"before the first step, with {value}; nothing after it was better"
    where = "at its end" if best["evaluations_since"] == 0 else f"after {best['examples']:,} examples"
    return f"{where}, with {value}"


def quantity(name: str, value: float) -> str:
    """A number of an evaluation with its name, for people."""
    return f"{quantity_title(name)} {shown(name, value)}"


def quantity_title(name: str) -> str:
    """What a number of an evaluation is called where people read it."""
    return "validation loss" if name == LOSS else name


def _found(row: MetricsRow | None) -> dict[str, float]:
    if row is None:
        return {}
    loss = {LOSS: row["validation_loss"]} if "validation_loss" in row else {}
    return {**row["evaluation"], **loss}
