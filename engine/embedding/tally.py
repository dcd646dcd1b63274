"""A tally of an index's items: each entered into the ledger of its source."""

from collections.abc import Iterable

from diptych.core.data.ledger import RecordParts, Skipped, ledger_of, name_of, place_of
from diptych.core.data.record_parts import ImageByImage
from diptych.core.data.records import LeftOut, Source, part_name
from diptych.engine.embedding.image_stream import GOOD, Item
from diptych.engine.embedding.index_folder import Part


class Tally:
    """Enters items into their source's ledger, in their order: images as `ImageByImage` does, captions that cannot be
    used as parts of records that are used for their images.

    Args:
        source: of the items.
        part: what they are.
        held: those before the first that is added, as `IndexFolder.undecided` has them.
    """

    def __init__(self, source: Source, part: Part, held: Iterable[Item] = ()):
        self._source, self._part = source, part
        self._images = ImageByImage(source)
        self.add(held)

    def add(self, items: Iterable[Item]) -> None:
        """Count what cannot be used of some items."""
        for item in items:
            bad = None if item.status == GOOD else LeftOut(_part_name(item, self._part), item.status, item.detail)
            if self._part == "images":
                self._images.add(item.record, item.key, bad)
            elif bad is not None:
                name = name_of(self._source, item.record) or item.key
                ledger_of(self._source).leave_out_parts(RecordParts(place_of(self._source, item.record), name, (bad,)))

    def close(self) -> None:
        """There are no more items."""
        self._images.close()


def named(source: Source, item: Item, part: Part) -> Skipped:
    """An item that cannot be used, by name."""
    name = name_of(source, item.record) or item.key
    return Skipped(f"{name}, {_part_name(item, part)}" if item.number else name, item.status, item.detail)


def _part_name(item: Item, part: Part) -> str:
    return part_name("image" if part == "images" else "caption", item.number)
