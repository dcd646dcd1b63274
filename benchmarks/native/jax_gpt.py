"""GPT-1 and its training step in plain jax, without Keras: a baseline of the benchmark of GPT's training.

Parameters are a dictionary with the names of `diptych.models.GPT`'s weights.
"""

from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.native.jax_siglip import linear


def norm(p, name, x, epsilon):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + epsilon) * p[f"{name}/scale"] + p[f"{name}/bias"]


def loss(p, ids, config):
    """The mean cross-entropy of all tokens but the first, from logits that are held whole."""
    table = p["decoder/token_embedding/embedding"]
    batch, length = ids.shape
    x = table[ids] + p["decoder/position_embedding/embedding"][:length]
    for index in range(config.depth):
        block = f"decoder/block_{index:02d}"
        qkv = linear(p, f"{block}/attention/qkv", x).reshape(batch, length, 3, config.num_heads, -1)
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        y = jax.nn.dot_product_attention(query, key, value, is_causal=True).reshape(batch, length, -1)
        x = norm(p, f"{block}/attention_norm", x + linear(p, f"{block}/attention/out", y), config.norm_epsilon)
        y = linear(p, f"{block}/mlp/out", jax.nn.gelu(linear(p, f"{block}/mlp/in", x)))
        x = norm(p, f"{block}/mlp_norm", x + y, config.norm_epsilon)
    log_p = jax.nn.log_softmax(x[:, :-1] @ table.T)
    return -jnp.take_along_axis(log_p, ids[:, 1:, None], axis=-1).mean()


@partial(jax.jit, static_argnames=("config", "rate"), donate_argnums=0)
def train_step(state, ids, *, config, rate):
    """AdamW without decay; `state` is (parameters, first moments, second moments, steps)."""
    p, m, v, steps = state
    value, g = jax.value_and_grad(loss)(p, ids, config)
    steps = steps + 1
    m = {name: 0.9 * m[name] + 0.1 * g[name] for name in p}
    v = {name: 0.95 * v[name] + 0.05 * jnp.square(g[name]) for name in p}

    def update(name):
        return p[name] - rate * m[name] / (1 - 0.9**steps) / (jnp.sqrt(v[name] / (1 - 0.95**steps)) + 1e-8)

    return ({name: update(name) for name in p}, m, v, steps), value
