"""Reasons why things are of no use: how many share one, what they are called, and both as text."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_NAMES = 10_000  # of parts and passed-over files, for each reason; their number is always exact
_NAMES_SHOWN, _REASONS_SHOWN = 3, 10


@dataclass
class Named:
    """How many things share a reason, and what they are called: all of them up to `MOST_NAMES`, and of parts of records
    the records' places.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, place: int | None = None) -> bool:
        """Count a thing; whether its name is kept."""
        self.count += 1
        kept = len(self.names) < MOST_NAMES
        if kept:
            self.names.append(name)
            if place is not None:
                self.places[name] = place
        return kept

    def remove(self, name: str) -> None:
        """Take a part back that was counted."""
        self.count -= 1
        if name in self.names:
            self.names.remove(name)
            self.places.pop(name, None)


def with_names(found: Mapping[str, Named]) -> str:
    """Reasons with numbers and some names, the most frequent first."""
    shown = [f"{reason} {named.count:,} ({some_names(named)})" for reason, named in most_frequent(found)]
    return ", ".join(shown + (["..."] if len(found) > len(shown) else []))


def most_frequent(found: Mapping[str, Named]) -> list[tuple[str, Named]]:
    """The first few reasons, the most frequent first, as they can be printed."""
    ordered = sorted(found.items(), key=lambda item: -item[1].count)
    return [(printable(reason), named) for reason, named in ordered[:_REASONS_SHOWN]]


def some_names(named: Named, most: int = _NAMES_SHOWN) -> str:
    """The first names, as they can be printed: "a.jpg, b.jpg, c.jpg, ..."."""
    return ", ".join([*map(printable, named.names[:most]), *(["..."] if named.count > most else [])])


def printable(text: str) -> str:
    """The text with everything escaped that is no character to look at: names of files may hold any bytes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def listed(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts, the most frequent first: "image_truncated 12, caption_empty 3"."""
    return ", ".join(f"{reason} {number}" for reason, number in Counter(reasons).most_common())
