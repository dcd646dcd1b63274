"""The sigmoid loss on jax for the benchmark: ours and the plain one, compiled with their gradients."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.contest import by_clock
from diptych import backends
from diptych.backends.jax import contrastive as native

ACCELERATED = native.default_device().platform != "cpu"
KNOWS_ITS_MEMORY = True
GIVES_MEMORY_BACK = False


def device_name() -> str | None:
    return backends.device_name()


def to_device(array, dtype: str):
    return jnp.asarray(array, dtype)


def elapsed(call: Callable, calls: int) -> float:
    """Seconds that so many calls in a row take, until the last one's result is there."""
    return by_clock(call, calls, wait)


def embeddings(size: int, width: int, dtype: str, *, positive_cosine: float = 0.15) -> tuple[jax.Array, jax.Array]:
    """Unit rows `[size, width]` of images and texts, drawn on the device; a pair has about this cosine."""
    x, y = (_unit(jax.random.normal(jax.random.key(seed), (size, width))) for seed in (0, 1))
    y = _unit(positive_cosine * x + (1 - positive_cosine**2) ** 0.5 * y)
    return x.astype(dtype), y.astype(dtype)


def _unit(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def float64():
    """Where float64 is float64."""
    return jax.enable_x64(True)


def contenders(dtype: str, width: int, peers: bool, loss: str = "sigmoid_loss") -> dict[str, Callable]:
    """Name -> function of (x, y, *scalars) that returns the loss and its gradients."""
    device = native.default_device()
    losses = {
        name: partial(_ours, loss, name)
        for name in backends.LOSSES[loss]
        if "jax" in backends.IMPLEMENTATIONS[name]
        and name != "reference"
        and not native.obstacle(name, device=device, dtype=dtype)
    }
    losses["naive"] = _naive if loss == "sigmoid_loss" else partial(_ours, loss, "reference")
    return {name: _compiled(function) for name, function in losses.items()}


def contenders_of_small_batches(dtype: str) -> dict[str, Callable]:
    """Ours and the plain loss; a new set for each size."""
    fast = backends.choose_implementation(dtype=dtype)
    return {fast: _compiled(partial(_ours, "sigmoid_loss", fast)), "naive": _compiled(_naive)}


def explicit_gradients(name: str, x, y, *scalars):
    """Ours in float32, as they are before they take the embeddings' dtype; None for what has none."""
    if name not in ("pallas_gpu", "pallas_tpu", "xla"):
        return None
    loss = {2: native.sigmoid_loss_and_gradients, 1: native.softmax_contrastive_loss_and_gradients}[len(scalars)]
    return loss(x, y, **_named(scalars), implementation=name)


def _ours(loss, name, x, y, *scalars):
    return getattr(backends, loss)(x, y, **_named(scalars), implementation=name)


def _named(scalars):
    return dict(zip(("logit_scale", "logit_bias"), scalars, strict=False))


def _naive(x, y, t, b):
    labels = 2 * jnp.eye(len(x)) - 1
    logits = t * jnp.matmul(x, y.T, preferred_element_type=jnp.float32) + b
    return -jnp.sum(jax.nn.log_sigmoid(labels * logits)) / len(x)


def _compiled(loss):
    @jax.jit
    def differentiated(*arguments):
        return jax.value_and_grad(loss, argnums=tuple(range(len(arguments))))(*arguments)

    def call(*arguments):
        value, gradients = differentiated(*arguments)
        return value, *gradients

    call.program = differentiated
    return call


def wait(result) -> None:
    jax.block_until_ready(result)


def extra_bytes(function, arguments) -> int:
    """What the compiled program takes beside arguments and results."""
    return function.program.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error)


def hlo(function, arguments) -> str:
    """The program that XLA made of a contender."""
    return function.program.lower(*arguments).compile().as_text()


def product(m: int, n: int, k: int, dtype: str, layout: str = "NT", *, accumulate: bool = False) -> Callable:
    """A function that multiplies random `[m, k]` and `[k, n]`; into a float32 sum where they are to accumulate.

    A letter T of the layout says that this operand is stored transposed.
    """
    shapes = ((m, k)[:: -1 if layout[0] == "T" else 1], (k, n)[:: -1 if layout[1] == "T" else 1])
    a, b = (jax.random.normal(jax.random.key(seed), shape, dtype) for seed, shape in enumerate(shapes))
    contracted = ((0,) if layout[0] == "T" else (1,), (1,) if layout[1] == "T" else (0,))

    def multiply(a, b):
        kind = jnp.float32 if accumulate else dtype
        return jax.lax.dot_general(a, b, (contracted, ((), ())), preferred_element_type=kind)

    if not accumulate:
        return partial(jax.jit(multiply), a, b)
    added = jax.jit(lambda total, a, b: total + multiply(a, b), donate_argnums=0)
    state = {"total": jnp.zeros((m, n))}

    def once():
        state["total"] = added(state["total"], a, b)
        return state["total"]

    return once
