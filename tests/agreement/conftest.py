"""One pool of workers for the whole session."""

import os
from collections.abc import Iterator

import pytest

from tests.agreement.pool import Pool, start_pool
from tests.agreement.strategies import quick


@pytest.fixture(scope="session")
def workers() -> Iterator[tuple[Pool, dict[str, dict], dict[str, str]]]:
    """The pool, what its workers say of themselves, and why other backends are missing."""
    pool, facts, missing = start_pool(os.environ.get("DIPTYCH_DEVICE", "cpu"), quick=quick())
    yield pool, facts, missing
    pool.stop()


@pytest.fixture(scope="session")
def pool(workers) -> Pool:
    """Asks every backend that can take part."""
    pool, _, missing = workers
    if not pool.backends:
        pytest.skip(f"No backend can take part: {missing}")
    return pool
