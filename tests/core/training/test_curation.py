"""Batch selection: what can be learnt and is not known yet, in whole batches; a judge that refuses the rest."""

import numpy as np
import pytest
from keras import ops

from diptych.core.training.curation import (
    Scored,
    gumbel_noise,
    pair_scores,
    select_by_learnability,
    super_batch_size,
)
from tests.oracle import selection

PAIRS, SIZE, CHUNKS = 48, 24, 4


def _select(learner, reference, noise, **arguments):
    models = [None if model is None else Scored(**model) for model in (learner, reference)]
    return ops.convert_to_numpy(select_by_learnability(*models, noise=noise, **arguments))


@pytest.fixture(scope="module")
def problem():
    """Two models, the noise, their scores and how far roundoff may carry one."""
    learner, reference = selection.draw_models(5, PAIRS)
    noise = gumbel_noise(np.random.default_rng(5), CHUNKS, PAIRS)
    scores = selection.scores_of(learner, reference)
    allowed = selection.tolerance(learner, reference, size=SIZE)
    assert selection.smallest_gap(scores, noise, size=SIZE) > allowed
    return learner, reference, noise, scores, allowed


def test_it_draws_what_the_whole_loop_over_the_whole_matrix_draws(problem):
    learner, reference, noise, scores, allowed = problem
    drawn = _select(learner, reference, noise, size=SIZE)
    selection.check_selection(drawn, scores, noise, size=SIZE, allowed=allowed)
    assert drawn.tolist() == selection.select(scores, noise, size=SIZE)


