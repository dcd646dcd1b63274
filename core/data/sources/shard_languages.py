"""The languages of a shard's captions, kept beside its index, so that captions are read once."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from diptych.core.data.ledger import RecordParts, Skipped
from diptych.core.data.records import LeftOut
from diptych.core.data.sources.languages import Languages
from diptych.core.data.sources.shard_index import Kept, keep_arrays, kept_arrays


def kept_languages(
    kept: Kept | None, reading: object, begin: int, named: Callable[[int], str], read: Callable[[], Languages]
) -> Languages:
    """What `read` finds in a shard, or has found in an earlier run.

    Args:
        kept: where the shard's index is kept; None where it is not.
        reading: what else decides the answer: the fields that are read.
        begin: the shard's first place in the source.   named: what the source calls the record at a place.
    """
    if kept is None:
        return read()
    kind = f"{hashlib.sha256(repr(reading).encode()).hexdigest()[:8]}.languages"
    stored = kept_arrays(kept, kind)
    if stored is None:
        found = read()
        if any(one.reason.endswith("_unreadable") for one in found.skipped):
            return found  # a later start may be able to
        about: dict[str, Any] = {
            "sets": found.sets,
            "skipped": [(one.place - begin, one.reason, one.detail) for one in found.skipped if one.place is not None],
            "left_out": [(one.place - begin, one.parts) for one in found.left_out],
        }
        keep_arrays(kept, kind, about, {"places": found.places - begin, "codes": found.codes})
        return found
    return Languages(
        np.asarray(stored["places"]) + begin,
        stored["codes"],
        [tuple(languages) for languages in stored.about["sets"]],
        [
            Skipped(named(begin + place), reason, detail, begin + place)
            for place, reason, detail in stored.about["skipped"]
        ],
        [
            RecordParts(begin + place, named(begin + place), tuple(LeftOut(*part) for part in parts))
            for place, parts in stored.about["left_out"]
        ],
    )
