"""Biases equal their definitions, change sign with the groups, and are 0 where nothing is preferred."""

import numpy as np
import pytest

from diptych.core.evaluation.fairness import association_bias, representation_bias

RIGHT, UP = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def unit(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def images_preferring(share: float, images: int = 200) -> np.ndarray:
    """Embeddings of which this share is nearer to RIGHT than to UP."""
    angles = np.where(np.arange(images) < share * images, np.pi / 8, 3 * np.pi / 8)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("share", [0.0, 0.145, 0.5, 0.855, 1.0])
def test_representation_bias_is_the_share_less_a_half(share):
    result = representation_bias(images_preferring(share), RIGHT, UP)
    assert result["bias"] == pytest.approx(share - 0.5)
    assert result["interval"][0] <= result["bias"] <= result["interval"][1]
    assert result["images"] == 200


def test_exchanging_the_groups_turns_the_sign():
    rng = np.random.default_rng(0)
    images, a, b = unit(rng.normal(size=(101, 8))), unit(rng.normal(size=(5, 8))), unit(rng.normal(size=(3, 8)))
    forth, back = representation_bias(images, a, b), representation_bias(images, b, a)
    assert forth["bias"] == pytest.approx(-back["bias"])
    counted = np.mean([x @ unit(unit(a).mean(0)) > x @ unit(unit(b).mean(0)) for x in images]) - 0.5
    assert forth["bias"] == pytest.approx(counted)


def test_equal_texts_prefer_nobody():
    rng = np.random.default_rng(1)
    images, text = unit(rng.normal(size=(50, 96))).astype(np.float32), unit(rng.normal(size=96)).astype(np.float32)
    assert representation_bias(images, text, text)["bias"] == 0
    assert representation_bias(np.ones((50, 2)), RIGHT, UP)["bias"] == 0


def test_the_length_of_a_prompt_does_not_count():
    images = images_preferring(0.7)
    assert representation_bias(images, np.stack([9 * RIGHT, RIGHT]), 100 * UP)["bias"] == pytest.approx(0.2)


def test_association_bias_is_the_gap_between_the_groups():
    # 60 images of A, 3 of 4 with label 0; 40 of B, 1 of 4 with it.
    a, b = images_preferring(0.75, 60), images_preferring(0.25, 40)
    in_a = np.arange(100) < 60
    result = association_bias(np.concatenate([a, b]), in_a, np.stack([RIGHT, UP]), label_names=["chef", "nurse"])
    np.testing.assert_allclose(result["per_label"], [0.5, -0.5])
    assert (result["images_a"], result["images_b"]) == (60, 40)
    assert result["mean"] == result["largest"] == pytest.approx(0.5)
    assert result["label_names"] == ["chef", "nurse"]
    other = association_bias(np.concatenate([a, b]), ~in_a, np.stack([RIGHT, UP]))
    np.testing.assert_allclose(other["per_label"], [-0.5, 0.5])


def test_gaps_of_all_labels_cancel_and_ties_are_shared():
    rng = np.random.default_rng(2)
    images, labels = unit(rng.normal(size=(80, 6))), unit(rng.normal(size=(5, 6)))
    gaps = association_bias(images, rng.random(80) < 0.4, np.concatenate([labels, labels[:1]]))["per_label"]
    assert sum(gaps) == pytest.approx(0)
    assert gaps[0] == pytest.approx(gaps[5])
    assert max(map(abs, gaps)) > 0.01


def test_the_same_images_for_both_groups_show_no_association():
    images = unit(np.random.default_rng(3).normal(size=(30, 4)))
    result = association_bias(np.concatenate([images, images]), np.arange(60) < 30, np.eye(4))
    np.testing.assert_allclose(result["per_label"], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: representation_bias(np.zeros((0, 2)), RIGHT, UP), r"shape \(0, 2\)"),
        (lambda: representation_bias(np.full((3, 2), np.nan), RIGHT, UP), "not finite"),
        (lambda: representation_bias(np.ones((3, 4)), RIGHT, UP), "width 4"),
        (lambda: association_bias(np.ones((3, 2)), np.ones(3), np.eye(2)), "Both groups need images"),
        (lambda: association_bias(np.ones((3, 2)), np.arange(2) < 1, np.eye(2)), "the group of each image"),
        (lambda: association_bias(np.ones((3, 2)), np.arange(3) < 1, np.ones((1, 2))), "at least two labels"),
    ],
)
def test_what_has_no_bias_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
