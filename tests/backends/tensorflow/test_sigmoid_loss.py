"""Laws of the sigmoid loss on tensorflow, against a float64 oracle."""

import re

import keras
import numpy as np
import pytest

from tests.oracle.contrastive import log_sigmoid, sigmoid
from tests.oracle.contrastive import sigmoid_loss as square_oracle

tf = pytest.importorskip("tensorflow")

from diptych.backends.tensorflow import contrastive as room  # noqa: E402
from diptych.backends.tensorflow.contrastive import loss as loss_module  # noqa: E402
from diptych.backends.tensorflow.contrastive import sigmoid_loss, sigmoid_loss_and_gradients  # noqa: E402
from diptych.backends.tensorflow.contrastive.sigmoid import negatives, softplus_and_sigmoid  # noqa: E402

NAMES = ("loss", "image_embeddings", "text_embeddings", "logit_scale", "logit_bias")

# images, texts, dim, offset, largest block, t, b
CASES = {
    "square": (64, 64, 16, 0, 16, 10.0, -5.0),
    "one pair": (1, 1, 3, 0, 8, 10.0, -10.0),
    "ragged": (77, 77, 40, 0, 16, 10.0, -10.0),
    "odd blocks": (53, 53, 9, 0, 10, 10.0, -3.0),
    "more texts": (30, 100, 24, 41, 32, 20.0, -8.0),
    "more images": (100, 30, 24, -41, 32, 20.0, -8.0),
    "pairs at the edges": (50, 50, 16, 13, 8, 10.0, -4.0),
    "no pairs": (40, 40, 16, 40, 16, 10.0, -4.0),
    "sharp": (96, 96, 64, 0, 32, 120.0, -17.0),
    "flat": (96, 96, 64, 0, 32, 1.0, -17.0),
}


