"""The sigmoid loss on tensorflow for the benchmark: ours and the plain one, compiled with their gradients."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import tensorflow as tf

from benchmarks.contest import by_clock
from diptych import backends

ACCELERATED = bool(tf.config.list_physical_devices("GPU"))
KNOWS_ITS_MEMORY = ACCELERATED
GIVES_MEMORY_BACK = True


def device_name() -> str | None:
    return backends.device_name()


def to_device(array, dtype: str):
    return tf.cast(tf.convert_to_tensor(array), dtype)


def elapsed(call: Callable, calls: int) -> float:
    """Seconds that so many calls in a row take, until the last one's result is there."""
    return by_clock(call, calls, wait)


def embeddings(size: int, width: int, dtype: str, *, positive_cosine: float = 0.15) -> tuple[tf.Tensor, tf.Tensor]:
    """Unit rows `[size, width]` of images and texts, drawn on the device; a pair has about this cosine."""
    x, y = (tf.math.l2_normalize(tf.random.stateless_normal((size, width), (0, seed)), axis=1) for seed in (0, 1))
    y = tf.math.l2_normalize(positive_cosine * x + (1 - positive_cosine**2) ** 0.5 * y, axis=1)
    return tf.cast(x, dtype), tf.cast(y, dtype)


def float64():
    """Where float64 is float64."""
    return nullcontext()


def contenders(dtype: str, width: int, peers: bool, loss: str = "sigmoid_loss") -> dict[str, Callable]:
    """Name -> function of (x, y, *scalars) that returns the loss and its gradients."""
    ours = {
        name: _graph(partial(_ours, loss, name))
        for name in backends.LOSSES[loss]
        if "tensorflow" in backends.IMPLEMENTATIONS[name] and name != "reference"
    }
    naive = _naive if loss == "sigmoid_loss" else partial(_ours, loss, "reference")
    return ours | {"naive": _graph(naive), "naive, XLA": _graph(naive, jit_compile=True)}


def explicit_gradients(name: str, x, y, *scalars):
    """Ours in float32, as they are before they take the embeddings' dtype; None for what has none."""
    if name != "xla":
        return None
    loss = {2: backends.sigmoid_loss_and_gradients, 1: backends.softmax_contrastive_loss_and_gradients}[len(scalars)]
    return loss(x, y, **_named(scalars), implementation=name)


def _ours(loss, name, x, y, *scalars):
    return getattr(backends, loss)(x, y, **_named(scalars), implementation=name)


def _named(scalars):
    return dict(zip(("logit_scale", "logit_bias"), scalars, strict=False))


def _naive(x, y, t, b):
    labels = 2 * tf.eye(x.shape[0], dtype=x.dtype) - 1
    logits = tf.cast(t, x.dtype) * tf.matmul(x, y, transpose_b=True) + tf.cast(b, x.dtype)
    return -tf.reduce_sum(tf.math.log_sigmoid(labels * logits)) / x.shape[0]


def _graph(loss, jit_compile=None):
    @tf.function(autograph=False, jit_compile=jit_compile)
    def differentiated(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = loss(*arguments)
        return value, *tape.gradient(value, arguments)

    return differentiated


def wait(result) -> None:
    tf.test.experimental.sync_devices()


def extra_bytes(function, arguments) -> int:
    """The most memory in use beside arguments and results; on an accelerator."""
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    tf.config.experimental.reset_memory_stats("GPU:0")
    result = function(*arguments)
    wait(result)
    kept = sum(part.dtype.size * int(tf.size(part)) for part in result)
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before - kept


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, tf.errors.ResourceExhaustedError)


def product(m: int, n: int, k: int, dtype: str, layout: str = "NT", *, accumulate: bool = False) -> Callable:
    """A function that multiplies random `[m, k]` and `[k, n]`; into a float32 sum where they are to accumulate.

    A letter T of the layout says that this operand is stored transposed.
    """
    transposed = [letter == "T" for letter in layout]
    shapes = ((m, k)[:: -1 if transposed[0] else 1], (k, n)[:: -1 if transposed[1] else 1])
    a, b = (tf.cast(tf.random.normal(shape), dtype) for shape in shapes)
    total = tf.zeros((m, n))

    @tf.function(autograph=False)
    def multiply():
        result = tf.matmul(a, b, transpose_a=transposed[0], transpose_b=transposed[1])
        return total + tf.cast(result, "float32") if accumulate else result

    return multiply
