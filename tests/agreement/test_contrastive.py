"""The laws of the contrastive losses: three frameworks' implementations in one process, against a float64 oracle."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.backends.cases import CASES, REGIMES
from tests.agreement.loss_side import DIFFERENTIATED, IMPLEMENTATIONS
from tests.agreement.strategies import agreement_settings, loss_cases
from tests.oracle.contrastive import sigmoid, softmax
from tests.oracle.loss_judge import Answer, Problem, allowed, check, expected, problem_of

DTYPES = ("float32", "bfloat16", "float16")
ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
BLOCKS = (8, 16, 32, 64, None)
SQUARE = tuple(name for name, case in CASES.items() if case.images == case.texts and case.offset == 0)
NAMED = {
    **{f"sigmoid, {name}": ("sigmoid_loss", name) for name in CASES},
    **{f"softmax, {name}": ("softmax_contrastive_loss", name) for name in SQUARE},
}
"""The named cases of each loss; a softmax is over the whole batch, and has no parts."""
RAGGED = {loss: ("ragged, balanced", loss) for loss in ("sigmoid_loss", "softmax_contrastive_loss")}


def test_the_cases_are_many_and_cover_the_kinds():
    assert len(CASES) >= 12
    assert any(case.images != case.texts for case in CASES.values())
    assert any(case.offset > 0 for case in CASES.values())
    assert any(case.offset < 0 for case in CASES.values())
    assert len(SQUARE) >= 6


@pytest.fixture(params=RAGGED)
def loss(request):
    return request.param


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_value_and_gradients_of_the_named_cases(implementation, name):
    loss, case = NAMED[name]
    problem = problem_of(CASES[case], loss=loss)
    check(
        IMPLEMENTATIONS[implementation](problem), expected(problem), allowed(problem), who=f"{implementation}, {name}"
    )


@given(case=loss_cases(), dtype=st.sampled_from(DTYPES), largest=st.sampled_from(BLOCKS))
@agreement_settings(60)
def test_value_and_gradients_on_torch(case, dtype, largest):
    problem = problem_of(case, dtype)
    check(IMPLEMENTATIONS["torch blocked"](problem, largest), expected(problem), allowed(problem), who="torch")


def whole(case):
    """A case as a batch of its own, of which a softmax is."""
    return dataclasses.replace(case, texts=case.images, offset=0)


@given(case=loss_cases(), dtype=st.sampled_from(DTYPES), largest=st.sampled_from(BLOCKS))
@agreement_settings(40)
def test_value_and_gradients_of_the_softmax_on_torch(case, dtype, largest):
    problem = problem_of(whole(case), dtype, "softmax_contrastive_loss")
    check(IMPLEMENTATIONS["torch blocked"](problem, largest), expected(problem), allowed(problem), who="torch")


@pytest.mark.parametrize("implementation", ["jax xla", "tensorflow xla"])
@given(case=loss_cases(), dtype=st.sampled_from(DTYPES), largest=st.sampled_from(BLOCKS))
@agreement_settings(3)
def test_value_and_gradients_of_the_softmax_where_each_shape_is_compiled(implementation, case, dtype, largest):
    problem = problem_of(whole(case), dtype, "softmax_contrastive_loss")
    check(IMPLEMENTATIONS[implementation](problem, largest), expected(problem), allowed(problem), who=implementation)


@pytest.mark.parametrize("implementation", ["jax xla", "tensorflow xla"])
@given(case=loss_cases(), dtype=st.sampled_from(DTYPES), largest=st.sampled_from(BLOCKS))
@agreement_settings(12)
def test_value_and_gradients_where_each_shape_is_compiled(implementation, case, dtype, largest):
    problem = problem_of(case, dtype)
    check(IMPLEMENTATIONS[implementation](problem, largest), expected(problem), allowed(problem), who=implementation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", DIFFERENTIATED)
def test_differentiating_gives_the_gradients_in_the_arguments_dtype(implementation, dtype, loss):
    problem = problem_of(CASES["shard, balanced" if loss == "sigmoid_loss" else "square, balanced"], dtype, loss)
    right, tolerance = expected(problem), allowed(problem)
    rounded = Answer(
        *(
            None if value is None else limit + ROUNDOFF[dtype] * np.linalg.norm(value)
            for limit, value in zip(tolerance, right, strict=True)
        )
    )
    check(DIFFERENTIATED[implementation](problem), right, rounded, who=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_order_of_pairs_does_not_matter(implementation, loss):
    problem = problem_of(CASES["ragged, balanced"], loss=loss)
    order = np.random.default_rng(0).permutation(len(problem.x))
    answer = IMPLEMENTATIONS[implementation](dataclasses.replace(problem, x=problem.x[order], y=problem.y[order]))
    back = np.argsort(order)
    restored = answer._replace(
        image_embeddings=answer.image_embeddings[back], text_embeddings=answer.text_embeddings[back]
    )
    check(restored, IMPLEMENTATIONS[implementation](problem), allowed(problem), who=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_images_and_texts_may_change_places(implementation, loss):
    problem = problem_of(CASES["shard, balanced" if loss == "sigmoid_loss" else "ragged, balanced"], loss=loss)
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
def test_the_size_of_blocks_does_not_matter(implementation, loss):
    problem = problem_of(CASES["ragged, half way"], loss=loss)
    right, tolerance = expected(problem), allowed(problem)
    for largest in BLOCKS if loss == "sigmoid_loss" else (16, 64):
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


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("logit_scale", "tilt"), [(20.0, 0.0), (1000.0, 1.0)])
def test_a_softmax_keeps_its_digits_at_the_ends(implementation, logit_scale, tilt):
    """Pairs far above all others, where log Σ exp(z) - z would round to 0; logits a thousand apart, also below 0."""
    x = np.eye(64, dtype=np.float32)
    y = x * np.where(np.arange(64) % 3, 1.0, 1.0 - 2 * tilt).astype(np.float32)
    problem = Problem(x, y, logit_scale, 0.0, denominator=64, loss="softmax_contrastive_loss")
    right = expected(problem)
    check(IMPLEMENTATIONS[implementation](problem), right, allowed(problem), who=implementation)
    if not tilt:
        assert 0 < right.loss < np.spacing(np.float32(logit_scale))


def without(term, problem: Problem) -> Answer:
    """The oracle's answer with a mistake in it."""
    answer = expected(problem)
    gradients = {name: value for name, value in answer._asdict().items() if name != "loss" and value is not None}
    simple = {
        "scale gradient": {"logit_scale": np.zeros(())},
        "bias gradient": {"logit_bias": np.zeros(())},
        "gradients": {name: np.zeros_like(gradient) for name, gradient in gradients.items()},
        "loss": {"loss": np.zeros(())},
        "signs": {name: -gradient for name, gradient in gradients.items()},
        "a row": {"image_embeddings": _without_a_row(answer.image_embeddings)},
        "scale factor": {"text_embeddings": answer.text_embeddings / problem.logit_scale},
        "one not a number": {"image_embeddings": _with_nan(answer.image_embeddings)},
    }
    if term in simple:
        return answer._replace(**simple[term])
    return {"sigmoid_loss": sigmoid_without, "softmax_contrastive_loss": softmax_without}[problem.loss](term, problem)


