"""The loss of held-out pairs."""

from functools import partial

import numpy as np
import pytest

from diptych.core.losses.contrastive import sigmoid_loss
from diptych.engine.training.held_out import held_out_loss

RNG = np.random.default_rng(0)
LOSS = partial(sigmoid_loss, logit_scale=4.0, logit_bias=-1.0)


def unit(count: int) -> np.ndarray:
    x = RNG.normal(size=(count, 6)).astype("float32")
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    logits = 4.0 * x @ y.T - 1.0
    signs = 2 * np.eye(len(x)) - 1
    return float(np.logaddexp(0, -signs * logits).sum(axis=1).mean())


def test_batches_are_as_large_as_in_training_and_the_first_text_of_a_picture_counts():
    images, texts = unit(7), unit(9)
    owners = np.array([2, 2, 0, 1, 5, 3, 3, 6, 4])  # of texts in any order; two pictures have two
    first = {owner: place for place, owner in reversed(list(enumerate(owners)))}
    y = np.stack([texts[first[picture]] for picture in range(7)])
    order = np.random.default_rng(0).permutation(7)
    expected = np.mean([by_hand(images[some], y[some]) for some in (order[:3], order[3:6])])
    assert held_out_loss(images, texts, owners, LOSS, batch_size=3) == pytest.approx(expected, rel=1e-5)


def test_pictures_that_stand_side_by_side_are_not_told_apart_alone():
    """Pairs that all look alike in each batch-sized stretch of a data set have, on average, the loss of any others."""
    stretches = np.repeat(unit(8), 8, axis=0)
    mixed = held_out_loss(stretches, stretches, np.arange(64), LOSS, batch_size=8)
    alike = by_hand(stretches[:8], stretches[:8])
    assert mixed < 0.7 * alike


def test_fewer_pairs_than_a_batch_are_one_batch_and_pictures_without_a_text_are_left():
    images, texts, owners = unit(5), unit(3), np.array([4, 0, 2])
    expected = by_hand(images[[0, 2, 4]], texts[[1, 2, 0]])
    assert held_out_loss(images, texts, owners, LOSS, batch_size=64) == pytest.approx(expected, rel=1e-5)
