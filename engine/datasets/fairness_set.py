"""Pictures on which evenness is measured: what each shows, and the groups that it belongs to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from diptych.core.data.records import Source
from diptych.core.evaluation.prompts import GENERAL_TEMPLATES
from diptych.engine.embedding.image_stream import Item


@dataclass(frozen=True, kw_only=True)
class People:
    """Pictures of people of two groups, and what they may be seen as.

    group: of a picture, "a", "b", or None where it shows neither.   names: of the two groups.
    labels: texts, such as occupations.
    """

    group: Callable[[Item], str | None]
    names: tuple[str, str]
    labels: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class FairnessSet:
    """Pictures, what each shows, and the groups that it belongs to.

    class_names: [classes].   templates: filled with the names, their embeddings averaged.
    kinds: instead of templates, by language, for each class prompts that are different things of its kind.
    right: the classes that are right for a picture.   groups: of a picture, by attribute.
    place: the attribute that few-shot classification is to tell; None for none.
    nobody: whether a picture may be asked whom the model sees in it; by default each may.
    """

    name: str
    source: Source
    class_names: Sequence[str]
    right: Callable[[Item], frozenset[int]]
    groups: Callable[[Item], Mapping[str, str]]
    templates: Sequence[str] = GENERAL_TEMPLATES
    kinds: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    place: str | None = None
    nobody: Callable[[Item], bool] | None = None
    people: People | None = None