def sigmoid_without(term, problem: Problem) -> Answer:
    x, y = problem.x.astype(np.float64), problem.y.astype(np.float64)
    z = problem.logit_scale * x @ y.T + problem.logit_bias
    is_pair = np.eye(*z.shape, k=problem.offset, dtype=bool)
    kept = {"negatives": is_pair, "diagonal": ~is_pair}[term]
    weights = np.where(kept, np.where(is_pair, -sigmoid(-z), sigmoid(z)), 0)
    losses = np.where(kept, np.where(is_pair, np.logaddexp(0, -z), np.logaddexp(0, z)), 0)
    answer = _answer_of(problem, losses.sum(), weights)
    return answer._replace(logit_bias=np.asarray(weights.sum() / problem.denominator))


def softmax_without(term, problem: Problem) -> Answer:
    z = problem.logit_scale * problem.x.astype(np.float64) @ problem.y.astype(np.float64).T
    is_pair = np.eye(len(z), dtype=bool)
    rows, columns = softmax(z, axis=1), softmax(z, axis=0)
    if term == "a direction":
        return _answer_of(problem, -np.log(np.diag(rows)).sum(), rows - is_pair)
    others = np.where(is_pair, -np.inf, z)  # whose normalisers leave out the pair itself
    stale = (softmax(others, axis=1) + softmax(others, axis=0)) / 2
    right = (rows + columns) / 2 - is_pair
    weights = {
        "negatives": np.where(is_pair, right, 0),
        "diagonal": np.where(is_pair, 0, right),
        "the pair in the normaliser": np.where(is_pair, right, stale),
    }[term]
    return _answer_of(problem, problem.denominator * expected(problem).loss, weights)


def _answer_of(problem: Problem, losses, weights) -> Answer:
    x, y = problem.x.astype(np.float64), problem.y.astype(np.float64)
    t, n = problem.logit_scale, problem.denominator
    parts = (losses / n, t / n * weights @ y, t / n * weights.T @ x, (weights * (x @ y.T)).sum() / n)
    return Answer(*map(np.asarray, parts))


def _without_a_row(x):
    x = x.copy()
    x[np.argmax(np.linalg.norm(x, axis=1))] = 0
    return x


def _with_nan(x):
    x = x.copy()
    x[-1, -1] = np.nan
    return x


EITHER = (
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
WRONG = [
    *(("sigmoid_loss", term) for term in EITHER),
    *(("softmax_contrastive_loss", term) for term in (*EITHER, "a direction", "the pair in the normaliser")),
]


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize(("loss", "term"), WRONG)
@pytest.mark.parametrize("roundoff", [0.0, 2.0**-8])
def test_an_answer_without_it_is_refused(loss, term, regime, roundoff):
    """In each regime, by the tolerance for kernels in 16 bits, too."""
    problem = problem_of(CASES[f"ragged, {regime}"], loss=loss)
    right, tolerance = expected(problem), allowed(problem, roundoff)
    check(right, right, tolerance, who="the oracle")
    with pytest.raises(AssertionError):
        check(without(term, problem), right, tolerance, who=term)
