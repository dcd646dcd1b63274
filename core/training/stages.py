"""Stages: the parts of a run in which something else is learned, from other data, at another resolution.

Stages form a tree. Those that follow one another are the trunk; a stage that begins where another ended, beside the
trunk, is a fork. The end of each stage is a checkpoint, and any of them can be the beginning of others (`handover`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diptych.core.spelling import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Curation:
    """Each batch is chosen from a larger one by learnability (`curation.select_by_learnability`)."""

    reference: str
    """The teacher's checkpoint: a folder, or the name of a stage of this run that has ended."""
    filter_ratio: float = 0.5
    """Share of the super-batch that is left out: 0.5 chooses half of twice as many."""
    chunks: int = 16

    def __post_init__(self):
        if not 0 < self.filter_ratio < 1:
            raise ValueError(
                f"filter_ratio is the share left out of the super-batch, between 0 and 1, got {self.filter_ratio}."
            )
        if self.chunks < 1:
            raise ValueError(f"chunks must be at least 1, got {self.chunks}.")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a run; it says what changes.

    Attributes:
        name: of the stage and of its folder.
        after: the stage from whose end it goes on; None for fresh weights.
        schedule: the part of the run's learning-rate schedule that it walks through, as shares of the run's examples,
            such as (0.8, 0.9); None for a schedule of its own, from `learning_rate` by a cosine to zero, with a fresh
            optimizer.
        stretch: length of the stage as a multiple of its share of the schedule (3.75 = train 3.75 times longer).
            Without a shared schedule: as a fraction of the run's examples.
        losses: weights of the terms that are summed up, by name (`diptych.engine.training.terms`).
        image_size, patch_size: of square pictures; None for what the stage before had.
        local_size: side of local views in pixels; None for what the run says (`Distillation.local_size`).
        sequence_lengths: not empty for NaFlex: pictures keep their aspect, and each batch draws one of these numbers of
            patches.
        halve_from: sequence length from which a batch is taken in two halves, a step each.
        curation: how batches are chosen; None takes them as they come.
        learning_rate, weight_decay: for a stage with its own schedule.
        lock: patterns of weights that stay as they are in this stage, such as "image/.*".
        fresh: beginnings of weights that are not taken over but start anew, such as "captioner/".
        order: number of the data's order. Stages of one number that follow each other read on where the one before
            stopped.
    """

    name: str
    after: str | None = None
    schedule: tuple[float, float] | None = (0.0, 1.0)
    stretch: float = 1.0
    losses: Mapping[str, float] = field(default_factory=lambda: {"contrastive": 1.0})
    image_size: int | None = None
    patch_size: int | None = None
    local_size: int | None = None
    sequence_lengths: tuple[int, ...] = ()
    halve_from: int = 1024
    curation: Curation | None = None
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    lock: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    order: int = 0

    def __post_init__(self):
        if not self.name.replace("_", "").isalnum():
            raise ValueError(
                f"A stage's name becomes a folder: letters, digits and underscores are expected, got {self.name!r}."
            )
        if self.schedule is not None and not 0 <= self.schedule[0] < self.schedule[1] <= 1:
            raise ValueError(
                f"Stage {self.name}: schedule is a part of the run, (begin, end) with 0 <= begin < end <= 1, got "
                f"{self.schedule}."
            )
        if not self.stretch > 0:
            raise ValueError(f"Stage {self.name}: stretch must be above 0, got {self.stretch}.")
        if not self.losses or not all(weight > 0 for weight in self.losses.values()):
            raise ValueError(
                f"Stage {self.name}: losses are terms with weights above 0, got {dict(self.losses)}. Leave out what is "
                "not to count."
            )
        if self.sequence_lengths and self.image_size:
            raise ValueError(f"Stage {self.name}: give image_size or sequence_lengths, not both.")

    def batches(self, examples: int, batch_size: int) -> tuple[int, int]:
        """(first, last + 1) batch of the stage, counted from the beginning of the run where it has a part of the run's
        schedule.

        A stretched part, and a stage with a schedule of its own, count from 0.
        """
        total = examples // batch_size
        if self.schedule is None:
            return 0, max(1, round(total * self.stretch))
        begin, end = (round(share * total) for share in self.schedule)
        if self.stretch == 1:
            return begin, max(end, begin + 1)
        return 0, max(1, round((end - begin) * self.stretch))


def check_stages(stages: Sequence[Stage]) -> None:
    """Raises ValueError where names repeat, a stage follows one that is not before it, or parts of the schedule do not
    join.
    """
    known: dict[str, Stage] = {}
    for stage in stages:
        if stage.name in known:
            raise ValueError(f"Two stages are called {stage.name}: names are folders, and must differ.")
        if stage.after is not None and stage.after not in known:
            raise ValueError(
                f"Stage {stage.name} goes on from {stage.after!r}, which is not a stage before it: "
                f"{', '.join(known) or 'it is the first'}."
            )
        parent = known.get(stage.after or "")
        if stage.schedule is not None:
            begin = 0.0 if parent is None else (parent.schedule or (0.0, 1.0))[1]
            if stage.schedule[0] != begin:
                raise ValueError(
                    f"Stage {stage.name} begins at {stage.schedule[0]:.0%} of the schedule, and what it goes on from "
                    f"({stage.after or 'nothing'}) ends at {begin:.0%}. Let it begin there."
                )
        known[stage.name] = stage
    if not known:
        raise ValueError("A run needs at least one stage.")


def chosen_stages(stages: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    """The named stages with all that they go on from, in order; all of them where no name is given.

    Raises:
        ValueError: for a name that no stage has.
    """
    by_name = {stage.name: stage for stage in stages}
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(
            f"There is no stage {', '.join(unknown)}; this run has {', '.join(by_name)}."
            f"{did_you_mean(unknown[0], by_name)}"
        )
    wanted: set[str] = set()
    waiting = list(names or by_name)
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        stage = by_name[name]
        needed = [stage.after, stage.curation.reference if stage.curation else None]
        waiting += [other for other in needed if other in by_name and other not in wanted]
    return [stage for stage in stages if stage.name in wanted]