def unit_rows(rng, count, dim):
    rows = rng.normal(size=(count, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embeddings(m, n, dim, offset, dtype="float32"):
    """Texts near their images, so that positives and negatives both count; rounded to dtype, as tensors."""
    rng = np.random.default_rng([m, n, dim])
    x, y = unit_rows(rng, m, dim), unit_rows(rng, n, dim)
    paired = [i for i in range(m) if 0 <= i + offset < n]
    y[[i + offset for i in paired]] += 0.7 * x[paired]
    return tuple(tf.cast(tf.constant(rows / np.linalg.norm(rows, axis=1, keepdims=True)), dtype) for rows in (x, y))


def oracle(x, y, t, b, offset=0, denominator=None):
    """Loss and four gradients in float64."""
    x, y = (tf.cast(rows, "float64").numpy() for rows in (x, y))
    denominator = denominator or len(x)
    cosines = x @ y.T
    signs = 2.0 * np.eye(len(x), len(y), k=offset) - 1.0
    z = t * cosines + b
    dz = -signs * sigmoid(-signs * z) / denominator
    loss = -log_sigmoid(signs * z).sum() / denominator
    return loss, t * dz @ y, t * dz.T @ x, (dz * cosines).sum(), dz.sum()


def check(found, expected, t, dtype="float32"):
    """Value and gradients, each relative to its largest entry; a logit's rounding grows with t."""
    tolerance = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype] + 2.0**-24 * (8 + 4 * t)
    for name, one, other in zip(NAMES, found, expected, strict=True):
        one = tf.cast(one, "float64").numpy()
        error = np.abs(one - other).max() / np.abs(other).max()
        assert one.shape == np.shape(other), name
        assert error <= tolerance, f"{name} is off by {error:.2g}, more than {tolerance:.2g}"


def derived(function, *sources, persistent=False):
    with tf.GradientTape(persistent=persistent) as tape:
        tape.watch(sources)
        loss = function(*sources)
    return loss, *tape.gradient(loss, sources)


def arguments(case, dtype="float32"):
    m, n, dim, offset, block, t, b = CASES[case]
    x, y = embeddings(m, n, dim, offset, dtype)
    return x, y, tf.constant(t), tf.constant(b), {"offset": offset, "largest_block": block}


def loss_with(plan):
    return lambda x, y, t, b: sigmoid_loss(x, y, logit_scale=t, logit_bias=b, **plan)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_the_definitions(case):
    x, y, t, b, plan = arguments(case)
    expected = oracle(x, y, float(t), float(b), plan["offset"])
    explicit = sigmoid_loss_and_gradients(x, y, logit_scale=t, logit_bias=b, **plan)
    check(explicit, expected, float(t))
    check(derived(loss_with(plan), x, y, t, b), expected, float(t))
    assert all(value.dtype == tf.float32 for value in explicit)


def test_the_oracle_is_the_square_one():
    x, y = embeddings(20, 20, 8, 0)
    loss, gradients = square_oracle(x.numpy().astype("f8"), y.numpy().astype("f8"), logit_scale=7.0, logit_bias=-3.0)
    for one, other in zip(oracle(x, y, 7.0, -3.0), (loss, *gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)


def wrong_answers(loss, dx, dy, dt, db):
    yield "zeros", (loss, np.zeros_like(dx), dy, dt, db)
    yield "flipped", (loss, dx, -dy, dt, db)
    yield "not a number", (loss, dx * np.nan, dy, dt, db)
    yield "no bias", (loss, dx, dy, dt, 0.0 * db)
    yield "0.01% low", (loss * 0.9999, dx, dy, dt, db)


def test_wrong_answers_are_refused():
    x, y, t, b, _ = arguments("square")
    expected = oracle(x, y, float(t), float(b))
    paired = np.diag(-sigmoid(-(float(t) * np.sum(x.numpy() * y.numpy(), axis=1) + float(b)))) * float(t) / len(x)
    answers = [*wrong_answers(*expected), ("only positives", (expected[0], paired @ y.numpy(), *expected[2:]))]
    check(expected, expected, float(t))
    for _, answer in answers:
        with pytest.raises(AssertionError, match=" is off by "):
            check(answer, expected, float(t))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["more texts", "sharp"])
def test_embeddings_of_16_bits_are_computed_in_float32(dtype, case):
    x, y, t, b, plan = arguments(case, dtype)
    expected = oracle(x, y, float(t), float(b), plan["offset"])
    check(sigmoid_loss_and_gradients(x, y, logit_scale=t, logit_bias=b, **plan), expected, float(t))
    loss, dx, dy, *_ = found = derived(loss_with(plan), x, y, t, b)
    assert (loss.dtype, dx.dtype, dy.dtype) == (tf.float32, x.dtype, y.dtype)
    check(found, expected, float(t), dtype)


@pytest.mark.parametrize("block", [8, 33, 64, 1000])
def test_the_size_of_blocks_changes_roundings_only(block):
    x, y, t, b, plan = arguments("ragged")
    expected = oracle(x, y, float(t), float(b))
    check(derived(loss_with(plan | {"largest_block": block}), x, y, t, b), expected, float(t))


def test_parts_of_a_batch_add_up_to_it():
    x, y, t, b, _ = arguments("ragged")
    expected = oracle(x, y, float(t), float(b))
    parts = [
        sigmoid_loss_and_gradients(
            x[start:stop], y, logit_scale=t, logit_bias=b, offset=start, denominator=77, largest_block=16
        )
        for start, stop in [(0, 20), (20, 50), (50, 77)]
    ]
    rows = tf.concat([part.image_embeddings for part in parts], axis=0)
    total = [rows if name == "image_embeddings" else sum(getattr(part, name) for part in parts) for name in NAMES]
    check(total, expected, float(t))


def test_another_offset_is_not_compiled_anew():
    x, y, t, b, plan = arguments("square")
    counts = []
    for offset in (0, 1, -5):
        sigmoid_loss_and_gradients(
            x, y, logit_scale=t, logit_bias=b, **plan | {"offset": offset, "denominator": 70 + offset}
        )
        counts.append(loss_module._compute.experimental_get_tracing_count())
    assert counts == counts[:1] * 3


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_many_tiny_terms_add_up(scale):
    """4096² terms of 1e-7, without a pair: a float32 sum over all of them is off by much more."""
    rng = np.random.default_rng(0)
    x, y = (tf.constant(unit_rows(rng, 4096, 8), "float32") for _ in range(2))
    found = sigmoid_loss(x, y, logit_scale=scale, logit_bias=-16.0, offset=4096, forward_only=True)
    cosines = x.numpy().astype("f8") @ y.numpy().astype("f8").T
    assert float(found) == pytest.approx(np.log1p(np.exp(scale * cosines - 16.0)).sum() / 4096, rel=1e-6)
    swept = negatives(
        tf.constant(scale),
        tf.constant(-16.0),
        x,
        y,
        tf.constant(4096),
        rows_per_block=1024,
        columns_per_block=512,
        kept_blocks=0,
    )
    assert swept.sums.numpy()[2] == pytest.approx(sigmoid(scale * cosines - 16.0).sum(), rel=1e-6)


def test_softplus_and_sigmoid_are_relatively_accurate():
    z = np.concatenate([np.linspace(-80, 80, 20_001), -np.logspace(-30, 1, 1000), np.logspace(-30, 1, 1000)])
    z = z.astype("float32").astype("float64")
    softplus, probability = tf.function(softplus_and_sigmoid, jit_compile=True)(tf.constant(z, "float32"))
    np.testing.assert_allclose(softplus, np.logaddexp(0.0, z), rtol=1e-6)
    np.testing.assert_allclose(probability, sigmoid(z), rtol=1e-6)


def array_sizes(function, *tensors) -> list[int]:
    """The number of elements of every float array in a function compiled by XLA."""
    text = function.experimental_get_compiler_ir(*tensors)(stage="optimized_hlo")
    shapes = re.findall(r"= f(?:32|64)\[([\d,]+)\]", text)
    return [int(np.prod([int(length) for length in shape.split(",")])) for shape in shapes]


@pytest.mark.parametrize("loss", ["sigmoid_loss", "softmax_contrastive_loss"])
def test_no_array_grows_with_the_number_of_pairs(loss):
    @tf.function(jit_compile=True)
    def whole(x, y, t, b):
        return tf.reduce_sum(tf.nn.softplus(t * tf.matmul(x, y, transpose_b=True) + b))

    @tf.function(jit_compile=True)
    def swept(x, y, t, b):
        scalars = {"logit_scale": t, "logit_bias": b} if loss == "sigmoid_loss" else {"logit_scale": t}
        return getattr(room, f"{loss}_and_gradients")(x, y, **scalars, largest_block=128)

    kept = 1 if loss == "sigmoid_loss" else loss_module.KEPT_BLOCKS["CPU"]
    for length in (1024, 2048):
        x = y = tf.ones([length, 16])
        sizes = array_sizes(swept, x, y, tf.constant(10.0), tf.constant(-10.0))
        assert len(sizes) > 20
        assert max(sizes) <= max(length * 16, kept * 128 * 128) < length**2
        # What the checker must see where it is: a matrix of all pairs, unless XLA adds up what it computes at once.
        assert max(array_sizes(whole, x, y, tf.constant(10.0), tf.constant(-10.0))) >= length**2


@pytest.mark.parametrize("kept", [1, 7, 100])
def test_products_that_are_kept_for_the_second_sweep_are_the_blocks_own(kept, monkeypatch):
    """The last of 5 by 5 blocks, or all, and of rows and columns that fill none."""
    x, y, *_ = arguments("ragged")

    def computed(kept):
        monkeypatch.setitem(loss_module.KEPT_BLOCKS, "CPU", kept)
        return room.softmax_contrastive_loss_and_gradients(x, y, logit_scale=10.0, largest_block=16)

    right = computed(0)
    for name, one, other in zip(right._fields, computed(kept), right, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6 * np.abs(other).max(), err_msg=name)


def test_accumulators_are_not_copied_block_by_block():
    @tf.function(jit_compile=True)
    def swept(x, y, t, b):
        return sigmoid_loss_and_gradients(x, y, logit_scale=t, logit_bias=b, largest_block=128)

    scalars = tf.constant(10.0), tf.constant(-10.0)
    text = swept.experimental_get_compiler_ir(tf.ones([1024, 16]), tf.ones([768, 16]), *scalars)(stage="optimized_hlo")
    bodies, entry = text.split("\nENTRY ")
    accumulators = r"= f32\[(?:8,128|6,128|1024|768),16\]\S* "
    assert re.search(accumulators + r"fusion\(", bodies)
    assert re.findall(accumulators + r"copy\(", bodies) == []


def in_a_function(jit_compile, signature=None):
    return lambda loss: tf.function(loss, jit_compile=jit_compile, input_signature=signature)


UNKNOWN_BATCH = [tf.TensorSpec([None, 40]), tf.TensorSpec([None, 40]), tf.TensorSpec([]), tf.TensorSpec([])]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda loss: loss,
        in_a_function(False),
        in_a_function(True),
        in_a_function(False, UNKNOWN_BATCH),
        in_a_function(True, UNKNOWN_BATCH),
    ],
    ids=["eager", "graph", "xla", "graph, unknown batch", "xla, unknown batch"],
)
def test_the_first_derivative_is_the_same_everywhere(wrap, persistent):
    x, y, t, b, plan = arguments("ragged")
    expected = oracle(x, y, float(t), float(b))
    wrapped = wrap(loss_with(plan))
    check(derived(wrapped, x, y, t, b, persistent=persistent), expected, float(t))
    outer = in_a_function(persistent)  # by XLA or not
    check(outer(lambda *a: derived(wrapped, *a, persistent=persistent))(x, y, t, b), expected, float(t))


