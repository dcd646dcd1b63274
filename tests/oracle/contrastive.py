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
    (rows, drows), (columns, dcolumns) = (_against_pairs(logit_scale * some) for some in (cosines, cosines.T))
    loss = (rows.sum() + columns.sum()) / (2 * count)
    dlogits = (drows + dcolumns.T) / (2 * count)
    return loss, _through_logits(dlogits, image, text, cosines, logit_scale)


def softmax(logits, axis):
    """The shares of exp(logits) along an axis."""
    return np.exp(logits - np.logaddexp.reduce(logits, axis=axis, keepdims=True))


def softmax_weights(logits):
    """(rows' softmax + columns' softmax) / 2 - I, by what is not a pair: pairs lose what the others of both take."""
    return (_against_pairs(logits)[1] + _against_pairs(logits.T)[1].T) / 2


def _against_pairs(logits):
    """-log softmax of each row's pair, and its gradient, softmax - I. Nothing cancels: where the others are far below
    the pair, both keep all their digits.
    """
    away = logits - np.diag(logits)[:, None]
    np.fill_diagonal(away, -np.inf)
    losses = np.logaddexp(0.0, np.logaddexp.reduce(away, axis=1))
    gradient = np.exp(away - losses[:, None])
    np.fill_diagonal(gradient, -gradient.sum(axis=1))
    return losses, gradient


def _through_logits(dlogits, image, text, cosines, logit_scale):
    return logit_scale * dlogits @ text, logit_scale * dlogits.T @ image, (dlogits * cosines).sum()
