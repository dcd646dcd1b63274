"""The sets that a person names to have evenness measured on."""

from collections.abc import Sequence
from pathlib import Path

from diptych.core.data.sources.grouped_pictures import GroupedPictures, dollar_street, geode, landmarks
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.evaluation.prompts import GENERAL_TEMPLATES, typed_class_names, typed_templates
from diptych.core.spelling import did_you_mean
from diptych.engine.datasets.fairness_set import FairnessSet
from diptych.engine.datasets.open import DATA_SETS, known_data_set

DOLLAR_STREET, GEODE, LANDMARKS = "dollar_street", "geode", "landmarks"
BARE_NAME = ("{}",)
"""The prompt of a landmark, which is a name."""


def open_fairness_sets(
    spec: str, *, class_names: Sequence[str] = (), templates: Sequence[str] = (), reading: Reading = AS_USUAL
) -> Sequence[FairnessSet]:
    """The sets that a person means by what was typed.

    Args:
        spec: the name of a data set that diptych brings; or dollar_street:FOLDER, geode:FOLDER, landmarks:FOLDER.
        class_names: those of ImageNet's 1,000 classes as they are typed (`core.evaluation.prompts`), for Dollar Street.
        templates: prompt templates as they are typed, for folders.
        reading: how many records may be bad.

    Raises:
        FileNotFoundError, ValueError: saying what is missing and what would be right.
    """
    known = known_data_set(spec)
    if known is not None and known.fairness_sets is not None:
        return known.fairness_sets()
    kind, _, folder = spec.partition(":")
    root, prompts = Path(folder), typed_templates(templates) or GENERAL_TEMPLATES
    if folder and kind == DOLLAR_STREET:
        names = typed_class_names(class_names)
        return [of_pictures(dollar_street(root, class_names=names, reading=reading), prompts)]
    if folder and kind == GEODE:
        return [of_pictures(geode(root, reading=reading), prompts)]
    if folder and kind == LANDMARKS:
        return [of_pictures(landmarks(root, reading=reading), prompts if templates else BARE_NAME)]
    brought = [name for name in DATA_SETS if (found := known_data_set(name)) and found.fairness_sets]
    raise ValueError(
        f"--data is {', '.join(brought)}, or {DOLLAR_STREET}, {GEODE} or {LANDMARKS} with :FOLDER behind it; got "
        f"{spec!r}.{did_you_mean(kind, (*brought, DOLLAR_STREET, GEODE, LANDMARKS))}"
    )


def of_pictures(source: GroupedPictures, templates: Sequence[str]) -> FairnessSet:
    """The set of a source that knows all about its pictures."""
    return FairnessSet(
        name=source.name,
        source=source,
        class_names=source.class_names,
        templates=templates,
        right=lambda item: source.pictures[item.record].classes,
        groups=lambda item: source.pictures[item.record].groups,
        place=source.place,
    )
