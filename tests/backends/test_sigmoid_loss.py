"""The public sigmoid loss on whichever backend Keras runs on: what is chosen, what is refused, and Keras around it."""

import logging
import shutil

import keras
import numpy as np
import pytest
from keras import ops

from diptych import backends
from diptych.backends.cases import CASES
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig
from tests.conftest import BACKEND
from tests.oracle.contrastive import sigmoid_loss

HERE = [name for name, of in backends.IMPLEMENTATIONS.items() if BACKEND in of]
RUNNABLE = {"jax": ("xla", "chunked", "reference"), "torch": ("blocked", "chunked", "reference")}.get(
    BACKEND, ("xla", "chunked", "reference")
)
CHOSEN = RUNNABLE[0]
SCALARS = {"logit_scale": 10.0, "logit_bias": -5.0}


def pairs(count=7, width=4, dtype="float32"):
    rng = np.random.default_rng(count)
    x, y = (rng.standard_normal((count, width)) for _ in range(2))
    return tuple((a / np.linalg.norm(a, axis=1, keepdims=True)).astype(dtype) for a in (x, y))


def number(x) -> float:
    return float(ops.convert_to_numpy(x))


@pytest.fixture(autouse=True)
def on_a_cpu():
    if backends.device_name() is not None:
        pytest.skip("these tests name what runs on a CPU")


@pytest.mark.parametrize("implementation", RUNNABLE)
@pytest.mark.parametrize("name", [name for name in CASES if "balanced" in name])
def test_every_implementation_computes_the_definition(implementation, name):
    case = CASES[name]
    x, y = case.draw()
    scalars = {"logit_scale": case.logit_scale, "logit_bias": case.logit_bias}
    part = {"offset": case.offset, "denominator": case.images}
    loss = backends.sigmoid_loss(x, y, **scalars, **part, implementation=implementation)
    right, _ = sigmoid_loss(x.astype(np.float64), y.astype(np.float64), **scalars, **part)
    assert ops.shape(loss) == ()
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert number(loss) == pytest.approx(right, rel=2e-6)


def test_the_chunked_form_takes_whole_chunks_and_the_rest():
    from diptych.core.losses.contrastive import chunked_sigmoid_loss

    x, y = pairs(37, 8)
    right, _ = sigmoid_loss(x.astype(np.float64), y.astype(np.float64), **SCALARS)
    for rows in (1, 5, 36, 37, 100):
        assert number(chunked_sigmoid_loss(x, y, **SCALARS, rows_per_chunk=rows)) == pytest.approx(right, rel=2e-6)


def test_the_one_chosen_runs_and_is_logged(caplog):
    assert backends.choose_implementation() == CHOSEN
    from diptych.backends.loss import _reported

    _reported.clear()
    with caplog.at_level(logging.INFO, logger="diptych"):
        backends.sigmoid_loss(*pairs(), **SCALARS)
        backends.sigmoid_loss(*pairs(), **SCALARS)
    lines = [record.getMessage() for record in caplog.records if record.name == "diptych"]
    assert len(lines) == 1
    assert f"runs as '{CHOSEN}'" in lines[0]
    assert "float32" in lines[0]


def test_the_one_named_is_the_one_that_runs(monkeypatch):
    from diptych.core.losses import contrastive

    calls = []
    monkeypatch.setattr(contrastive, "sigmoid_loss", lambda *a, **k: calls.append("reference"))
    monkeypatch.setattr(contrastive, "chunked_sigmoid_loss", lambda *a, **k: calls.append("chunked"))
    monkeypatch.setattr(backends.room().sigmoid_loss, "sigmoid_loss", lambda *a, **k: calls.append(k["implementation"]))
    for name in RUNNABLE:
        backends.sigmoid_loss(*pairs(), **SCALARS, implementation=name)
    backends.sigmoid_loss(*pairs(), **SCALARS)
    assert calls == [*RUNNABLE, CHOSEN]


