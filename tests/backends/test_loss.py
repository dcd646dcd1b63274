"""The public losses on whichever backend Keras runs on: what is chosen, what is refused, and Keras around them."""

import logging
import os
import shutil

import keras
import numpy as np
import pytest
from keras import ops

from diptych import backends
from diptych.backends.cases import CASES
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig
from tests.conftest import BACKEND
from tests.oracle.contrastive import sigmoid_loss, softmax_contrastive_loss

HERE = [name for name, of in backends.IMPLEMENTATIONS.items() if BACKEND in of]
RUNNABLE = {"jax": ("xla", "chunked", "reference"), "torch": ("blocked", "chunked", "reference")}.get(
    BACKEND, ("xla", "chunked", "reference")
)
CHOSEN = RUNNABLE[0]
SCALARS = {"logit_scale": 10.0, "logit_bias": -5.0}
LOSSES = {
    "sigmoid_loss": (sigmoid_loss, SCALARS),
    "softmax_contrastive_loss": (softmax_contrastive_loss, {"logit_scale": 10.0}),
}
"""Loss -> the oracle's and its scalars."""
LOSS_AND_RUNNABLE = [(loss, name) for loss in LOSSES for name in RUNNABLE if name in backends.LOSSES[loss]]


@pytest.fixture(params=LOSSES)
def loss(request):
    return request.param


def public(loss):
    """The function of `diptych.backends`."""
    return getattr(backends, loss)


def exact(loss, x, y):
    """Value and gradients by the oracle."""
    oracle, scalars = LOSSES[loss]
    return oracle(x.astype(np.float64), y.astype(np.float64), **scalars)


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


@pytest.mark.parametrize("implementation", ["reference", CHOSEN])
def test_every_implementation_of_the_softmax_loss_computes_the_definition(implementation):
    for name in ("ragged, balanced", "square, trained", "one, balanced"):
        case = CASES[name]
        x, y = case.draw()
        loss = backends.softmax_contrastive_loss(x, y, logit_scale=case.logit_scale, implementation=implementation)
        right, _ = softmax_contrastive_loss(x.astype(np.float64), y.astype(np.float64), logit_scale=case.logit_scale)
        assert ops.shape(loss) == ()
        assert number(loss) == pytest.approx(right, rel=2e-6, abs=1e-12)


def test_the_one_chosen_runs_and_is_logged(loss, caplog):
    assert backends.choose_implementation(loss=loss) == CHOSEN
    from diptych.backends.implementations import _reported

    _reported.clear()
    with caplog.at_level(logging.INFO, logger="diptych"):
        public(loss)(*pairs(), **LOSSES[loss][1])
        public(loss)(*pairs(), **LOSSES[loss][1])
    lines = [record.getMessage() for record in caplog.records if record.name == "diptych"]
    assert len(lines) == 1
    assert f"{loss} runs as '{CHOSEN}'" in lines[0]
    assert "float32" in lines[0]


def test_the_one_named_is_the_one_that_runs(monkeypatch):
    from diptych.core.losses import contrastive

    calls = []
    for loss, (_, scalars) in LOSSES.items():
        monkeypatch.setattr(contrastive, loss, lambda *a, loss=loss, **k: calls.append((loss, "reference")))
        native = lambda *a, loss=loss, **k: calls.append((loss, k["implementation"]))  # noqa: E731
        monkeypatch.setattr(backends.room().contrastive, loss, native)
        chunked = lambda *a, loss=loss, **k: calls.append((loss, "chunked"))  # noqa: E731
        monkeypatch.setattr(contrastive, "chunked_sigmoid_loss", chunked)
        named = [name for of, name in LOSS_AND_RUNNABLE if of == loss]
        for name in (*named, None):
            public(loss)(*pairs(), **scalars, implementation=name)
        assert calls == [(loss, name) for name in (*named, CHOSEN)]
        calls.clear()


@pytest.mark.parametrize("name", sorted(set(backends.IMPLEMENTATIONS) - set(RUNNABLE)))
def test_one_that_cannot_run_here_says_why(name):
    with pytest.raises(ValueError, match=rf"implementation='{name}'.*cannot run here: it is for .*None chooses"):
        backends.sigmoid_loss(*pairs(), **SCALARS, implementation=name)


@pytest.mark.parametrize("name", sorted(set(HERE) - set(backends.LOSSES["softmax_contrastive_loss"])))
def test_one_that_the_softmax_loss_has_not_says_so(name):
    with pytest.raises(ValueError, match=f"implementation='{name}' of softmax.*it is for sigmoid_loss alone.*{CHOSEN}"):
        backends.softmax_contrastive_loss(*pairs(), logit_scale=10.0, implementation=name)


