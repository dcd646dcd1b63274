"""Active batch selection: of a large super-batch, train on the part that is still to be learnt and can be.

A pair is worth training on where the learner's loss is high and a reference model's is low: it is not known yet, and it
is not noise. The pairwise sigmoid loss is a sum over pairs, so the same holds for whole batches: with

    s_ij = l_ij(learner) - l_ij(reference),   l_ij = -log σ(z_ij (t x_i·y_j + b)),   z = 1 where i = j and -1 elsewhere,

the learnability of a batch is Σ s_ij over its images i and texts j. `select_by_learnability` draws a batch by it, a
chunk at a time, each chunk given those before it.

How sure each part is:

- Stated by SigLIP 2 (Tschannen et al. 2025, section 2.5): the smallest models are fine-tuned on data selected by
  learnability, half of each super-batch for B/16 (65,536 -> 32,768) and a quarter for B/32; the reference is a larger
  model fine-tuned on curated data; nothing is distilled explicitly.
- Known to us from accounts and ports of JEST (Evans et al. 2024) and ACID (Udandarao et al. 2024), not from the papers'
  text: the chunks and what a later chunk is drawn by, 16 chunks, a ratio of 0.8 as the default elsewhere, and `method`.
  Ports disagree about the first chunk, which one draws evenly and another by the diagonal: `first_chunk`.
- Ours: drawing by Gumbel noise, sums in place of the matrix of scores, and the default of `first_chunk`. Selection sees
  the super-batch it is given, which in a run by several processes is that of all.
"""

import math
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
from keras import ops

Method = Literal["learnability", "easy_reference", "hard_learner"]

SIGNS = {"learnability": (1.0, -1.0), "easy_reference": (0.0, -1.0), "hard_learner": (1.0, 0.0)}
"""What the loss of the learner and of the reference count for in a score."""

FIRST_CHUNKS = ("score", "uniform")


class Scored(NamedTuple):
    """What one model makes of a super-batch: embeddings `[pairs, dim]`, L2-normalised, and its own scale t and bias b.

    Learner and reference may differ in their dim.
    """

    image: Any
    text: Any
    logit_scale: Any
    logit_bias: Any


def select_by_learnability(
    learner: Scored | None,
    reference: Scored | None,
    *,
    size: int,
    noise,
    first_chunk: Literal["score", "uniform"] = "score",
    method: Method = "learnability",
):
    """Draw `size` of the pairs, in equal chunks, each without replacement in proportion to exp(score given those drawn
    before).

        chunk 1:  s_jj                                    (or 0 for every pair, if first_chunk="uniform")
        later:    s_jj + Σ_k (s_kj + s_jk)  over the pairs k drawn so far

    A draw without replacement in proportion to exp(a_j) takes the largest a_j + noise_j, with Gumbel noise. The sums
    over k are carried from chunk to chunk, so memory is O(pairs · size / chunks) and never pairs². Nothing here has a
    gradient.

    Args:
        learner, reference: the two models' views of the same pairs, in the same order; None where `method` does not ask
            it.
        size: pairs to draw, a multiple of the number of chunks.
        noise: float32 `[chunks, pairs]`, independent and from Gumbel(0, 1): see `gumbel_noise`. 16 chunks are usual.
        first_chunk: what the first chunk is drawn by.
        method: "learnability"; or the loss of one model alone, s = -l(reference) or s = l(learner).

    Returns:
        int32 `[size]`, no index twice, in the order of drawing: chunk after chunk, the largest first.

    Raises:
        ValueError: for shapes that do not agree, a size that cannot be drawn, or names that are not known.

    Reference: Evans et al. 2024, "Data curation via joint example selection further accelerates multimodal learning",
    and Udandarao et al. 2024, "Active Data Curation Effectively Distills Large-Scale Multimodal Models"; see the notes
    above.
    """
    sides = _sides(learner, reference, method)
    chunks = _checked_chunks(sides, size, noise)
    if first_chunk not in FIRST_CHUNKS:
        raise ValueError(f"first_chunk must be one of {', '.join(FIRST_CHUNKS)}, got {first_chunk!r}.")
    noise = ops.cast(noise, "float32")
    chunk_size = size // chunks
    scores = _true_pairs(sides)
    drawn = _largest((scores if first_chunk == "score" else ops.zeros_like(scores)) + noise[0], chunk_size)
    if chunks == 1:
        return drawn
    drawn = ops.concatenate([ops.expand_dims(drawn, 0), ops.zeros((chunks - 1, chunk_size), dtype="int32")])
    taken = ops.full((chunk_size,), -math.inf, dtype="float32")

    def draw_next(number, scores_and_drawn):
        scores, drawn = scores_and_drawn
        last = ops.take(drawn, number - 1, axis=0)
        # -inf plus a finite score stays -inf: what was drawn is never drawn again.
        scores = ops.scatter_update(scores + _meetings(sides, last), ops.expand_dims(last, 1), taken)
        chunk = _largest(scores + ops.take(noise, number, axis=0), chunk_size)
        return scores, ops.scatter_update(drawn, ops.reshape(number, (1, 1)), ops.expand_dims(chunk, 0))

    _, drawn = ops.fori_loop(1, chunks, draw_next, (scores, drawn))
    return ops.reshape(drawn, (size,))


