"""Records, which a data source hands out: each one thing in the world, with its images and its captions."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

UNKNOWN_LANGUAGE = "und"


class BadExample(ValueError):
    """An image, caption or record that cannot be used; `reason` is a short slug that skipped examples are counted
    by.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


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


@dataclass(frozen=True)
class Record:
    """One thing with one or more images and captions; images are references that only their source can read.

    `regions` belong to the first image. `labels` are the classes that the record is of, by name or by number in decimal
    (`sources.labels`).
    """

    key: str
    images: tuple[object, ...]
    captions: tuple[Caption, ...] = field(repr=False)
    regions: tuple[Region, ...] = field(default=(), repr=False)
    labels: tuple[str, ...] = ()

    @cached_property
    def captions_by_language(self) -> dict[str, tuple[Caption, ...]]:
        """The captions grouped by language, in the order in which languages first appear."""
        groups: dict[str, list[Caption]] = {}
        for caption in self.captions:
            groups.setdefault(caption.language, []).append(caption)
        return {language: tuple(captions) for language, captions in groups.items()}


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
