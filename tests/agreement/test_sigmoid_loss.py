"""The laws of the sigmoid loss: three frameworks' implementations in one process, against a float64 oracle."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.backends.cases import CASES, REGIMES
from tests.agreement.loss_side import DIFFERENTIATED, IMPLEMENTATIONS
from tests.agreement.strategies import agreement_settings, loss_cases
from tests.oracle.contrastive import sigmoid, sigmoid_loss
from tests.oracle.loss_judge import Answer, Problem, allowed, check, expected, problem_of

DTYPES = ("float32", "bfloat16", "float16")
ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
BLOCKS = (8, 16, 32, 64, None)


def test_the_cases_are_many_and_cover_the_kinds():
    assert len(CASES) >= 12
    assert any(case.images != case.texts for case in CASES.values())
    assert any(case.offset > 0 for case in CASES.values())
    assert any(case.offset < 0 for case in CASES.values())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_value_and_gradients_of_the_named_cases(implementation, name):
    problem = problem_of(CASES[name])
    check(
        IMPLEMENTATIONS[implementation](problem), expected(problem), allowed(problem), who=f"{implementation}, {name}"
    )


@given(case=loss_cases(), dtype=st.sampled_from(DTYPES), largest=st.sampled_from(BLOCKS))
@agreement_settings(60)
def test_value_and_gradients_on_torch(case, dtype, largest):
    problem = problem_of(case, dtype)
    check(IMPLEMENTATIONS["torch blocked"](problem, largest), expected(problem), allowed(problem), who="torch")


@pytest.mark.parametrize("implementation", ["jax xla", "tensorflow xla"])
@given(case=loss_cases(), dtype=st.sampled_from(DTYPES), largest=st.sampled_from(BLOCKS))
@agreement_settings(12)
def test_value_and_gradients_where_each_shape_is_compiled(implementation, case, dtype, largest):
    problem = problem_of(case, dtype)
    check(IMPLEMENTATIONS[implementation](problem, largest), expected(problem), allowed(problem), who=implementation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", DIFFERENTIATED)
def test_differentiating_gives_the_gradients_in_the_arguments_dtype(implementation, dtype):
    problem = problem_of(CASES["shard, balanced"], dtype)
    right, tolerance = expected(problem), allowed(problem)
    rounded = Answer(
        *(limit + ROUNDOFF[dtype] * np.linalg.norm(value) for limit, value in zip(tolerance, right, strict=True))
    )
    check(DIFFERENTIATED[implementation](problem), right, rounded, who=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_order_of_pairs_does_not_matter(implementation):
    problem = problem_of(CASES["ragged, balanced"])
    order = np.random.default_rng(0).permutation(len(problem.x))
    answer = IMPLEMENTATIONS[implementation](dataclasses.replace(problem, x=problem.x[order], y=problem.y[order]))
    back = np.argsort(order)
    restored = answer._replace(
        image_embeddings=answer.image_embeddings[back], text_embeddings=answer.text_embeddings[back]
    )
    check(restored, IMPLEMENTATIONS[implementation](problem), allowed(problem), who=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_images_and_texts_may_change_places(implementation):
    problem = problem_of(CASES["shard, balanced"])
    swapped = dataclasses.replace(problem, x=problem.y, y=problem.x, offset=-problem.offset)
    answer = IMPLEMENTATIONS[implementation](swapped)
    back = answer._replace(image_embeddings=answer.text_embeddings, text_embeddings=answer.image_embeddings)
    check(back, IMPLEMENTATIONS[implementation](problem), allowed(problem), who=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_parts_add_up(implementation):
    """Shards of images against shards of texts, as a ring meets them."""
    problem = problem_of(CASES["ragged, trained"])
    n = len(problem.x)
    total = Answer(np.zeros(()), np.zeros_like(problem.x), np.zeros_like(problem.y), np.zeros(()), np.zeros(()))
    for rows in (slice(0, 40), slice(40, n)):
        for columns in (slice(0, 70), slice(70, n)):
            part = IMPLEMENTATIONS[implementation](
                dataclasses.replace(
                    problem,
                    x=problem.x[rows],
                    y=problem.y[columns],
                    offset=rows.start - columns.start,
                    denominator=n,
                )
            )
            total.image_embeddings[rows] += part.image_embeddings
            total.text_embeddings[columns] += part.text_embeddings
            total = total._replace(
                **{name: getattr(total, name) + getattr(part, name) for name in ("loss", "logit_scale", "logit_bias")}
            )
    check(total, expected(problem), allowed(problem), who=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_size_of_blocks_does_not_matter(implementation):
    problem = problem_of(CASES["ragged, half way"])
    right, tolerance = expected(problem), allowed(problem)
    for largest in BLOCKS:
        check(IMPLEMENTATIONS[implementation](problem, largest), right, tolerance, who=f"{implementation}, {largest}")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_many_tiny_terms_are_not_swallowed(implementation):
    """A million negatives of 1e-7 beside a thousand positives of 16: the sum of the small is still there."""
    n = 1024
    x = np.zeros((n, 8), np.float32)
    x[:, 0] = 1.0
    y = np.zeros((n, 8), np.float32)
    y[:, 1] = 1.0
    problem = Problem(x, y, logit_scale=1.0, logit_bias=-16.0)
    answer = IMPLEMENTATIONS[implementation](problem)
    negatives = np.log1p(np.exp(-16.0)) * (n - 1)
    positives = np.logaddexp(0, 16.0)
    assert negatives > 30 * np.spacing(np.float32(positives))
    assert abs(answer.loss - (positives + negatives)) <= 2 * np.spacing(np.float32(positives))
    # d/db: the positives' part alone is -1, and the negatives' 1.15e-4 must not be lost in it
    slope = (n - 1) * sigmoid(-16.0) - sigmoid(16.0)
    assert abs(answer.logit_bias - slope) <= 2.0**-23


def without(term):
    """The oracle's answer with a mistake in it."""

    def wrong(problem: Problem) -> Answer:
        x, y = problem.x.astype(np.float64), problem.y.astype(np.float64)
        rest = {"offset": problem.offset, "denominator": problem.denominator}
        scalars = {"logit_scale": problem.logit_scale, "logit_bias": problem.logit_bias}
        cosines = x @ y.T
        z = problem.logit_scale * cosines + problem.logit_bias
        is_pair = np.eye(*z.shape, k=problem.offset, dtype=bool)
        weights = np.where(is_pair, -sigmoid(-z), sigmoid(z))
        losses = np.where(is_pair, np.logaddexp(0, -z), np.logaddexp(0, z))
        kept = {"negatives": is_pair, "diagonal": ~is_pair}.get(term)
        if kept is None:
            loss, gradients = sigmoid_loss(x, y, **scalars, **rest)
            answer = Answer(np.asarray(loss), *map(np.asarray, gradients))
            return {
                "scale gradient": answer._replace(logit_scale=np.zeros(())),
                "bias gradient": answer._replace(logit_bias=np.zeros(())),
                "gradients": Answer(answer.loss, *(np.zeros_like(gradient) for gradient in answer[1:])),
                "loss": answer._replace(loss=np.zeros(())),
                "signs": Answer(answer.loss, *(-gradient for gradient in answer[1:])),
                "a row": answer._replace(image_embeddings=_without_a_row(answer.image_embeddings)),
                "scale factor": answer._replace(text_embeddings=answer.text_embeddings / problem.logit_scale),
                "one not a number": answer._replace(image_embeddings=_with_nan(answer.image_embeddings)),
            }[term]
        weights, losses, n = np.where(kept, weights, 0), np.where(kept, losses, 0), problem.denominator
        t = problem.logit_scale
        return Answer(
            *map(
                np.asarray,
                (
                    losses.sum() / n,
                    t / n * weights @ y,
                    t / n * weights.T @ x,
                    (weights * cosines).sum() / n,
                    weights.sum() / n,
                ),
            )
        )

    return wrong


def _without_a_row(x):
    x = x.copy()
    x[np.argmax(np.linalg.norm(x, axis=1))] = 0
    return x


def _with_nan(x):
    x = x.copy()
    x[-1, -1] = np.nan
    return x


WRONG = (
    "negatives",
    "diagonal",
    "scale gradient",
    "bias gradient",
    "gradients",
    "loss",
    "signs",
    "a row",
    "scale factor",
    "one not a number",
)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("term", WRONG)
@pytest.mark.parametrize("roundoff", [0.0, 2.0**-8])
def test_an_answer_without_it_is_refused(term, regime, roundoff):
    """In each regime, by the tolerance for kernels in 16 bits, too."""
    problem = problem_of(CASES[f"ragged, {regime}"])
    right, tolerance = expected(problem), allowed(problem, roundoff)
    check(right, right, tolerance, who="the oracle")
    with pytest.raises(AssertionError):
        check(without(term)(problem), right, tolerance, who=term)
