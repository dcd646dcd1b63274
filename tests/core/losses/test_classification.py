"""Cross-entropies of classifiers against sums over all classes in float64, values and gradients."""

import keras
import numpy as np
import pytest

from diptych.core.losses.classification import cross_entropy_of_shares, sigmoid_cross_entropy, softmax_cross_entropy
from tests.models.examples import numpy_of, value_and_gradients

LOGITS = np.array([[2.0, -1.0, 0.5, 80.0], [0.0, 0.0, 0.0, 0.0], [-90.0, 3.0, 3.0, -2.0]])
LABELS = np.array([0, 2, 1], np.int32)
TARGETS = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0.25]])


def softmax_oracle(smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Losses and their derivatives by the logits: p - q."""
    shifted = np.exp(LOGITS - LOGITS.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    q = (1 - smoothing) * np.eye(4)[LABELS] + smoothing / 4
    log_p = LOGITS - LOGITS.max(axis=1, keepdims=True) - np.log(shifted.sum(axis=1, keepdims=True))
    return -(q * log_p).sum(axis=1), p - q


def sigmoid_oracle(smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    q = (1 - smoothing) * TARGETS + smoothing / 2
    losses = q * np.logaddexp(0, -LOGITS) + (1 - q) * np.logaddexp(0, LOGITS)
    return losses.sum(axis=1), 1 / (1 + np.exp(-LOGITS)) - q


def smoothed_shares(logits, shares, *, smoothing: float):
    return cross_entropy_of_shares(logits, (1 - smoothing) * shares + smoothing / 4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("loss", "targets", "oracle"),
    [
        (softmax_cross_entropy, LABELS, softmax_oracle),
        (smoothed_shares, np.eye(4)[LABELS], softmax_oracle),
        (sigmoid_cross_entropy, TARGETS, sigmoid_oracle),
    ],
)
def test_values_and_gradients_are_those_of_the_sums(loss, targets, oracle, smoothing):
    logits = keras.Variable(LOGITS.astype("float32"))
    given = targets.astype("int32" if targets.dtype.kind == "i" else "float32")
    expected, slopes = oracle(smoothing)
    np.testing.assert_allclose(numpy_of(loss(logits.value, given, smoothing=smoothing)), expected, rtol=1e-5, atol=1e-6)

    def total():
        return keras.ops.sum(loss(logits.value, keras.ops.convert_to_tensor(given), smoothing=smoothing))

    _, (gradient,) = value_and_gradients(total, [logits])
    np.testing.assert_allclose(numpy_of(gradient), slopes, rtol=1e-5, atol=1e-6)
