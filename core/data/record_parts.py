"""Records of several images: a bad one is left out where another can be used, and the record skipped where none can."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diptych.core.data.ledger import RecordParts, Skipped, ledger_of, name_of, place_of
from diptych.core.data.records import BadExample, LeftOut, Record, Source, part_name
from diptych.core.data.sources.cache import pixels_of


def usable_pixels(source: Source, record: Record, *, left_out: list[LeftOut] | None = None) -> np.ndarray:
    """Pixels of the first image of a record that can be used, uint8 [height, width, 3]; as `usable`."""
    return usable(pixels_of, source, record, left_out=left_out)


def usable(
    read: Callable[[Source, Any], np.ndarray],
    source: Source,
    record: Record,
    first: int = 0,
    *,
    left_out: list[LeftOut] | None = None,
) -> np.ndarray:
    """What is read of one image of a record: of the one at `first` or, as long as it cannot be used, of the next, from
    the last on to the first.

    Args:
        read: (source, reference to an image) -> its pixels, or what stands for them; raises BadExample.
        left_out: the images that were tried in vain are added to it.

    Raises:
        BadExample: image_missing, or, where no image can be used, for the reason of the one at `first`.
    """
    if not record.images:
        raise BadExample("image_missing", record.key)
    bad: list[LeftOut] = []
    for number in (*range(first, len(record.images)), *range(first)):
        try:
            found = read(source, record.images[number])
        except BadExample as error:
            bad.append(LeftOut(part_name("image", number), error.reason, error.detail))
        else:
            if left_out is not None:
                left_out += bad
            return found
    raise BadExample(bad[0].reason, bad[0].detail)


class ImageByImage:
    """Enters records into their source's ledger that are met an image at a time, as `usable_pixels` judges them whole:
    the images of a record follow each other, and it is skipped at its end where none of them could be used.
    """

    def __init__(self, source: Source):
        self._source = source
        self._ledger = ledger_of(source)
        self._index = -1
        self._name = ""
        self._some_good = False
        self._bad: list[LeftOut] = []  # none of a record of which an image is known to be good

    def add(self, index: int, key: str, bad: LeftOut | None) -> None:
        """The next image of the record at an index of the source, None or why it cannot be used; `key` is the record's
        name where the source has none for it.
        """
        if index != self._index:
            self.close()
            self._index, self._name, self._some_good = index, name_of(self._source, index) or key, False
        self._some_good |= bad is None
        if bad is not None:
            self._bad.append(bad)
        if self._some_good and self._bad:
            place = place_of(self._source, self._index)
            self._ledger.leave_out_parts(RecordParts(place, self._name, tuple(self._bad)))
            self._bad = []

    def close(self) -> None:
        """The last record has no more images."""
        if self._bad:
            _, reason, detail = self._bad[0]
            self._ledger.skip(Skipped(self._name, reason, detail, place_of(self._source, self._index)))
            self._bad = []
