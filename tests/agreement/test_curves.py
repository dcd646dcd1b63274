"""The default recipe, shortened: one loss curve on every backend, and checkpoints that any backend takes up."""

import shutil
from itertools import combinations, permutations

import numpy as np
import pytest

from tests.tolerances import LIMITS, RESUME

STEPS, BATCH_SIZE = 30, 32
PLAN = {"steps": 2 * STEPS, "batch_size": BATCH_SIZE}


@pytest.fixture(scope="module")
def started(pool, tmp_path_factory) -> tuple[dict, dict]:
    """Each backend's losses over the first thirty steps, and the folder that it left."""
    folders = {backend: tmp_path_factory.mktemp("runs") / backend for backend in pool.backends}
    own = {backend: {"folder": str(folder)} for backend, folder in folders.items()}
    return pool.ask("run_recipe", stop_after=STEPS, own=own, **PLAN), folders


@pytest.fixture(scope="module")
def continued(pool, started) -> dict[tuple[str, str], np.ndarray]:
    """(writer, reader) -> losses of the thirty steps after the writer's checkpoint, trained by the reader."""
    _, folders = started
    losses = {}
    for writer, folder in folders.items():
        copies = {reader: folder.with_name(f"{writer}-{reader}") for reader in pool.backends}
        for copy in copies.values():
            shutil.copytree(folder, copy)
        own = {reader: {"folder": str(copy)} for reader, copy in copies.items()}
        for reader, curve in pool.ask("run_recipe", stop_after=2 * STEPS, own=own, **PLAN).items():
            losses[writer, reader] = np.asarray(curve[STEPS:])
    return losses


def largest_difference(curve, other) -> float:
    """The largest relative difference of two loss curves; NaN where either has one."""
    assert len(curve) == len(other) == STEPS
    return float(np.max(np.abs(np.asarray(curve) - other) / np.abs(other)))


def test_every_backend_gives_the_same_curve(pool, started):
    if len(pool.backends) < 2:
        pytest.skip(f"only {pool.backends[0]} takes part")
    curves, _ = started
    differences = {pair: largest_difference(*(curves[backend] for backend in pair)) for pair in combinations(curves, 2)}
    assert all(difference <= LIMITS["float32"].curve for difference in differences.values()), differences
    learned = {backend: np.mean(curve[-5:]) / np.mean(curve[:5]) for backend, curve in curves.items()}
    assert all(ratio < 0.99 for ratio in learned.values()), f"the run did not learn, so it shows nothing: {learned}"


def test_a_checkpoint_moves_between_backends(pool, continued):
    if len(pool.backends) < 2:
        pytest.skip(f"only {pool.backends[0]} takes part")
    differences = {
        (writer, reader): largest_difference(continued[writer, reader], continued[writer, writer])
        for writer, reader in permutations(pool.backends, 2)
    }
    assert len(differences) == len(pool.backends) * (len(pool.backends) - 1)
    assert all(difference <= RESUME for difference in differences.values()), differences


def test_the_comparison_of_curves_refuses_wrong_ones(started):
    curves, _ = started
    curve = np.asarray(next(iter(curves.values())))
    assert largest_difference(curve, curve) == 0
    for wrong in (np.roll(curve, 1), curve * (1 + 2e-5), np.append(curve[:-1], np.nan)):
        assert not largest_difference(wrong, curve) <= LIMITS["float32"].curve