def test_the_gradient_is_multiplied_by_what_comes_from_outside():
    x, y, t, b, plan = arguments("square", "float16")
    variable = tf.Variable(1.0)
    _, dx, dt = derived(lambda x, v: 3e4 * sigmoid_loss(x, y, logit_scale=t * v, logit_bias=b, **plan), x, variable)
    expected = oracle(x, y, float(t), float(b))
    assert np.abs(dx.numpy() / 3e4 - expected[1]).max() <= 2.0**-10 * np.abs(expected[1]).max()
    assert float(dt) == pytest.approx(3e4 * float(t) * expected[3], rel=1e-5)


WRAPS = {"eager": lambda loss: loss, "graph": in_a_function(False), "xla": in_a_function(True)}
REFUSED = "sigmoid_loss.has.first.derivatives.only"


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("again", [0, 2])
def test_a_second_derivative_is_refused(wrap, again):
    x, y, t, b, plan = arguments("square")
    sources, loss = (x, y, t, b), WRAPS[wrap](loss_with(plan))

    def twice(*sources):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            _, dx, *_ = derived(loss, *sources)
        # The first derivative is there, whoever watches.
        return dx, tape.gradient(dx, sources[again])

    for outer in WRAPS.values():
        with pytest.raises((RuntimeError, tf.errors.OpError), match=REFUSED):
            outer(twice)(*sources)


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_first_derivative_may_be_watched(wrap):
    x, y, t, b, plan = arguments("square")
    expected = oracle(x, y, float(t), float(b))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, y, t, b])
        loss = WRAPS[wrap](loss_with(plan))(x, y, t, b)
        gradients = tape.gradient(loss, [x, y, t, b])
        other = 2.0 * loss
    check((loss, *gradients), expected, float(t))
    check((loss, *[g / 2 for g in tape.gradient(other, [x, y, t, b])]), expected, float(t))


