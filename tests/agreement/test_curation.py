"""Batch selection: every backend draws what the whole matrix in float64 draws, without that matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.data.sampling import example_rng
from tests.agreement.strategies import agreement_settings
from tests.oracle import selection
from tests.tolerances import UNIT_ROUNDOFF

SHAPES = (
    {"pairs": 24, "size": 12, "chunks": 3},
    {"pairs": 60, "size": 48, "chunks": 16},
    {"pairs": 33, "size": 5, "chunks": 1},
)


def _problem(seed, pairs, chunks):
    learner, reference = selection.draw_models(seed, pairs, width=12, reference_width=20)
    return learner, reference, example_rng(seed, 0).gumbel(size=(chunks, pairs)).astype(np.float32)


def _ask(pool, learner, reference, noise, **arguments):
    return pool.ask(
        "call",
        module="tests.agreement.curation_side",
        function="select",
        arguments={"learner": learner, "reference": reference, "noise": noise} | arguments,
    )


@agreement_settings(examples=8)
@given(
    shape=st.sampled_from(SHAPES),
    first_chunk=st.sampled_from(["score", "uniform"]),
    method=st.sampled_from(["learnability", "easy_reference", "hard_learner"]),
    seeds=st.lists(st.integers(0, 2**31 - 1), min_size=4, max_size=4),
)
def test_every_backend_draws_what_the_whole_matrix_gives(pool, shape, first_chunk, method, seeds):
    size, identical = shape["size"], 0
    for seed in seeds:
        learner, reference, noise = _problem(seed, shape["pairs"], shape["chunks"])
        scores = selection.scores_of(learner, reference, method)
        allowed = selection.tolerance(learner, reference, size=size)
        expected = selection.select(scores, noise, size=size, first_chunk=first_chunk)
        gap = selection.smallest_gap(scores, noise, size=size, first_chunk=first_chunk)
        replies = _ask(pool, learner, reference, noise, size=size, first_chunk=first_chunk, method=method)
        for backend, reply in replies.items():
            for way in ("eager", "compiled"):
                selection.check_selection(
                    reply[way], scores, noise, size=size, allowed=allowed, first_chunk=first_chunk
                )
                if gap > allowed:  # no two logits so close that roundoff decides
                    assert reply[way].tolist() == expected, f"{backend}, {way}, smallest gap {gap:.3g}"
                    identical += 1
            np.testing.assert_allclose(reply["scores"], np.diagonal(scores), rtol=0, atol=allowed)
    assert identical, "no case was clear enough to ask for the very same indices"


def test_the_whole_super_batch_is_drawn_once_where_size_is_all_of_it(pool):
    learner, reference, noise = _problem(3, 32, 4)
    for backend, reply in _ask(pool, learner, reference, noise, size=32).items():
        for way in ("eager", "compiled"):
            assert sorted(reply[way].tolist()) == list(range(32)), backend


@pytest.mark.parametrize("pairs", [1024, 4096])
def test_memory_is_a_few_rows_of_scores_and_not_the_matrix(pool, pairs):
    shape = {"pairs": pairs, "width": 8, "size": pairs // 2, "chunks": 16}
    replies = pool.ask("call", module="tests.agreement.curation_side", function="largest_array", arguments=shape)
    rows = shape["size"] // shape["chunks"]
    for backend, numbers in replies.items():
        assert rows * pairs <= numbers, f"{backend}: {numbers} numbers are too few to be true"
        assert numbers <= 5 * rows * pairs, f"{backend}: {numbers} numbers, and {rows} rows hold {rows * pairs}"
        assert numbers <= pairs**2 / 4, backend


def test_the_tolerance_is_far_below_what_noise_moves():
    learner, reference, noise = _problem(0, 60, 16)
    allowed = selection.tolerance(learner, reference, size=48)
    assert UNIT_ROUNDOFF["float32"] < allowed < 0.02 * np.std(noise)
