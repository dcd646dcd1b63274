"""The fetching of what records far away need before it is asked for: at once, because each answer takes its time."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from diptych.core.data.records import Source
from diptych.core.files.remote.block_cache import BLOCK_BYTES, IN_MEMORY, block_cache
from diptych.core.files.remote.file import RemoteFile

REQUESTS_AT_ONCE = 16

Extent = tuple[RemoteFile, int, int]
"""A part of a file: from one byte to before another."""


def fetch(source: Source, indices: Sequence[int]) -> None:
    """Have a source fetch what some of its records need; one that has everything here (no `fetch`) does nothing.

    Raises:
        RemoteError: for what cannot be had.
    """
    own = getattr(source, "fetch", None)
    if own is not None:
        own(indices)


def fetch_extents(extents: Iterable[Extent]) -> None:
    """Have the blocks of parts of files in the cache, the first ones first; each is asked for once.

    Where nothing is kept on disk these are no more than fit into memory.
    """
    blocks = list(
        dict.fromkeys(
            (file, block)
            for file, begin, end in extents
            for block in range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        )
    )
    if not block_cache().bound:
        blocks = blocks[:IN_MEMORY]
    if len(blocks) < 2:
        return
    threads = ThreadPoolExecutor(REQUESTS_AT_ONCE, "diptych-fetch")
    try:
        list(threads.map(lambda one: one[0].fetch(one[1]), blocks))
    finally:
        threads.shutdown(cancel_futures=True)
