"""SigLIP and its training step in plain jax, without Keras: the baseline of the step-time benchmark.

Parameters are a dictionary with the names of `diptych.models.SigLIP`'s weights.
"""

from functools import partial

import jax
import jax.numpy as jnp

LAYER_NORM_EPSILON = 1e-6


def linear(p, name, x):
    return x @ p[f"{name}_kernel"] + p[f"{name}_bias"]


def norm(p, name, x):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * p[f"{name}/scale"] + p[f"{name}/bias"]


def mlp(p, name, x):
    return linear(p, f"{name}/out", jax.nn.gelu(linear(p, f"{name}/in", x)))


def encoder(p, name, x, config):
    batch, length, width = x.shape
    for index in range(config.depth):
        block = f"{name}/block_{index:02d}"
        qkv = linear(p, f"{block}/attention/qkv", norm(p, f"{block}/attention_norm", x))
        query, key, value = jnp.moveaxis(qkv.reshape(batch, length, 3, config.num_heads, -1), 2, 0)
        y = jax.nn.dot_product_attention(query, key, value).reshape(batch, length, width)
        x = x + linear(p, f"{block}/attention/out", y)
        x = x + mlp(p, f"{block}/mlp", norm(p, f"{block}/mlp_norm", x))
    return norm(p, f"{name}/norm", x)


def image_tower(p, images, config):
    batch, side, patch = len(images), config.image_size // config.patch_size, config.patch_size
    x = images[:, : side * patch, : side * patch].reshape(batch, side, patch, side, patch, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * side, -1)
    x = x @ p["image/patch_embedding/kernel"].reshape(-1, config.width) + p["image/patch_embedding/bias"]
    tokens = encoder(p, "image/encoder", x + p["image/position_embedding/embedding"], config)
    query = linear(p, "image/map_head/query", p["image/map_head/probe"]).reshape(1, 1, config.num_heads, -1)
    key_value = linear(p, "image/map_head/key_value", tokens).reshape(batch, side * side, 2, config.num_heads, -1)
    query = jnp.broadcast_to(query, (batch, *query.shape[1:]))
    x = jax.nn.dot_product_attention(query, key_value[:, :, 0], key_value[:, :, 1]).reshape(batch, config.width)
    x = linear(p, "image/map_head/out", x)
    return x + mlp(p, "image/map_head/mlp", norm(p, "image/map_head/norm", x))


def text_tower(p, ids, config):
    x = p["text/token_embedding/embedding"][ids] + p["text/position_embedding/embedding"]
    x = encoder(p, "text/encoder", x, config)[:, -1]
    return x @ p["text/projection/kernel"] + p["text/projection/bias"]


def loss(p, batch, config):
    """The pairwise sigmoid loss: the sum over all pairs divided by the number of images."""
    image = image_tower(p, batch["image"].astype("float32") / 127.5 - 1, config.vision)
    text = text_tower(p, batch["text"], config.text)
    image, text = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    logits = jnp.exp(p["pair_logits/log_logit_scale"]) * image @ text.T + p["pair_logits/logit_bias"]
    return (jax.nn.softplus(logits).sum() - jnp.trace(logits)) / len(image)


@partial(jax.jit, static_argnames=("config", "rate", "decay"), donate_argnums=0)
def train_step(state, batch, *, config, rate, decay):
    """AdamW with clipping at norm 1; `state` is (parameters, first moments, second moments, steps)."""
    p, m, v, steps = state
    value, g = jax.value_and_grad(loss)(p, batch, config)
    norm_of_g = jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in g.values()))
    g = {name: x * jnp.minimum(1.0, 1.0 / norm_of_g) for name, x in g.items()}
    steps = steps + 1
    m = {name: 0.9 * m[name] + 0.1 * g[name] for name in p}
    v = {name: 0.95 * v[name] + 0.05 * jnp.square(g[name]) for name in p}

    def update(name):
        direction = m[name] / (1 - 0.9**steps) / (jnp.sqrt(v[name] / (1 - 0.95**steps)) + 1e-8)
        return p[name] - rate * direction - (decay * p[name] if name.endswith("kernel") else 0)

    return ({name: update(name) for name in p}, m, v, steps), value
