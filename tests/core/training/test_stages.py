"""Stages: what can be said, what is refused, and how many batches it comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.training.stages import Curation, Stage, check_stages, chosen_stages

TRUNK = (
    Stage(name="first", schedule=(0.0, 0.8)),
    Stage(name="second", after="first", schedule=(0.8, 0.9)),
    Stage(name="third", after="second", schedule=(0.9, 1.0)),
    Stage(name="fork", after="second", schedule=(0.9, 1.0), stretch=3.75, order=1),
    Stage(name="tuned", after="third", schedule=None, stretch=0.1, curation=Curation(reference="fork"), order=2),
)


@given(total=st.integers(1, 10**7), shares=st.lists(st.floats(0.01, 0.99), max_size=5, unique=True))
def test_parts_of_a_trunk_meet_and_cover_it(total, shares):
    edges = [0.0, *sorted(shares), 1.0]
    ends = [Stage(name="part", schedule=pair).batches(total * 64, 64) for pair in zip(edges, edges[1:], strict=False)]
    assert ends[0][0] == 0
    assert all(last > first for first, last in ends)
    if total > 1000:
        assert ends[-1][1] == total
        assert all(a[1] == b[0] or a[1] - a[0] == 1 for a, b in zip(ends, ends[1:], strict=False))


def test_the_papers_numbers_of_steps():
    """Recipe of 40 B examples in batches of 32,768: 20,000 steps of warm-up are 0.655 B; the ends of the trunk's
    parts.
    """
    examples, batch = 40_000_000_000, 32_768
    assert TRUNK[0].batches(examples, batch) == (0, 976_562)
    assert TRUNK[1].batches(examples, batch)[1] == 1_098_633
    assert Stage(name="a", schedule=(0.9, 0.95)).batches(examples, batch)[1] == 1_159_668
    stretched = TRUNK[3].batches(examples, batch)
    assert stretched[0] == 0
    assert stretched[1] * batch == pytest.approx(15e9, rel=1e-3)
    assert TRUNK[4].batches(examples, batch)[1] * batch == pytest.approx(4e9, rel=1e-3)


def test_a_tree_of_stages_is_taken():
    check_stages(TRUNK)
    assert [stage.name for stage in chosen_stages(TRUNK, [])] == [stage.name for stage in TRUNK]


def test_stages_bring_along_what_they_go_on_from_and_whom_they_ask():
    assert [s.name for s in chosen_stages(TRUNK, ["third"])] == ["first", "second", "third"]
    assert [s.name for s in chosen_stages(TRUNK, ["tuned"])] == ["first", "second", "third", "fork", "tuned"]
    with pytest.raises(ValueError, match="no stage lost; this run has first"):
        chosen_stages(TRUNK, ["lost"])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "at least one stage"),
        ((TRUNK[0], TRUNK[0]), "Two stages are called first"),
        ((TRUNK[1],), "goes on from 'first', which is not a stage before it"),
        ((TRUNK[0], Stage(name="late", after="first", schedule=(0.85, 1.0))), "begins at 85% .* ends at 80%"),
        ((Stage(name="late", schedule=(0.5, 1.0)),), "begins at 50%"),
    ],
)
def test_stages_that_do_not_join_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        check_stages(stages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a/b"}, "becomes a folder"),
        ({"name": "a", "schedule": (0.5, 0.5)}, "0 <= begin < end <= 1"),
        ({"name": "a", "stretch": 0}, "stretch must be above 0"),
        ({"name": "a", "losses": {}}, "terms with weights above 0"),
        ({"name": "a", "losses": {"contrastive": 1.0, "captioning": 0.0}}, "terms with weights above 0"),
        ({"name": "a", "sequence_lengths": (16,), "image_size": 48}, "not both"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Stage(**arguments)


def test_curation_is_checked():
    with pytest.raises(ValueError, match="between 0 and 1, got 1.0"):
        Curation(reference="trunk", filter_ratio=1.0)