def test_an_unknown_implementation_is_named_with_those_that_exist(loss):
    with pytest.raises(ValueError, match=f"Unknown implementation 'cuda' of {loss}.*reference"):
        public(loss)(*pairs(), **LOSSES[loss][1], implementation="cuda")


def test_texts_of_another_number_than_images_have_no_softmax_loss():
    with pytest.raises(ValueError, match="7 images and 6 texts"):
        backends.softmax_contrastive_loss(pairs(7)[0], pairs(6)[1], logit_scale=10.0)


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


def test_the_explicit_gradients_are_those_of_the_oracle(loss):
    x, y = pairs(19, 6)
    right, gradients = exact(loss, x, y)
    scalars, function = LOSSES[loss][1], public(f"{loss}_and_gradients")
    answer = function(x, y, **scalars)
    for got, want in zip(answer, (right, *gradients), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(got), want, rtol=2e-5, atol=1e-7)
    assert answer._fields == ("loss", "image_embeddings", "text_embeddings", *scalars)
    with pytest.raises(ValueError, match="'reference'.*written in Keras"):
        function(x, y, **scalars, implementation="reference")


def test_forward_only_is_the_same_value(loss):
    x, y = pairs(19, 6)
    value = public(loss)(x, y, **LOSSES[loss][1], forward_only=True)
    assert number(value) == pytest.approx(number(public(loss)(x, y, **LOSSES[loss][1])), rel=1e-6)


def test_wrong_words_are_refused_where_there_are_many_devices(loss):
    spread = public(f"distributed_{loss}")
    with pytest.raises(ValueError, match="exchange='tree'.*ring"):
        spread(*pairs(), **LOSSES[loss][1], exchange="tree")
    with pytest.raises(ValueError, match="gradients='max'.*sum"):
        spread(*pairs(), **LOSSES[loss][1], gradients="max")


# Each backend's own way to differentiate: f(x, y, *scalars) -> the gradient with respect to all of them.


def native_gradient(function):
    if BACKEND == "jax":
        import jax

        return lambda *arguments: jax.grad(function, argnums=tuple(range(len(arguments))))(*arguments)
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


def second_derivative(loss, **options):
    """Differentiates the sum of the squares of the first gradient."""
    function, scalars = loss_of(loss, **options), LOSSES[loss][1].values()
    if BACKEND == "torch":
        import torch

        leaves = [torch.as_tensor(a).clone().requires_grad_() for a in (*pairs(), *scalars)]
        first = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    arguments = tuple(ops.convert_to_tensor(a) for a in (*pairs(), *map(np.float32, scalars)))
    return native_gradient(lambda *a: sum(ops.sum(ops.square(g)) for g in native_gradient(function)(*a)))(*arguments)


def loss_of(loss, **options):
    names = LOSSES[loss][1].keys()
    return lambda x, y, *scalars: public(loss)(x, y, **dict(zip(names, scalars, strict=True)), **options)


@pytest.mark.parametrize(("loss", "implementation"), LOSS_AND_RUNNABLE)
def test_differentiating_the_public_function(loss, implementation):
    x, y = pairs(19, 6)
    _, right = exact(loss, x, y)
    scalars = map(np.float32, LOSSES[loss][1].values())
    gradients = native_gradient(loss_of(loss, implementation=implementation))(x, y, *scalars)
    for got, want in zip(gradients, right, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(got), want, rtol=2e-5, atol=1e-7)


def test_differentiating_twice_is_refused(loss):
    with pytest.raises((TypeError, RuntimeError, LookupError, ValueError), match=f"{loss}.has.first.derivatives.only"):
        second_derivative(loss)


def test_the_reference_can_be_differentiated_twice(loss):
    assert all(np.isfinite(ops.convert_to_numpy(g)).all() for g in second_derivative(loss, implementation="reference"))


def test_forward_only_cannot_be_differentiated(loss):
    scalars = map(np.float32, LOSSES[loss][1].values())
    with pytest.raises((TypeError, RuntimeError, LookupError, ValueError), match=f"{loss}.*forward_only=True"):
        native_gradient(loss_of(loss, forward_only=True))(*pairs(), *scalars)


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


THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
COMPILED = pytest.param(
    True,
    marks=pytest.mark.skipif(
        BACKEND == "torch" and not THOROUGH,
        reason="takes a minute: with DIPTYCH_THOROUGH",
    ),
)


@pytest.mark.parametrize("jit_compile", [False, COMPILED])
def test_fit_takes_the_loss_in_tiles(jit_compile):
    if BACKEND == "torch" and jit_compile and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    losses = fitted(jit_compile, backends.sigmoid_loss)
    np.testing.assert_allclose(losses, fitted(False), rtol=1e-5)
    assert losses[1] < losses[0]
