"""Laws of zero-shot classification."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.evaluation.zero_shot import (
    NO_ANSWER,
    canonicalize,
    class_embeddings,
    class_prompts,
    classify,
    kind_scores,
    zero_shot,
)

NAMES = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "keep", "clean"),
    [
        ("Travel & Places", None, "travel places"),
        ("jack-o'-lantern", None, "jackolantern"),
        ("great_white  shark.", None, "great white shark"),
        ("A photo of the {}!", "{}", "a photo of the {}"),
        ("tench, Tinca tinca", ",", "tench, tinca tinca"),
        ("ÉTÉ «été»", None, "été «été»"),
    ],
)
def test_canonicalised_text(text, keep, clean):
    assert canonicalize(text, keep=keep) == clean


@settings(deadline=None)
@given(st.text(), st.sampled_from([None, "{}", ","]))
def test_canonicalising_twice_changes_nothing(text, keep):
    once = canonicalize(text, keep=keep)
    # Lower-casing may itself need two passes (İ), and is not ours to change.
    if once == once.lower():
        assert canonicalize(once, keep=keep) == once


def test_every_class_gets_every_template_and_its_first_alias():
    prompts = class_prompts(["Great_White shark, white shark", "hen"], ["{}", "A photo of the {}."])
    assert prompts == ["great white shark", "a photo of the great white shark", "hen", "a photo of the hen"]
    with pytest.raises(ValueError, match="exactly one"):
        class_prompts(["hen"], ["a photo"])


def test_a_class_embedding_is_the_normalised_mean_of_normalised_prompts():
    prompts = np.array([[[10.0, 0.0], [0.0, 0.1]], [[0.0, 2.0], [0.0, 5.0]]])
    expected = [[np.sqrt(0.5), np.sqrt(0.5)], [0.0, 1.0]]
    np.testing.assert_allclose(class_embeddings(prompts, 2), expected, rtol=1e-6)
    np.testing.assert_allclose(class_embeddings(prompts.reshape(4, 2), 2), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="shared evenly"):
        class_embeddings(np.ones((5, 2)), 2)


def test_a_kind_scores_the_mean_probability_of_its_prompts():
    rng = np.random.default_rng(0)
    images, prompts = rng.normal(size=(5, 4)), [rng.normal(size=(n, 4)) for n in (1, 3)]
    expected = [np.log(np.exp(7 * images @ some.T).mean(axis=1)) for some in prompts]
    np.testing.assert_allclose(kind_scores(images, prompts, logit_scale=7), np.transpose(expected), rtol=1e-12)
    # Four times the same prompts are the same kind, and a large temperature does not overflow.
    repeated = kind_scores(images, [np.tile(prompts[1], (4, 1))], logit_scale=5e4)
    np.testing.assert_allclose(repeated, kind_scores(images, prompts[1:], logit_scale=5e4), rtol=1e-12)
    assert np.isfinite(repeated).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_counts_and_accuracies_are_those_of_the_answers(truth_and_answer):
    labels, answers = map(np.array, zip(*truth_and_answer, strict=True))
    result = zero_shot(np.eye(3)[answers], labels, NAMES)
    assert result["accuracy"] == pytest.approx(np.mean(labels == answers))
    assert np.sum(result["confusion"]) == len(labels)
    assert result["no_answer"] == [0, 0, 0]
    for truth in range(3):
        assert result["confusion"][truth] == [np.sum((labels == truth) & (answers == answer)) for answer in range(3)]
        mine = labels == truth
        assert result["per_class"][truth] == (pytest.approx(np.mean(answers[mine] == truth)) if mine.any() else None)
    assert result["interval"][0] <= result["accuracy"] <= result["interval"][1]


@pytest.mark.parametrize("collapsed", [0.0, 1.0, np.nan])
def test_a_collapsed_model_answers_nothing(collapsed):
    scores = np.full((9, 3), collapsed)
    assert (classify(scores) == NO_ANSWER).all()
    result = zero_shot(scores, np.arange(9) % 3, NAMES)
    assert result["accuracy"] == 0.0
    assert result["no_answer"] == [3, 3, 3]
    assert not np.any(result["confusion"])


def test_chance_is_what_the_largest_class_gives():
    assert zero_shot(np.eye(3)[[0, 0, 0, 1]], np.array([0, 0, 0, 1]), NAMES)["chance"] == 0.75


@pytest.mark.parametrize("labels", [np.array([0, 3]), np.array([0, -1]), np.array([0]), np.array([], int)])
def test_labels_outside_the_classes_are_refused(labels):
    with pytest.raises(ValueError, match="label"):
        zero_shot(np.eye(3)[:2], labels, NAMES)
