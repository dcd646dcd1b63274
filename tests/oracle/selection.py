"""Batch selection by the whole matrix of scores and the whole loop, in float64, and the judge of a selection."""

from collections.abc import Mapping

import numpy as np

from tests.oracle.contrastive import log_sigmoid
from tests.tolerances import UNIT_ROUNDOFF

FLOAT32_ROUNDINGS = 8
"""Roundings of one term beside those of its inner product: logit, softplus, sign, and the sum it goes into."""


def pair_losses(model: Mapping) -> np.ndarray:
    """l_ij = -log σ(z_ij (t x_i·y_j + b)), [pairs, pairs], of {"image", "text", "logit_scale", "logit_bias"}."""
    image, text = (np.asarray(model[side], np.float64) for side in ("image", "text"))
    signs = 2.0 * np.eye(len(image)) - 1.0
    return -log_sigmoid(signs * (model["logit_scale"] * image @ text.T + model["logit_bias"]))


def scores_of(learner: Mapping, reference: Mapping, method: str = "learnability") -> np.ndarray:
    """s_ij, [pairs, pairs]."""
    if method == "easy_reference":
        return -pair_losses(reference)
    if method == "hard_learner":
        return pair_losses(learner)
    return pair_losses(learner) - pair_losses(reference)


def given(scores: np.ndarray, drawn: list[int]) -> np.ndarray:
    """s_jj + Σ_k (s_kj + s_jk) over the drawn pairs k, -inf at those: one pair and one term at a time."""
    logits = np.diagonal(scores).copy()
    for k in drawn:
        logits += scores[k, :] + scores[:, k]
    logits[drawn] = -np.inf
    return logits


def select(scores: np.ndarray, noise: np.ndarray, *, size: int, first_chunk: str = "score") -> list[int]:
    """The selection itself: indices in the order of drawing."""
    drawn: list[int] = []
    for row in noise.astype(np.float64):
        even = not drawn and first_chunk == "uniform"
        logits = (np.zeros(len(scores)) if even else given(scores, drawn)) + row
        drawn += np.argsort(-logits, kind="stable")[: size // len(noise)].tolist()
    return drawn


def tolerance(learner: Mapping, reference: Mapping, *, size: int) -> float:
    """How far a float32 logit may be off: u · (√width + roundings) · scale for each of the 2 size + 1 terms of each
    model, and one more for the noise."""
    terms = 0.0
    for model in (learner, reference):
        width = np.asarray(model["image"]).shape[1]
        largest_logit = abs(model["logit_scale"]) + abs(model["logit_bias"]) + 1.0
        terms += largest_logit * (np.sqrt(width) + FLOAT32_ROUNDINGS)
    return float(UNIT_ROUNDOFF["float32"] * terms * (2 + 2 * size))


def check_selection(indices, scores: np.ndarray, noise: np.ndarray, *, size: int, allowed: float, first_chunk="score"):
    """Raise AssertionError unless `indices` are a draw by these scores and this noise.

    Each chunk must hold the largest perturbed logits given the chunks before it, but for near ties: one that was left
    out may lie above one that was taken by `allowed` at most.
    """
    indices = np.asarray(indices)
    assert indices.dtype == np.int32, f"indices are {indices.dtype}, not int32"
    assert indices.shape == (size,), f"{indices.shape} instead of {size} indices"
    assert indices.min() >= 0, "an index below 0"
    assert indices.max() < len(scores), f"index {indices.max()} of {len(scores)} pairs"
    assert len(set(indices.tolist())) == size, "an index was drawn twice"
    drawn: list[int] = []
    for number, (chunk, row) in enumerate(zip(indices.reshape(len(noise), -1), noise.astype(np.float64), strict=True)):
        even = number == 0 and first_chunk == "uniform"
        logits = (np.zeros(len(scores)) if even else given(scores, drawn)) + row
        left = np.setdiff1d(np.arange(len(scores)), np.concatenate([np.asarray(drawn, int), chunk]))
        if len(left):
            gap = logits[left].max() - logits[chunk].min()
            assert gap <= allowed, (
                f"chunk {number}: pair {left[logits[left].argmax()]} should have been drawn by {gap:.3g}"
            )
        assert np.all(np.diff(logits[chunk]) <= allowed), f"chunk {number} is not in order"
        drawn += chunk.tolist()


def smallest_gap(scores: np.ndarray, noise: np.ndarray, *, size: int, first_chunk: str = "score") -> float:
    """The least distance between two neighbours among the largest perturbed logits, over all chunks: below it, order is
    luck.
    """
    drawn: list[int] = []
    smallest = np.inf
    per_chunk = size // len(noise)
    for row in noise.astype(np.float64):
        even = not drawn and first_chunk == "uniform"
        logits = (np.zeros(len(scores)) if even else given(scores, drawn)) + row
        order = np.argsort(-logits, kind="stable")
        ranked = logits[order][: per_chunk + 1]
        smallest = min(smallest, float(np.min(-np.diff(ranked[np.isfinite(ranked)]), initial=np.inf)))
        drawn += order[:per_chunk].tolist()
    return smallest


def draw_models(seed: int, pairs: int, width: int = 16, *, reference_width: int | None = None) -> tuple[dict, dict]:
    """A learner and a reference of random unit embeddings, the texts some way towards their images, scales of
    training.
    """
    rng = np.random.default_rng(seed)
    models = []
    for dim, scale, bias in ((width, 7.0, -5.0), (reference_width or width, 20.0, -9.0)):
        image = rng.normal(size=(pairs, dim))
        text = rng.normal(size=(pairs, dim)) + image * rng.uniform(0, 2, (pairs, 1))
        image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        models.append(
            {
                "image": image.astype(np.float32),
                "text": text.astype(np.float32),
                "logit_scale": scale * rng.uniform(0.8, 1.2),
                "logit_bias": bias,
            }
        )
    return models[0], models[1]
