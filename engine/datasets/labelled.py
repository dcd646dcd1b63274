"""Labelled data: pictures with classes, of which a part is held out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from diptych.core.data.emoji import GROUPS, HELD_OUT_DESIGNER, LICENCE, TOKENIZER_PATH, group_prompts
from diptych.core.data.ledger import ledger_of
from diptych.core.data.lines import COUNTS, evaluation_lines
from diptych.core.data.records import Source
from diptych.core.data.sources.labels import ClassNames, class_names_in
from diptych.core.data.sources.open import EMBEDDED, LINES, open_source
from diptych.core.data.sources.subset import Subset
from diptych.core.evaluation.prompts import read_class_names
from diptych.core.files.cache_folder import index_folder
from diptych.core.training.recipe import Data
from diptych.core.training.term_options import Classification
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.emoji import evaluation_sources

HELD_OUT = "Held-out pictures"
MOST_EVALUATED = 5_000
PLANNED_CLASSES = 1_000
"""Of a plan without data."""


@dataclass(frozen=True, kw_only=True)
class LabelledDataSet(DataSet):
    """Pictures with labels.

    Attributes:
        class_names: the classes that there are.
        prompts: texts that are different things of a class, by its name; none where its name says what it is.
    """

    class_names: ClassNames
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Labelled data that come along.

    Attributes:
        name: for people.
        classes: the names of the classes.
        held_out: opens what is judged.
        prompts: see `LabelledDataSet`.
        augment: whether pictures are changed at random, where a recipe says nothing.
        licence: of the pictures, where they are not the project's own.
    """

    name: str
    classes: tuple[str, ...]
    held_out: Callable[[], Mapping[str, Source]]
    prompts: Callable[[], Mapping[str, Sequence[str]]] = dict
    augment: bool = False
    licence: str | None = None


EMBEDDED_LABELLED: Mapping[str, Embedded] = {
    EMBEDDED: Embedded(
        name=f"emoji by all designers but {HELD_OUT_DESIGNER}",
        classes=GROUPS,
        held_out=evaluation_sources,
        prompts=group_prompts,
        augment=True,
        licence=LICENCE,
    ),
    LINES: Embedded(name="two lines and how often they cross", classes=COUNTS, held_out=evaluation_lines),
}
"""By the name that --train-data takes."""


def labelled(data: Data, options: Classification) -> LabelledDataSet:
    """What `data.train_data` names, judged on `data.val_data`, or on a fraction that is held out by key; "emoji" stands
    for the embedded drawings with the nine groups of the emoji standard, judged on the held-out designer's, and "lines"
    for the task of big_vision's tutorial, judged on new pictures.

    It is opened at once, because the data may have to say which classes there are; without data there are as many as
    ImageNet has, for a plan.

    Raises:
        FileNotFoundError, ValueError: for data that are not there or have no labels, and for fewer than two classes.
        TooManySkipped: see `core.data.ledger`.
    """
    train, embedded = None, EMBEDDED_LABELLED.get(data.train_data)
    if data.train_data:
        train = open_source(data.train_data, index_folder=index_folder(), reading=data.reading)
    if options.classes is not None:
        names = ClassNames(read_class_names(options.classes))
    elif train is None:
        names = ClassNames(tuple(f"class {number}" for number in range(PLANNED_CLASSES)))
    elif embedded is not None:
        names = ClassNames(embedded.classes)
    else:
        names = class_names_in(train, several=options.several_labels)
    if len(set(names.names)) < 2 and not options.several_labels:
        raise ValueError(f"A classifier needs two classes or more, got {', '.join(names.names)}.")
    sources = None if train is None else _sources(train, data)
    return LabelledDataSet(
        name=data.train_data if embedded is None else embedded.name,
        sources=lambda seed: _opened(sources),
        tokenizer=TOKENIZER_PATH,
        augment=embedded is not None and embedded.augment,
        most_evaluated=MOST_EVALUATED,
        licence=None if embedded is None else embedded.licence,
        class_names=names,
        prompts={} if embedded is None else embedded.prompts(),
    )


def _opened(sources: Sources | None) -> Sources:
    if sources is None:
        raise ValueError("A plan without data opens none: give --train-data.")
    return sources


def _sources(train: Source, data: Data) -> Sources:
    if data.val_data is not None:
        held_out = open_source(data.val_data, index_folder=index_folder(), reading=data.reading)
        return Sources(train=train, held_out={HELD_OUT: held_out})
    if data.train_data in EMBEDDED_LABELLED:
        return Sources(train=train, held_out=EMBEDDED_LABELLED[data.train_data].held_out())
    held_out = Subset(train, fraction=data.val_fraction, held_out=True)
    if not len(held_out):
        raise ValueError(
            f"No record of {data.train_data} falls into the held-out {data.val_fraction:.0%}. Raise --val-fraction or "
            f"give --val-data.{ledger_of(train).what_was_seen()}"
        )
    return Sources(train=Subset(train, fraction=data.val_fraction, held_out=False), held_out={HELD_OUT: held_out})
