"""Records, which a data source hands out: each one thing in the world, with its images and its captions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from diptych.core.data.bad_example import BadExample
from diptych.core.data.captions import clean_caption

UNKNOWN_LANGUAGE = "und"


@dataclass(frozen=True)
class Caption:
    """One text about a record; `language` is a BCP 47 code ("und": unknown), `weight` its share among those of its
    language.
    """

    text: str
    language: str = UNKNOWN_LANGUAGE
    weight: float = 1.0


Box = tuple[float, float, float, float]  # ymin, xmin, ymax, xmax in [0, 1], relative to the image's height and width


@dataclass(frozen=True)
class Region:
    """A part of a record's first image and a text about it.

    box: (ymin, xmin, ymax, xmax) in [0, 1], relative to the image, ymin <= ymax and xmin <= xmax.
    score: how sure whoever found it was, in [0, 1]; 1 for what a person marked.

    Raises `BadExample` (region_box, region_score) for anything else.
    """

    box: Box
    text: str
    language: str = UNKNOWN_LANGUAGE
    score: float = 1.0

    def __post_init__(self):
        check_box(self.box)
        if not 0.0 <= self.score <= 1.0:
            raise BadExample("region_score", f"a score must lie in [0, 1], got {self.score!r}")


def check_box(box: Box) -> None:
    """Raises `BadExample` (region_box) unless 0 <= ymin <= ymax <= 1 and 0 <= xmin <= xmax <= 1."""
    try:
        ymin, xmin, ymax, xmax = box
        right = 0.0 <= ymin <= ymax <= 1.0 and 0.0 <= xmin <= xmax <= 1.0
    except (TypeError, ValueError):
        right = False
    if not right:
        raise BadExample(
            "region_box", f"a box is (ymin, xmin, ymax, xmax) in [0, 1] with its corners in order, got {box!r:.100}"
        )


Told = TypeVar("Told", Caption, Region)


class LeftOut(NamedTuple):
    """A part of a record that cannot be used: "image 1", "caption 2" or "region 3", counted from 1, and why."""

    part: str
    reason: str
    detail: str = ""


def part_name(what: str, number: int) -> str:
    """What a part of a record is called that has this number, counted from 0: "image 1"."""
    return f"{what} {number + 1}"


class Parts(NamedTuple, Generic[Told]):
    """Captions or regions of a record: those whose text can be used, in their order, and what is left out."""

    usable: tuple[Told, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Record:
    """One thing with one or more images and captions; images are references that only their source can read.

    `regions` belong to the first image. `labels` are the classes that the record is of, by name or by number in decimal
    (`sources.labels`). `prompt` is what is asked about the pictures, where captions are the true answers to a question;
    empty for records that say nothing of it. Captions and regions are as the data have them; what a text that cannot be
    used costs is its own part, not the record (`caption_parts`, `region_parts`).
    """

    key: str
    images: tuple[object, ...]
    captions: tuple[Caption, ...] = field(repr=False)
    regions: tuple[Region, ...] = field(default=(), repr=False)
    labels: tuple[str, ...] = ()
    prompt: str = ""

    @cached_property
    def caption_parts(self) -> Parts[Caption]:
        """The captions whose text and weight can be used, and the others."""
        return _sorted_out("caption", self.captions, _check_weight)

    @cached_property
    def region_parts(self) -> Parts[Region]:
        """The regions whose text can be used, and the others."""
        return _sorted_out("region", self.regions)

    @cached_property
    def captions_by_language(self) -> dict[str, tuple[Caption, ...]]:
        """The captions that can be used by language, in the order in which languages first appear."""
        groups: dict[str, list[Caption]] = {}
        for caption in self.caption_parts.usable:
            groups.setdefault(caption.language, []).append(caption)
        return {language: tuple(captions) for language, captions in groups.items()}

    def require_captions(self) -> tuple[Caption, ...]:
        """The captions that can be used; raises `BadExample` where there are none: caption_missing, or for the reason
        of the first.
        """
        usable, left_out = self.caption_parts
        if usable:
            return usable
        if left_out:
            raise BadExample(left_out[0].reason, left_out[0].detail)
        raise BadExample("caption_missing", self.key)


def _sorted_out(what: str, told: Iterable[Told], check: Callable[[Told], None] = lambda _: None) -> Parts[Told]:
    usable, left_out = [], []
    for number, one in enumerate(told):
        try:
            clean_caption(one.text)
            check(one)
            usable.append(one)
        except BadExample as error:
            left_out.append(LeftOut(part_name(what, number), error.reason, error.detail))
    return Parts(tuple(usable), tuple(left_out))


def _check_weight(caption: Caption) -> None:
    if not isinstance(caption.weight, int | float) or not 0 <= caption.weight < 1e9:
        raise BadExample("caption_weight", f"a weight must be a number of 0 or more, got {caption.weight!r}")


@runtime_checkable
class Source(Protocol):
    """Random access to records. Sources are pickled to worker processes and open their files again there."""

    def __len__(self) -> int:
        """The number of records, damaged ones included: those raise `BadExample` when asked for."""
        ...

    def record(self, index: int) -> Record:
        """The record at `index` in [0, len); raises `BadExample` if it is damaged."""
        ...

    def read(self, reference: Any) -> bytes:
        """The encoded bytes of one of a record's images; raises `BadExample` if they cannot be had."""
        ...

    def fingerprint(self) -> str:
        """A hash of what the source holds: equal content gives an equal hash, on any machine."""
        ...
