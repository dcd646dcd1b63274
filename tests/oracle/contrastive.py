"""Normalised embeddings and the two losses between them."""

import numpy as np


def normalize(x):
    """y = x / (‖x‖ + ε) with ε = 1e-8, over the last axis.

    With r = ‖x‖: dx = dy / (r + ε) - x (x·dy) / (r (r + ε)²). At x = 0 the second term is 0.
    """
    norm = np.sqrt(np.square(x).sum(-1, keepdims=True))
    padded = norm + 1e-8

    def backward(dy):
        along = (x * dy).sum(-1, keepdims=True) / (np.maximum(norm, 1e-12) * padded**2)
        return dy / padded - x * along

    return x / padded, backward


def log_sigmoid(x):
    """log(1 / (1 + exp(-x))), without overflow."""
    return -np.logaddexp(0.0, -x)


def sigmoid(x):
    return np.exp(log_sigmoid(x))


def sigmoid_loss(image, text, *, logit_scale, logit_bias, offset=0, denominator=None):
    """L = -(1/b) Σ_ij log σ(z_ij l_ij), with l = t x yᵀ + bias and z = +1 where j = i + offset, -1 elsewhere.

    b is the denominator, by default the number of images. dL/dl_ij = -(1/b) z_ij σ(-z_ij l_ij). Returns L and
    (dx, dy, dt, dbias). Zhai et al. 2023, equation 1 with the sign of algorithm 1.
    """
    count = denominator or len(image)
    cosines = image @ text.T
    logits = logit_scale * cosines + logit_bias
    signs = 2.0 * np.eye(*cosines.shape, k=offset) - 1.0
    dlogits = -signs * sigmoid(-signs * logits) / count
    loss = -log_sigmoid(signs * logits).sum() / count
    return loss, (*_through_logits(dlogits, image, text, cosines, logit_scale), dlogits.sum())


def softmax_contrastive_loss(image, text, *, logit_scale):
    """L = -(1/2b) Σ_i [log softmax_j(l_ij)_i + log softmax_j(l_ji)_i], with l = t x yᵀ.

    dL/dl = (rows' softmax + columns' softmax - 2 I) / 2b. Returns L and (dx, dy, dt).
    Radford et al. 2021, figure 3.
    """
    count = len(image)
    cosines = image @ text.T
    logits = logit_scale * cosines
    rows = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    columns = logits - np.logaddexp.reduce(logits, axis=0, keepdims=True)
    loss = -(np.trace(rows) + np.trace(columns)) / (2 * count)
    dlogits = (np.exp(rows) + np.exp(columns) - 2.0 * np.eye(count)) / (2 * count)
    return loss, _through_logits(dlogits, image, text, cosines, logit_scale)


def softmax(logits, axis):
    """The shares of exp(logits) along an axis."""
    return np.exp(logits - np.logaddexp.reduce(logits, axis=axis, keepdims=True))


def _through_logits(dlogits, image, text, cosines, logit_scale):
    return logit_scale * dlogits @ text, logit_scale * dlogits.T @ image, (dlogits * cosines).sum()