def _by_the_diagonal(scores, noise):
    drawn = []
    for row in noise:
        logits = np.diagonal(scores) + row
        logits[drawn] = -np.inf
        drawn += np.argsort(-logits)[: SIZE // CHUNKS].tolist()
    return drawn


def _one_sided(scores, noise):
    """Without s_kj."""
    drawn = []
    for row in noise:
        logits = np.diagonal(scores) + scores[:, drawn].sum(axis=1) + row
        logits[drawn] = -np.inf
        drawn += np.argsort(-logits)[: SIZE // CHUNKS].tolist()
    return drawn


WRONG = {
    "ignores the reference": lambda a, b, noise: selection.select(selection.pair_losses(a), noise, size=SIZE),
    "ignores the learner": lambda a, b, noise: selection.select(-selection.pair_losses(b), noise, size=SIZE),
    "flips the sign": lambda a, b, noise: selection.select(-selection.scores_of(a, b), noise, size=SIZE),
    "gives both models the learner's scale": lambda a, b, noise: selection.select(
        selection.scores_of(a, b | {"logit_scale": a["logit_scale"], "logit_bias": a["logit_bias"]}), noise, size=SIZE
    ),
    "ignores how pairs meet": lambda a, b, noise: _by_the_diagonal(selection.scores_of(a, b), noise),
    "ignores how texts meet the drawn images": lambda a, b, noise: _one_sided(selection.scores_of(a, b), noise),
    "draws the first chunk evenly": lambda a, b, noise: selection.select(
        selection.scores_of(a, b), noise, size=SIZE, first_chunk="uniform"
    ),
    "uses the first noise throughout": lambda a, b, noise: selection.select(
        selection.scores_of(a, b), np.repeat(noise[:1], CHUNKS, axis=0), size=SIZE
    ),
    "draws in one chunk": lambda a, b, noise: selection.select(selection.scores_of(a, b), noise[:1], size=SIZE),
    "repeats an index": lambda a, b, noise: [*(right := _right(a, b, noise))[:-1], right[0]],
    "counts backwards": lambda a, b, noise: _right(a, b, noise)[::-1],
    "goes beyond the pairs": lambda a, b, noise: [*_right(a, b, noise)[:-1], PAIRS],
}


def _right(learner, reference, noise):
    return selection.select(selection.scores_of(learner, reference), noise, size=SIZE)


@pytest.mark.parametrize("wrong", WRONG)
def test_the_judge_refuses_a_selection_that(wrong, problem):
    learner, reference, noise, scores, allowed = problem
    answer = np.asarray(WRONG[wrong](learner, reference, noise), np.int32)
    with pytest.raises(AssertionError):
        selection.check_selection(answer, scores, noise, size=SIZE, allowed=allowed)


def test_pairs_may_come_in_any_order_and_images_and_texts_may_change_places(problem):
    learner, reference, noise, _, _ = problem
    drawn = _select(learner, reference, noise, size=SIZE)
    order = np.random.default_rng(0).permutation(PAIRS)
    mixed = [model | {side: model[side][order] for side in ("image", "text")} for model in (learner, reference)]
    np.testing.assert_array_equal(order[_select(*mixed, noise[:, order], size=SIZE)], drawn)
    swapped = [model | {"image": model["text"], "text": model["image"]} for model in (learner, reference)]
    np.testing.assert_array_equal(_select(*swapped, noise, size=SIZE), drawn)


@pytest.mark.parametrize("chunks", [1, 3, 16])
def test_all_are_drawn_once_where_size_is_all(chunks):
    learner, reference = selection.draw_models(0, PAIRS)
    drawn = _select(learner, reference, gumbel_noise(np.random.default_rng(0), chunks, PAIRS), size=PAIRS)
    assert drawn.dtype == np.int32
    assert sorted(drawn.tolist()) == list(range(PAIRS))


def test_one_pair_is_drawn_as_often_as_its_score_says():
    learner, reference = selection.draw_models(1, 5)
    chances = np.exp(np.diagonal(selection.scores_of(learner, reference)))
    chances /= chances.sum()
    rng, draws = np.random.default_rng(0), 600
    counts = np.bincount(
        [_select(learner, reference, gumbel_noise(rng, 1, 5), size=1)[0] for _ in range(draws)], minlength=5
    )
    assert chances.max() > 2 * chances.min()
    assert (np.abs(counts - draws * chances) < 4 * np.sqrt(draws * chances)).all(), (counts, chances)


def _planted(seed):
    """40 pairs each of: learnable (only the reference knows them), learnt (both do), noise (neither does, nor
    could).
    """
    rng = np.random.default_rng(seed)
    unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)  # noqa: E731
    kinds = np.repeat(["learnable", "learnt", "noise"], 40)[rng.permutation(120)]
    models = []
    for known in (kinds == "learnt", kinds != "noise"):
        image = unit(rng.normal(size=(120, 64)))
        text = unit(np.where(known[:, None], image + 0.05 * rng.normal(size=(120, 64)), rng.normal(size=(120, 64))))
        models.append({"image": image, "text": text, "logit_scale": 10.0, "logit_bias": -5.0})
    return kinds, *models


@pytest.mark.parametrize("first_chunk", ["score", "uniform"])
def test_what_can_be_learnt_is_found_and_what_is_known_or_noise_is_left(first_chunk):
    counts = {"learnable": 0, "learnt": 0, "noise": 0}
    for seed in range(5):
        kinds, learner, reference = _planted(seed)
        noise = gumbel_noise(np.random.default_rng(seed), 10, 120)
        for kind in kinds[_select(learner, reference, noise, size=40, first_chunk=first_chunk)]:
            counts[kind] += 1
    chance = 200 / 3
    assert counts["learnable"] > 2 * chance, counts
    assert counts["learnt"] < 0.5 * chance, counts
    assert counts["noise"] < 0.5 * chance, counts


def test_one_model_alone_takes_noise_or_what_is_known_for_learnable():
    kinds, learner, reference = _planted(0)
    noise = gumbel_noise(np.random.default_rng(0), 10, 120)
    hard = kinds[_select(learner, None, noise, size=40, method="hard_learner")]
    easy = kinds[_select(None, reference, noise, size=40, method="easy_reference")]
    assert (hard == "noise").sum() > 10
    assert (hard == "learnt").sum() < 5
    assert (easy == "learnt").sum() > 10
    assert (easy == "noise").sum() < 5


def test_a_batch_is_not_drawn_pair_by_pair():
    """Two copies of one learnable pair: the second meets the first as a negative that the reference finds hard, and
    falls.
    """
    kinds, learner, reference = _planted(2)
    first, second = np.flatnonzero(kinds == "learnable")[:2]
    for side in ("image", "text"):
        reference[side][second] = reference[side][first]
    noise = np.zeros((8, 120), np.float32)
    noise[0, first] = 100.0
    scores = selection.scores_of(learner, reference)
    drawn = _select(learner, reference, noise, size=32).tolist()
    assert drawn[0] == first
    assert scores[first, second] + scores[second, first] < -4
    assert second not in drawn
    assert (
        np.argsort(-ops.convert_to_numpy(pair_scores(Scored(**learner), Scored(**reference)))).tolist().index(second)
        < 40
    )


@pytest.mark.parametrize(
    ("batch_size", "ratio", "expected"),
    [(32_768, 0.5, 65_536), (32_768, 0.75, 131_072), (32_768, 0.8, 163_840), (32_768, 0.9, 327_680), (20, 1 / 3, 30),
     (33, 0.4, 55), (7, 0.0, 7)],
)  # fmt: skip
def test_super_batches_have_the_published_sizes(batch_size, ratio, expected):
    assert super_batch_size(batch_size, ratio) == expected


@pytest.mark.parametrize(
    ("batch_size", "ratio", "words"),
    [(32, 1.0, "0 <= filter_ratio < 1"), (32, -0.1, "got 32 and -0.1"), (0, 0.5, "batch_size >= 1"),
     (32, 0.4, "multiple of 3")],
)  # fmt: skip
def test_a_ratio_that_leaves_no_batch_is_refused(batch_size, ratio, words):
    with pytest.raises(ValueError, match=words):
        super_batch_size(batch_size, ratio)


def test_noise_is_gumbel_and_of_its_seed():
    noise = gumbel_noise(np.random.default_rng(1), 16, 4096)
    assert noise.shape == (16, 4096)
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise, gumbel_noise(np.random.default_rng(1), 16, 4096))
    assert abs(noise.mean() - np.euler_gamma) < 5 * np.pi / np.sqrt(6 * noise.size)
    assert abs(np.mean(noise < 0) - np.exp(-1)) < 0.01
    assert np.isfinite(noise).all()