@pytest.mark.parametrize("case", ["square", "ragged"])
def test_forward_only_has_no_gradient(case):
    x, y, t, b, plan = arguments(case)
    loss = loss_with(plan | {"forward_only": True})
    assert float(loss(x, y, t, b)) == pytest.approx(oracle(x, y, float(t), float(b))[0], rel=1e-6)
    with pytest.raises(RuntimeError, match="sigmoid_loss was called with forward_only=True"):
        derived(loss, x, y, t, b)


def test_numbers_and_arrays_are_taken_too():
    x, y, t, b, plan = arguments("square")
    expected = oracle(x, y, float(t), float(b))
    check(sigmoid_loss_and_gradients(x.numpy(), y.numpy(), logit_scale=10, logit_bias=-5, **plan), expected, 10.0)


@pytest.mark.parametrize(("x", "y"), [((4, 3), (4, 5)), ((4,), (4,)), ((2, 4, 3), (4, 3))])
def test_embeddings_that_do_not_fit_are_refused(x, y):
    with pytest.raises(ValueError, match="must be matrices of the same width"):
        sigmoid_loss(np.ones(x, "f"), np.ones(y, "f"), logit_scale=1.0, logit_bias=0.0)


def test_the_room_says_what_it_runs_on():
    x = tf.ones([2, 2])
    assert room.obstacle("xla", device=room.device_of(x), dtype="float32") is None
    assert re.fullmatch(r"(CPU|GPU):\d+", room.device_of(x))
    np.testing.assert_array_equal(room.known_value(x, wait=True), np.ones([2, 2]))
    assert room.known_value(3.0) == 3.0
    seen = []
    tf.function(lambda x: seen.append((room.known_value(x), room.device_of(x))))(x)
    assert seen == [(None, room.default_device())]


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="Keras' fit runs on KERAS_BACKEND=tensorflow only")
@pytest.mark.parametrize("jit_compile", [False, True, "auto"])
def test_keras_fits_a_model_with_it(jit_compile):
    """Three epochs, with a smaller last batch, give the losses of the definition."""
    from diptych.core.losses import contrastive

    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(40, 12)).astype("f"), rng.normal(size=(40, 8)).astype("f")

    class Model(keras.Model):
        def __init__(self, loss):
            super().__init__()
            self.loss_of = loss
            self.towers = [
                keras.layers.Dense(6, kernel_initializer=keras.initializers.GlorotUniform(i)) for i in (1, 2)
            ]
            self.log_logit_scale = self.add_weight(shape=(), initializer="ones", name="log_logit_scale")
            self.logit_bias = self.add_weight(shape=(), initializer="zeros", name="logit_bias")

        def call(self, batch):
            return [keras.ops.normalize(tower(part)) for tower, part in zip(self.towers, batch, strict=True)]

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            scalars = {"logit_scale": keras.ops.exp(self.log_logit_scale), "logit_bias": self.logit_bias.value}
            return self.loss_of(*y_pred, **scalars)

    def losses(loss, jit_compile):
        model = Model(loss)
        model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        return model.fit((images, texts), batch_size=16, epochs=3, shuffle=False, verbose=0).history["loss"]

    found = losses(sigmoid_loss, jit_compile)
    assert found[-1] < found[0]
    np.testing.assert_allclose(found, losses(contrastive.sigmoid_loss, False), rtol=1e-5)
