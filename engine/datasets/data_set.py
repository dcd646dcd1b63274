"""Data sets: what a run learns from and is judged by, and all that follows from the data, as one value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.ledger import Ledger, ledger_of
from diptych.core.data.records import Source
from diptych.core.data.sources.questions import Judging
from diptych.core.evaluation.pair_set import Classes, PairSet, read_pairs
from diptych.engine.datasets.fairness_set import FairnessSet


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The opened sources of a data set: one to train on, and named ones to be judged by, that of the headline first."""

    train: Source
    held_out: Mapping[str, Source]

    def ledgers(self) -> list[Ledger]:
        """What of the data is not used; one ledger where training and held-out records are of one source."""
        found = [ledger_of(source) for source in (self.train, *self.held_out.values())]
        return list({id(ledger): ledger for ledger in found}.values())


def no_classes(source: Source) -> Classes | None:
    """Pictures without classes."""
    return None


def every_picture_alone(pairs: PairSet) -> np.ndarray:
    """Labels by which a caption belongs to its own picture and to no other, int64 `[images]`."""
    return np.arange(len(pairs.images))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Pictures with captions.

    Attributes:
        name: for people.
        sources: opens them; what is missing is said then. It is given the seed of the run.
        tokenizer: the vocabulary where a recipe names none.
        context_length, captions_per_image, english_share: where a recipe says nothing; see `core.training.recipe.Data`.
        augment: whether pictures are changed at random, where a recipe says nothing.
        opening_share: share of a run's examples that come with one caption an image, in English alone, where a recipe
            says nothing.
        most_evaluated: records of a held-out source that are looked at; None for all.
        classes: prompts and labels of a held-out source, for zero-shot classification.
        alike: which pictures of a held-out set a caption fits equally well: a label for each, int64 `[images]`.
        example_queries: texts to look for in it.
        fairness_sets: what evenness is measured on; None for nothing.
        shows_scenes: whether its pictures are scenes of which boxes, classes of pixels and distances are known.
        pictures: of an example.
        judging: how answers to its questions are.
        aspects: of scenes, the range of the pictures' width against their height; None for squares.
        licence: a sentence on the licences of the data, for the card of a model; None where they are not known.
    """

    name: str
    sources: Callable[[int], Sources]
    tokenizer: Path
    context_length: int = 64
    captions_per_image: int = 1
    english_share: float | None = None
    augment: bool = False
    opening_share: float = 0.0
    most_evaluated: int | None = 2_000
    classes: Callable[[Source], Classes | None] = no_classes
    alike: Callable[[PairSet], np.ndarray] = every_picture_alone
    example_queries: tuple[str, ...] = ()
    fairness_sets: Callable[[], Sequence[FairnessSet]] | None = None
    shows_scenes: bool = False
    pictures: int = 1
    judging: Judging = Judging()
    aspects: tuple[float, float] | None = None
    licence: str | None = None

    def describe(self, sources: Sources) -> str:
        """One line for people."""
        sets = ", ".join(f"{len(source):,} {name.lower()}" for name, source in sources.held_out.items())
        return f"Data: {self.name}, {len(sources.train):,} records to train on; judged on {sets}"

    def known(self, sources: Sources) -> dict[str, str | None]:
        """What a run's card says of its data: "said", a line, and "licence"."""
        return {"said": self.describe(sources).removeprefix("Data: "), "licence": self.licence}

    def evaluation_sets(
        self, sources: Sources, preprocess: Preprocess, *, sequence_length: int | None = None
    ) -> list[PairSet]:
        """The held-out sources, decoded; the first one makes the headline. NaFlex towers need a sequence length."""
        return [
            read_pairs(
                source,
                preprocess,
                name=name,
                most_records=self.most_evaluated,
                classes=self.classes(source),
                alike=self.alike,
                sequence_length=sequence_length,
            )
            for name, source in sources.held_out.items()
        ]