@pytest.mark.parametrize("name", sorted(set(backends.IMPLEMENTATIONS) - set(RUNNABLE)))
def test_one_that_cannot_run_here_says_why(name):
    with pytest.raises(ValueError, match=rf"implementation='{name}'.*cannot run here: it is for .*None chooses"):
        backends.sigmoid_loss(*pairs(), **SCALARS, implementation=name)


def test_an_unknown_implementation_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="Unknown implementation 'cuda'.*reference"):
        backends.sigmoid_loss(*pairs(), **SCALARS, implementation="cuda")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"y": pairs(7, 5)[1]}, ValueError, r"same width, got 4 and 5"),
        ({"y": pairs(6)[1]}, ValueError, r"7 images and 6 texts with offset 0.*denominator"),
        ({"x": pairs()[0][0]}, ValueError, r"image_embeddings must be a matrix.*shape \(4,\)"),
        ({"x": [[1.0, 0.0]]}, ValueError, r"image_embeddings must be a matrix.*got list"),
        ({"x": np.ones((7, 4), np.int32)}, TypeError, r"floating point, got int32.*float32, bfloat16"),
        ({"x": np.zeros((0, 4), np.float32)}, ValueError, r"image_embeddings is empty, shape \(0, 4\)"),
        ({"logit_scale": float("nan")}, ValueError, r"logit_scale must be one finite number, got nan"),
        ({"logit_bias": np.float32("inf")}, ValueError, r"logit_bias must be one finite number, got inf"),
        ({"logit_scale": np.ones(3)}, ValueError, r"logit_scale must be one finite number"),
        ({"x": 1.1 * pairs()[0], "check_normalized": True}, ValueError, r"not L2-normalised: row \d has length 1\.1,"),
        ({"x": np.nan * pairs()[0], "check_normalized": True}, ValueError, r"not L2-normalised: row 0 has length nan"),
        ({"dtype": "int8"}, ValueError, r"dtype='int8'.*float32"),
        ({"offset": 2}, ValueError, r"with offset 2.*denominator"),
        ({"denominator": 0}, ValueError, r"denominator must be.*got 0"),
    ],
)
def test_bad_input_is_refused(changes, error, message):
    x, y = pairs()
    arguments = {"x": x, "y": y, **SCALARS} | changes
    with pytest.raises(error, match=message):
        backends.sigmoid_loss(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_good_input_passes_the_check():
    assert number(backends.sigmoid_loss(*pairs(), **SCALARS, check_normalized=True)) > 0


def test_embeddings_of_two_dtypes_meet_in_float32():
    x, y = pairs()
    mixed = backends.sigmoid_loss(ops.cast(x, "float16"), y, **SCALARS)
    right = backends.sigmoid_loss(x.astype("float16").astype("float32"), y, **SCALARS)
    assert number(mixed) == number(right)


def test_the_dtype_asked_for_is_what_is_computed_with():
    x, y = pairs(dtype="float32")
    rounded = [ops.cast(ops.cast(a, "bfloat16"), "float32") for a in (x, y)]
    loss = backends.sigmoid_loss(x, y, **SCALARS, dtype="bfloat16")
    assert number(loss) == pytest.approx(number(backends.sigmoid_loss(*rounded, **SCALARS)), rel=1e-6)
    assert number(loss) != pytest.approx(number(backends.sigmoid_loss(x, y, **SCALARS)), rel=1e-6)


def test_the_explicit_gradients_are_those_of_the_oracle():
    x, y = pairs(19, 6)
    right, gradients = sigmoid_loss(x.astype(np.float64), y.astype(np.float64), **SCALARS)
    answer = backends.sigmoid_loss_and_gradients(x, y, **SCALARS)
    for got, want in zip(answer, (right, *gradients), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(got), want, rtol=2e-5, atol=1e-7)
    assert answer._fields == ("loss", "image_embeddings", "text_embeddings", "logit_scale", "logit_bias")
    with pytest.raises(ValueError, match="'reference'.*written in Keras"):
        backends.sigmoid_loss_and_gradients(x, y, **SCALARS, implementation="reference")


def test_forward_only_is_the_same_value():
    x, y = pairs(19, 6)
    loss = backends.sigmoid_loss(x, y, **SCALARS, forward_only=True)
    assert number(loss) == pytest.approx(number(backends.sigmoid_loss(x, y, **SCALARS)), rel=1e-6)


def test_wrong_words_are_refused_where_there_are_many_devices():
    with pytest.raises(ValueError, match="exchange='tree'.*ring"):
        backends.distributed_sigmoid_loss(*pairs(), **SCALARS, exchange="tree")
    with pytest.raises(ValueError, match="gradients='max'.*sum"):
        backends.distributed_sigmoid_loss(*pairs(), **SCALARS, gradients="max")


# Each backend's own way to differentiate: f(x, y, t, b) -> the gradient with respect to all four.


def native_gradient(function):
    if BACKEND == "jax":
        import jax

        return jax.grad(function, argnums=(0, 1, 2, 3))
    if BACKEND == "torch":
        import torch

        def call(*arguments):
            leaves = [torch.as_tensor(a).clone().requires_grad_() for a in arguments]
            return torch.autograd.grad(function(*leaves), leaves)

        return call
    import tensorflow as tf

    def call(*arguments):
        leaves = [tf.convert_to_tensor(a) for a in arguments]
        with tf.GradientTape() as tape:
            tape.watch(leaves)
            loss = function(*leaves)
        return tape.gradient(loss, leaves)

    return call


def second_derivative(function):
    """Differentiates the sum of the squares of the first gradient."""
    if BACKEND == "torch":
        import torch

        leaves = [torch.as_tensor(a).clone().requires_grad_() for a in (*pairs(), 10.0, -5.0)]
        first = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    arguments = tuple(ops.convert_to_tensor(a) for a in (*pairs(), np.float32(10.0), np.float32(-5.0)))
    return native_gradient(lambda *a: sum(ops.sum(ops.square(g)) for g in native_gradient(function)(*a)))(*arguments)


def loss_of(**arguments):
    return lambda x, y, t, b: backends.sigmoid_loss(x, y, logit_scale=t, logit_bias=b, **arguments)


@pytest.mark.parametrize("implementation", RUNNABLE)
def test_differentiating_the_public_function(implementation):
    x, y = pairs(19, 6)
    _, right = sigmoid_loss(x.astype(np.float64), y.astype(np.float64), **SCALARS)
    gradients = native_gradient(loss_of(implementation=implementation))(x, y, np.float32(10.0), np.float32(-5.0))
    for got, want in zip(gradients, right, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(got), want, rtol=2e-5, atol=1e-7)


def test_differentiating_twice_is_refused():
    with pytest.raises((TypeError, RuntimeError, LookupError, ValueError), match="first derivatives only"):
        second_derivative(loss_of())


def test_the_reference_can_be_differentiated_twice():
    assert all(
        np.isfinite(ops.convert_to_numpy(g)).all() for g in second_derivative(loss_of(implementation="reference"))
    )


def test_forward_only_cannot_be_differentiated():
    x, y = pairs()
    with pytest.raises((TypeError, RuntimeError, LookupError, ValueError), match="forward_only=True"):
        native_gradient(loss_of(forward_only=True))(x, y, np.float32(10.0), np.float32(-5.0))


SIZE = {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=8),
    text=TextConfig(**SIZE, vocab_size=20, context_length=5),
    init_logit_bias=-2.0,
)


def fitted(jit_compile, pair_loss=None):
    rng = np.random.default_rng(0)
    data = {
        "images": rng.random((16, 8, 8, 3), np.float32),
        "token_ids": rng.integers(0, 20, (16, 5)).astype(np.int32),
    }
    model = SigLIP(CONFIG, seed=0)
    if pair_loss is not None:
        model.pair_loss = pair_loss
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=jit_compile)
    losses = model.fit(data, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
    return [*losses, model.evaluate(data, batch_size=16, verbose=0)]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_takes_the_loss_in_tiles(jit_compile, caplog):
    if BACKEND == "torch" and jit_compile and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    losses = fitted(jit_compile, backends.sigmoid_loss)
    np.testing.assert_allclose(losses, fitted(False), rtol=1e-5)
    assert losses[1] < losses[0]