def pair_scores(learner: Scored | None, reference: Scored | None, *, method: Method = "learnability"):
    """The score s_jj of each pair alone, float32 `[pairs]`; arguments and errors as for `select_by_learnability`."""
    return _true_pairs(_sides(learner, reference, method))


def super_batch_size(batch_size: int, filter_ratio: float) -> int:
    """Pairs to score so that a batch is left when the share `filter_ratio` is dropped: batch_size / (1 - filter_ratio).

    Raises:
        ValueError: a ratio outside [0, 1), or one that leaves no whole number of pairs.
    """
    if batch_size < 1 or not 0 <= filter_ratio < 1:
        raise ValueError(
            f"super_batch_size needs batch_size >= 1 and 0 <= filter_ratio < 1, got {batch_size} and {filter_ratio}. A "
            "ratio of 0.5 keeps half, 0.75 a quarter."
        )
    kept = 1 - Fraction(filter_ratio).limit_denominator(10_000)
    size = batch_size / kept
    if size.denominator != 1:
        step = kept.numerator // math.gcd(kept.numerator, kept.denominator)
        raise ValueError(
            f"No whole super-batch leaves {batch_size} pairs when {filter_ratio} of it are dropped ({float(size):.1f} "
            f"would). Use a batch size that is a multiple of {step}, or a ratio such as 0.5, 0.75 or 0.8."
        )
    return int(size)


def gumbel_noise(rng: np.random.Generator, chunks: int, pairs: int) -> np.ndarray:
    """The noise of one selection, float32 `[chunks, pairs]`, independent draws from Gumbel(0, 1)."""
    return rng.gumbel(size=(chunks, pairs)).astype(np.float32)


def _true_pairs(sides):
    """Σ ± softplus(-(t x_j·y_j + b)), [pairs]."""
    return sum(
        sign * ops.softplus(-(scale * ops.sum(image * text, axis=1) + bias))
        for sign, (image, text, scale, bias) in sides
    )


def _meetings(sides, drawn):
    """Σ_k (s_kj + s_jk) over the drawn pairs k, [pairs]; wrong at the drawn pairs themselves, which nobody asks for."""
    total = 0.0
    for sign, (image, text, scale, bias) in sides:
        for some, others in ((image, text), (text, image)):
            logits = scale * ops.matmul(ops.take(some, drawn, axis=0), ops.transpose(others)) + bias
            total = total + sign * ops.sum(ops.softplus(logits), axis=0)
    return total


def _largest(perturbed, count):
    return ops.cast(ops.top_k(perturbed, count)[1], "int32")


def _sides(learner, reference, method):
    """[(sign, Scored)] of the models that the method asks, in float32 and without gradients."""
    if method not in SIGNS:
        raise ValueError(f"method must be one of {', '.join(SIGNS)}, got {method!r}.")
    sides = []
    for name, scored, sign in zip(("learner", "reference"), (learner, reference), SIGNS[method], strict=True):
        if not sign:
            continue
        if scored is None:
            raise ValueError(f"method={method!r} needs the embeddings of the {name}, got None: give it as a Scored.")
        if len(scored.image.shape) != 2 or tuple(scored.image.shape) != tuple(scored.text.shape):
            raise ValueError(
                f"The {name}'s embeddings must be [pairs, dim] for images and texts alike, got "
                f"{tuple(scored.image.shape)} and {tuple(scored.text.shape)}; row i of each must belong together."
            )
        sides.append((sign, Scored(*(ops.stop_gradient(ops.cast(part, "float32")) for part in scored))))
    return sides


def _checked_chunks(sides, size: int, noise) -> int:
    pairs = {scored.image.shape[0] for _, scored in sides}
    if len(pairs) > 1 or None in pairs:
        raise ValueError(
            f"Learner and reference must have embedded the same pairs, and their number be known ahead: got {pairs}. "
            "Give batches a fixed size."
        )
    (pairs,) = pairs
    if len(noise.shape) != 2 or noise.shape[1] != pairs:
        raise ValueError(
            f"noise must be [chunks, pairs] with {pairs} pairs, got shape {tuple(noise.shape)}: draw it by "
            "gumbel_noise."
        )
    chunks = noise.shape[0]
    if not 1 <= chunks <= size <= pairs or size % chunks:
        raise ValueError(
            f"Cannot draw {size} of {pairs} pairs in {chunks} equal chunks: size must be at most {pairs} and a "
            f"multiple of {chunks}. Change the batch size or the number of chunks."
        )
    return chunks
