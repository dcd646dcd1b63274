"""The opening of a run, in which each picture comes with one caption in one language: when it ends, and what then."""

from diptych.core.data.examples.preprocess import Preprocess
from diptych.engine.training.planned_stage import PlannedStage


def opening_end(planned: PlannedStage, preprocess: Preprocess) -> int | None:
    """The batch after which a stage's opening ends, counted as the stage's are; None where it does not end in it."""
    batches = -(-preprocess.opening_examples // planned.loaded)
    return batches if planned.first < batches < planned.last else None


def opening_planned(planned: PlannedStage, preprocess: Preprocess) -> str | None:
    """What a run says of its opening before it begins."""
    end = opening_end(planned, preprocess)
    if end is None:
        return None
    return (
        f"Opening: up to {end * planned.loaded:,} examples each picture has one caption, in English; then "
        f"{_captions(preprocess)}. There the loss jumps up and steps take longer; until then the time left is too low."
    )


def opening_over(planned: PlannedStage, preprocess: Preprocess) -> dict[int, str]:
    """What it says when the opening ends, by the batch after which it does."""
    end = opening_end(planned, preprocess)
    if end is None:
        return {}
    line = (
        f"The opening in English ends, after {end * planned.loaded:,} examples. From here on each picture has "
        f"{_captions(preprocess)}: the loss jumps up, and is not to be compared with that before; steps take longer, "
        "and the time left is counted anew."
    )
    return {end: line}


def _captions(preprocess: Preprocess) -> str:
    return f"{preprocess.captions} captions in all languages" if preprocess.captions > 1 else "one, in any language"
