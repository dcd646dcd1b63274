"""SigLIP 2's tiny recipe on all backends: losses, weights, teachers and centres at each stage's end.

Each backend starts every stage from what it ended the one before with, so what they differ by adds up.
"""

import numpy as np
import pytest

from diptych.core.training import checkpoint
from tests.recipes.small_stages import STAGES

STEPS = 20
LARGEST = 1e-4  # relative: of a loss, and of a group's distance to its length

GROUPS = {
    "captioning": ("weights", "ema"),
    "self_distillation": ("weights", "ema", "teacher", "objective"),
    "larger": ("weights", "ema", "teacher", "objective"),
    "naflex": ("weights", "ema"),
    "curated": ("weights", "ema"),
}


@pytest.fixture(scope="module")
def runs(pool, tmp_path_factory):
    """{backend: (losses by stage, {stage: groups of the last checkpoint})}"""
    folder = tmp_path_factory.mktemp("stages")
    folders = {backend: str(folder / backend) for backend in pool.backends}
    own = {backend: {"arguments": {"folder": path, "steps": STEPS}} for backend, path in folders.items()}
    losses = pool.ask("call", own=own, module="tests.agreement.stages_side", function="carry_out")
    ends = {
        backend: {stage.name: checkpoint.restore_latest(f"{path}/{stage.name}/checkpoints").groups for stage in STAGES}
        for backend, path in folders.items()
    }
    return {backend: (losses[backend], ends[backend]) for backend in folders}


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The distance of two groups of arrays, relative to their length."""
    assert one.keys() == other.keys()
    apart = sum(float(np.sum((one[name].astype(np.float64) - other[name]) ** 2)) for name in one)
    return float(np.sqrt(apart / sum(float(np.sum(array.astype(np.float64) ** 2)) for array in one.values())))


def test_every_loss_agrees(runs):
    (first, *others) = runs
    for backend in others:
        for stage in STAGES:
            mine, theirs = runs[first][0][stage.name], runs[backend][0][stage.name]
            assert len(mine) == len(theirs) > 1
            np.testing.assert_allclose(theirs, mine, rtol=LARGEST, err_msg=f"{backend}, {stage.name}")


def test_weights_teachers_and_centres_agree_at_every_stages_end(runs):
    (first, *others) = runs
    for backend in others:
        for stage in STAGES:
            for group in GROUPS[stage.name]:
                apart = distance(runs[first][1][stage.name][group], runs[backend][1][stage.name][group])
                assert apart < LARGEST, (backend, stage.name, group, apart)


@pytest.mark.parametrize("group", ["weights", "ema", "teacher"])
def test_the_distance_tells_what_a_stage_learned(runs, group):
    """What a few steps change is more than the backends may differ by: a stage that did not learn would be noticed."""
    ends = next(iter(runs.values()))[1]
    before, after = ends["captioning"]["weights"], ends["self_distillation"][group]
    same = before.keys() & after.keys()
    assert distance({n: before[n] for n in same}, {n: after[n] for n in same}) > 3 * LARGEST
