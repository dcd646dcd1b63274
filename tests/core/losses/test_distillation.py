"""Laws of self-distillation: what it ignores, where it is least, who learns from it, and chunks."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from diptych.core.losses.distillation import (
    chunked_distillation,
    cross_entropy,
    distillation_loss,
    mean_logits,
    sinkhorn_knopp,
    teacher_probabilities,
    updated_centre,
    view_distillation,
)
from tests.models.examples import numpy_of, value_and_gradients
from tests.oracle import distillation as oracle

U = 2.0**-24
BACKEND = keras.config.backend()
examples = settings(max_examples=12, deadline=None, derandomize=True, database=None)
# Images, views, prototypes; few, because jax compiles each operation for each shape.
shapes = st.sampled_from([(1, 1, 2), (3, 2, 5), (2, 3, 33)])


def draw(*shape, seed=0, size=0.5):
    return (size * np.random.default_rng([seed, *shape]).normal(size=shape)).astype("float32")


def close(got, expected, *, logits=20.0):
    """Within a few roundings of scaled logits of this size."""
    np.testing.assert_allclose(numpy_of(got), expected, rtol=0, atol=16 * U * logits)


@pytest.mark.parametrize("outputs", [2, 4096, 65_536])
def test_equal_logits_cost_the_logarithm_of_the_number_of_prototypes(outputs):
    loss = distillation_loss(
        np.zeros((2, outputs), "float32"), np.zeros((2, outputs), "float32"), np.zeros(outputs, "float32")
    )
    assert numpy_of(loss) == pytest.approx(math.log(outputs), rel=1e-6)
    if outputs == 65_536:
        assert numpy_of(loss)[0] == pytest.approx(11.0904, abs=5e-5)


@examples
@given(shape=shapes, seed=st.integers(0, 2**31 - 1))
def test_constants_in_logits_and_shifts_of_the_centre_change_nothing(shape, seed):
    n, views, outputs = shape
    student, teacher, centre = draw(n, views, outputs, seed=seed), draw(n, outputs, seed=seed), draw(outputs, seed=seed)
    shift = draw(outputs, seed=seed + 1)
    expected = numpy_of(view_distillation(student, teacher, centre))
    close(view_distillation(student, teacher + shift, centre + shift), expected, logits=100)
    close(view_distillation(student + np.float32(0.5), teacher - np.float32(0.25), centre), expected, logits=100)
    assert outputs == 2 or np.abs(numpy_of(view_distillation(student, teacher + shift, centre)) - expected).max() > 1e-4


@examples
@given(shape=shapes, seed=st.integers(0, 2**31 - 1))
def test_prototypes_views_and_images_may_be_permuted(shape, seed):
    n, views, outputs = shape
    student, teacher, centre = draw(n, views, outputs, seed=seed), draw(n, outputs, seed=seed), draw(outputs, seed=seed)
    rng = np.random.default_rng(seed)
    expected = numpy_of(view_distillation(student, teacher, centre))
    order = rng.permutation(outputs)
    close(view_distillation(student[..., order], teacher[:, order], centre[order]), expected)
    close(view_distillation(student[:, rng.permutation(views)], teacher, centre), expected)
    images = rng.permutation(n)
    close(view_distillation(student[images], teacher[images], centre), expected[images])


@examples
@given(shape=shapes, seed=st.integers(0, 2**31 - 1))
def test_views_share_the_teachers_row(shape, seed):
    n, views, outputs = shape
    student, teacher, centre = draw(n, views, outputs, seed=seed), draw(n, outputs, seed=seed), draw(outputs, seed=seed)
    repeated = np.repeat(teacher[:, None], views, axis=1)
    close(view_distillation(student, teacher, centre), numpy_of(distillation_loss(student, repeated, centre)).mean(1))


def test_the_loss_is_least_where_the_student_agrees_and_then_the_teachers_entropy():
    teacher, centre = draw(3, 9, size=0.1), draw(9, size=0.1)
    p = numpy_of(teacher_probabilities(teacher, centre)).astype("float64")
    entropy = -(p * np.log(p)).sum(-1)
    agreeing = (teacher - centre) * np.float32(0.1 / 0.04)
    close(distillation_loss(agreeing, teacher, centre), entropy)
    for seed in range(5):
        assert (numpy_of(distillation_loss(draw(3, 9, seed=seed), teacher, centre)) > entropy).all()


@pytest.mark.parametrize("chunked", [False, True])
def test_only_the_student_learns(chunked):
    arrays = [draw(3, 2, 4), draw(3, 4), draw(4, 6), draw(4, 6, seed=1), draw(6)]
    variables = [keras.Variable(array) for array in arrays]

    def loss():
        student, teacher, prototypes, teacher_prototypes, centre = (ops.convert_to_tensor(v) for v in variables)
        if chunked:
            losses = chunked_distillation(student, teacher, prototypes, teacher_prototypes, centre, rows_per_chunk=1)
        else:
            losses = view_distillation(ops.matmul(student, prototypes), ops.matmul(teacher, teacher_prototypes), centre)
        # Each of the others has a path of its own, so that a backend has something to say of all five.
        return ops.sum(losses) + 0.0 * sum(ops.sum(x) for x in (teacher, teacher_prototypes, centre))

    _, gradients = value_and_gradients(loss, variables)
    sizes = [float(np.abs(numpy_of(gradient)).max()) for gradient in gradients]
    assert sizes[0] > 0.1
    assert sizes[2] > 0.1
    assert sizes[1] == sizes[3] == sizes[4] == 0


def test_bfloat16_logits_are_judged_in_float32():
    student, teacher = (ops.cast(draw(4, 50, seed=seed), "bfloat16") for seed in (1, 2))
    centre = draw(50)
    loss = distillation_loss(student, teacher, centre)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    close(loss, numpy_of(distillation_loss(numpy_of(student), numpy_of(teacher), centre)))


@pytest.mark.parametrize("rows_per_chunk", [1, 2, 5, None])
def test_chunks_change_neither_losses_nor_gradients(rows_per_chunk):
    # Variables are handed in as they are: a recomputed function on tensorflow gives those that it reads their gradient
    # twice.
    features, prototypes = keras.Variable(draw(5, 3, 8)), keras.Variable(draw(8, 21))
    teacher, teacher_prototypes, centre = draw(5, 8, seed=3), draw(8, 21, seed=3), draw(21)
    cotangent = np.arange(1, 6, dtype="float32")

    def chunked():
        losses = chunked_distillation(
            features, teacher, prototypes, teacher_prototypes, centre, student_temperature=0.3, teacher_temperature=0.2,
            rows_per_chunk=rows_per_chunk,
        )  # fmt: skip
        return ops.sum(losses * ops.convert_to_tensor(cotangent))

    loss, gradients = value_and_gradients(chunked, [features, prototypes])
    expected, backward = oracle.from_features(
        oracle.mean_distillation, *(x.astype("float64") for x in (features.numpy(), teacher[:, None],
            prototypes.numpy())),
        teacher_prototypes, centre, student_temperature=0.3, teacher_temperature=0.2,
    )  # fmt: skip
    assert float(loss) == pytest.approx(float(expected @ cotangent), rel=1e-5)
    for got, wanted in zip(gradients, backward(cotangent.astype("float64")), strict=True):
        assert np.linalg.norm(numpy_of(got) - wanted) < 1e-5 * np.linalg.norm(wanted)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="tensorflow does not list what a graph keeps for its gradient")
def test_no_more_than_a_chunk_of_logits_is_kept():
    rows, views, width, outputs = 24, 2, 3, 512
    variables = [keras.Variable(draw(rows, views, width)), keras.Variable(draw(width, outputs))]
    teacher, teacher_prototypes, centre = draw(rows, width), draw(width, outputs), draw(outputs)

    def loss(rows_per_chunk):
        arguments = (*variables, teacher, teacher_prototypes, centre)
        features, prototypes, *rest = map(ops.convert_to_tensor, arguments)
        order = (features, rest[0], prototypes, *rest[1:])
        return ops.sum(chunked_distillation(*order, rows_per_chunk=rows_per_chunk))

    logits = rows * views * outputs
    assert _kept(lambda: loss(rows), variables, outputs) >= logits
    # Two rows' logits of the student and the teacher, and the prototypes.
    assert _kept(lambda: loss(2), variables, outputs) <= 2 * (views + 1) * outputs + 3 * width * outputs < logits / 2


def _kept(function, variables, outputs: int) -> int:
    """Numbers that lie in arrays of `outputs` columns: in the largest one that jax makes, in all that torch keeps for
    the gradient.
    """
    if BACKEND == "jax":
        import jax

        def of_values(values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function()

        traced = jax.make_jaxpr(jax.value_and_grad(of_values))([v.value for v in variables])
        return max(size for size in _sizes(traced.jaxpr, outputs))
    import torch

    kept = {}

    def pack(x):
        if x.ndim and x.shape[-1] == outputs:
            kept[x.untyped_storage().data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = function()
    assert result.requires_grad
    return sum(kept.values())


def _sizes(jaxpr, outputs):
    from jax.extend import core

    for equation in jaxpr.eqns:
        yield from (math.prod(v.aval.shape) for v in equation.outvars if v.aval.shape[-1:] == (outputs,))
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, (list, tuple)) else [parameter]:
                if isinstance(inner, (core.ClosedJaxpr, core.Jaxpr)):
                    yield from _sizes(getattr(inner, "jaxpr", inner), outputs)


def test_the_mean_of_the_logits_needs_no_logits():
    features, prototypes = draw(3, 4, 5), draw(5, 7)
    expected = (features.astype("float64") @ prototypes).reshape(-1, 7).mean(0)
    np.testing.assert_allclose(numpy_of(mean_logits(features, prototypes)), expected, atol=1e-6)


def test_the_centre_tends_to_the_mean_and_stays_there():
    mean, centre = draw(6), np.zeros(6, "float32")
    assert np.allclose(numpy_of(updated_centre(centre, mean)), 0.1 * mean, atol=1e-7)
    for _ in range(100):
        centre = numpy_of(updated_centre(centre, mean))
    np.testing.assert_allclose(centre, mean * (1 - 0.9**100), rtol=1e-5)
    np.testing.assert_allclose(numpy_of(updated_centre(mean, mean, momentum=0.37)), mean, rtol=1e-6)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_knopp_follows_dinov2s_steps(iterations):
    logits = draw(6, 10, size=0.1)
    expected = oracle.sinkhorn_knopp(logits.astype("float64"), iterations=iterations)
    got = numpy_of(sinkhorn_knopp(logits, iterations=iterations))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-6)
    fewer = oracle.sinkhorn_knopp(logits.astype("float64"), iterations=iterations - 1)
    assert np.abs(got - fewer).max() > 1e-3


def test_sinkhorn_knopp_ignores_how_popular_a_prototype_is_and_survives_extremes():
    logits = draw(6, 10, size=0.1)
    close(sinkhorn_knopp(logits + draw(10)), numpy_of(sinkhorn_knopp(logits)), logits=100)
    extreme = logits * 100
    extreme[:, 3] = -1000.0  # exp of it is 0 in float32
    got = numpy_of(sinkhorn_knopp(extreme))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)


def test_cross_entropy_takes_probabilities_from_anywhere():
    student, teacher = draw(4, 2, 6), draw(4, 6, size=0.1)
    p = numpy_of(sinkhorn_knopp(teacher)).astype("float64")
    scaled = student.astype("float64") / 0.1
    logs = scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True)
    close(cross_entropy(student, p.astype("float32")), -(p[:, None] * logs).sum(-1))


@pytest.mark.parametrize(
    ("student", "teacher", "centre"), [((2, 4), (2, 5), (4,)), ((2, 4), (1, 4), (4,)), ((2, 4), (2, 4), (1,))]
)
def test_logits_that_do_not_belong_together_are_refused(student, teacher, centre):
    with pytest.raises(ValueError, match="must have shapes"):
        distillation_loss(*(np.zeros(shape, "float32") for shape in (student, teacher, centre)))
    views = (student[0], 3, *student[1:])
    with pytest.raises(ValueError, match=r"\[n, views, K\]"):
        view_distillation(*(np.zeros(shape, "float32") for shape in (views, teacher, centre)))


def test_features_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="need teacher features"):
        chunked_distillation(draw(3, 2, 4), draw(2, 4), draw(4, 5), draw(4, 5), draw(5))