def _changed(change):
    arguments = {"size": SIZE, "noise": np.zeros((CHUNKS, PAIRS), np.float32)}
    models = dict(zip(("learner", "reference"), selection.draw_models(0, PAIRS), strict=True))
    change(arguments, models)
    return _select(models["learner"], models["reference"], arguments.pop("noise"), **arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, m: a.update(size=25), "25 of 48 pairs in 4 equal chunks"),
        (lambda a, m: a.update(size=52), "at most 48"),
        (lambda a, m: a.update(size=0), "Cannot draw 0"),
        (lambda a, m: a.update(noise=np.zeros(PAIRS)), r"\[chunks, pairs\]"),
        (lambda a, m: a.update(noise=np.zeros((4, 47))), r"48 pairs, got shape \(4, 47\)"),
        (lambda a, m: a.update(method="loss"), "one of learnability, easy_reference, hard_learner"),
        (lambda a, m: a.update(first_chunk="score_based"), "one of score, uniform"),
        (lambda a, m: m.update(reference=None), "needs the embeddings of the reference"),
        (lambda a, m: m["learner"].update(text=m["learner"]["text"][1:]), "belong together"),
        (lambda a, m: m.update(learner=selection.draw_models(0, 47)[0]), "the same pairs"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        _changed(change)
