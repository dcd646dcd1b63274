"""Data by name: what comes with diptych, and what a folder, shards or a list of your own hold.

Command:   python -m recipes.data
Own data:  python -m recipes.data photos/ "shards/{000..010}.tar"

Without words it lists the embedded data. Of your own it says how many records there are, what the first ones hold,
which fields were read, and what cannot be used and why: what a run would find, before a run. It needs no framework.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import tyro

from diptych.core.data.emoji import DESIGNERS, LANGUAGES, LICENSES_PATH, concepts
from diptych.core.data.image import decode
from diptych.core.data.ledger import ledger_of, visit
from diptych.core.data.records import Record, Source
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.report.ledger_text import tell_left_out
from diptych.engine.command_line import parse
from diptych.engine.datasets.open import DATA_SETS, known_data_set
from diptych.engine.failures import exit_status

LOOKED_AT, SHOWN = 64, 3


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which data."""

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA")] = ()
    """What --train-data, --val-data and --data take; by default the embedded data are listed."""
    reading: Reading = AS_USUAL


def main(arguments: list[str] | None = None) -> int:
    """Lists, or looks; returns the exit status."""
    options = parse(Data(), arguments, program="python -m recipes.data", description=__doc__)
    return exit_status(lambda: data(options), options)


def data(options: Data) -> int:
    """Everything after the command line."""
    if not options.data:
        print(embedded())
    for name in options.data:
        known = known_data_set(name)
        source = known.sources(0).train if known else open_source(name, reading=options.reading)
        print(f"{name}: {len(source):,} records\n{first_records(source)}", flush=True)
        tell_left_out([ledger_of(source)])
    return 0


def embedded() -> str:
    """The data sets that come with diptych, each by the name that --train-data takes."""
    lines = []
    for name in DATA_SETS:
        known = known_data_set(name)
        assert known is not None
        lines.append(f"{name}\n  {known.describe(known.sources(0)).removeprefix('Data: ')}")
    lines.append(
        f"All but lines show {len(concepts()):,} emoji, drawn by {len(DESIGNERS)} designers and named in "
        f"{len(LANGUAGES)} languages. Licences: {LICENSES_PATH}"
    )
    return "\n".join(lines)


def first_records(source: Source) -> str:
    """What the first records hold: how many have captions, boxes and labels, sizes of pictures, some captions."""
    seen = [found for _, found in visit(source, lambda record: _looked_at(source, record), _first(source))]
    with_captions, with_boxes, with_labels = (
        (
            sum(bool(part) for part in parts)
            for parts in zip(*((record.captions, record.regions, record.labels) for record, _ in seen), strict=True)
        )
        if seen
        else (0, 0, 0)
    )
    languages = Counter(language for record, _ in seen for language in record.captions_by_language)
    sizes = Counter(size for _, size in seen)
    lines = [
        f"  of the first {len(_first(source)):,}: {len(seen):,} can be used; {with_captions:,} have captions, "
        f"{with_boxes:,} boxes, {with_labels:,} labels",
        f"  pictures: {_most(f'{width} x {height}' for width, height in sizes.elements())}",
        f"  languages: {_most(languages.elements())}",
    ]
    captions = [record.captions[0].text for record, _ in seen if record.captions]
    return "\n".join([*lines, *(f"  {caption!r}" for caption in captions[:SHOWN])])


def _first(source: Source) -> range:
    return range(min(LOOKED_AT, len(source)))


def _looked_at(source: Source, record: Record) -> tuple[Record, tuple[int, int]]:
    height, width, _ = decode(source.read(record.images[0])).shape
    return record, (width, height)


def _most(found) -> str:
    """The most frequent of what was found, with how often: "96 x 72 (61), 64 x 64 (3)"."""
    return ", ".join(f"{name} ({count:,})" for name, count in Counter(found).most_common(SHOWN)) or "none"


if __name__ == "__main__":
    sys.exit(main())
