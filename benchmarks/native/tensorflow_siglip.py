"""SigLIP and its training step in plain tensorflow: the baseline of the step-time benchmark.

Parameters are a dictionary of variables with the names of `diptych.models.SigLIP`'s weights.
"""

import tensorflow as tf

LAYER_NORM_EPSILON = 1e-6


def linear(p, name, x):
    return tf.matmul(x, p[f"{name}_kernel"]) + p[f"{name}_bias"]


def norm(p, name, x):
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, p[f"{name}/bias"], p[f"{name}/scale"], LAYER_NORM_EPSILON)


def mlp(p, name, x):
    return linear(p, f"{name}/out", tf.nn.gelu(linear(p, f"{name}/in", x), approximate=True))


def attention(query, key, value):
    scores = tf.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    return tf.einsum("bhqk,bkhd->bqhd", tf.nn.softmax(scores), value)


def encoder(p, name, x, config):
    batch, length, width = x.shape
    for index in range(config.depth):
        block = f"{name}/block_{index:02d}"
        qkv = linear(p, f"{block}/attention/qkv", norm(p, f"{block}/attention_norm", x))
        query, key, value = tf.unstack(tf.reshape(qkv, (batch, length, 3, config.num_heads, -1)), axis=2)
        x = x + linear(p, f"{block}/attention/out", tf.reshape(attention(query, key, value), (batch, length, width)))
        x = x + mlp(p, f"{block}/mlp", norm(p, f"{block}/mlp_norm", x))
    return norm(p, f"{name}/norm", x)


def image_tower(p, images, config):
    batch, patches = images.shape[0], config.num_patches
    patch = config.patch_size
    x = tf.nn.conv2d(images, p["image/patch_embedding/kernel"], patch, "VALID") + p["image/patch_embedding/bias"]
    x = tf.reshape(x, (batch, patches, config.width)) + p["image/position_embedding/embedding"]
    tokens = encoder(p, "image/encoder", x, config)
    query = tf.reshape(linear(p, "image/map_head/query", p["image/map_head/probe"][0]), (1, 1, config.num_heads, -1))
    key_value = tf.reshape(linear(p, "image/map_head/key_value", tokens), (batch, patches, 2, config.num_heads, -1))
    query = tf.repeat(query, batch, axis=0)
    x = tf.reshape(attention(query, key_value[:, :, 0], key_value[:, :, 1]), (batch, config.width))
    x = linear(p, "image/map_head/out", x)
    return x + mlp(p, "image/map_head/mlp", norm(p, "image/map_head/norm", x))


def text_tower(p, ids, config):
    x = tf.gather(p["text/token_embedding/embedding"], ids) + p["text/position_embedding/embedding"]
    x = encoder(p, "text/encoder", x, config)[:, -1]
    return tf.matmul(x, p["text/projection/kernel"]) + p["text/projection/bias"]


def loss(p, batch, config):
    """The pairwise sigmoid loss: the sum over all pairs divided by the number of images."""
    image = image_tower(p, tf.cast(batch["image"], tf.float32) / 127.5 - 1, config.vision)
    text = text_tower(p, batch["text"], config.text)
    image, text = (x / tf.norm(x, axis=-1, keepdims=True) for x in (image, text))
    scale, bias = tf.exp(p["pair_logits/log_logit_scale"]), p["pair_logits/logit_bias"]
    logits = scale * tf.matmul(image, text, transpose_b=True) + bias
    return (tf.reduce_sum(tf.nn.softplus(logits)) - tf.linalg.trace(logits)) / image.shape[0]


def train_step(p, config, *, rate, decay):
    """A graph `step(batch) -> loss` that updates `p`: AdamW with clipping at norm 1."""
    names = list(p)
    m, v = ({name: tf.Variable(tf.zeros_like(p[name])) for name in names} for _ in range(2))
    steps = tf.Variable(0.0)

    @tf.function(autograph=False)
    def step(batch):
        with tf.GradientTape() as tape:
            value = loss(p, batch, config)
        gradients, _ = tf.clip_by_global_norm(tape.gradient(value, [p[name] for name in names]), 1.0)
        steps.assign_add(1.0)
        for name, g in zip(names, gradients, strict=True):
            g = tf.convert_to_tensor(g)
            m[name].assign(0.9 * m[name] + 0.1 * g)
            v[name].assign(0.95 * v[name] + 0.05 * tf.square(g))
            direction = m[name] / (1 - 0.9**steps) / (tf.sqrt(v[name] / (1 - 0.95**steps)) + 1e-8)
            shrunk = decay * p[name] if name.endswith("kernel") else 0.0
            p[name].assign_sub(rate * direction + shrunk)
        return value

    return step
