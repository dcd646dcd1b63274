"""The two towers, from pixels and token ids to one vector each.

Configurations are plain dictionaries, named as the models'.
"""

import math

import numpy as np

from tests.oracle.encoder import encoder
from tests.oracle.linear import linear_layer, sum_to
from tests.oracle.pooling import pool


def patches(images, patch_size):
    """`[b, height, width, 3]` -> `[b, rows * columns, p p 3]`; pixels below and to the right of the last whole patch
    are left out.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    cut = [
        images[:, r * patch_size : (r + 1) * patch_size, c * patch_size : (c + 1) * patch_size].reshape(batch, -1)
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(cut, axis=1).reshape(batch, rows * columns, patch_size * patch_size * channels)


def image_tower(images, parameters, config, *, nudge=1.0):
    """Images in [-1, 1] -> `[b, w]`, or `[b, e]` with a projection.

    Patches -> + positions -> (class token in front) -> encoder -> pooling -> (projection). Its backward ends at the
    weights. `nudge` `[b, 1, w]` multiplies what enters the encoder, to see what an error there does.
    """
    batch, width = len(images), config["width"]
    x, kernel = patches(np.asarray(images, np.float64), config["patch_size"]), parameters["patch_embedding/kernel"]
    fixed = config.get("positions") == "sincos2d"
    positions = sincos2d(math.isqrt(x.shape[1]), width) if fixed else parameters["position_embedding/embedding"]
    x_embedded = x @ kernel.reshape(-1, width) + parameters["patch_embedding/bias"] + positions
    with_class = config["pooling"] == "cls"
    if with_class:
        token = np.broadcast_to(parameters["class_token/token"], (batch, 1, width))
        x_embedded = np.concatenate([token, x_embedded], axis=1)
    pooled, backward_top = _encode_and_pool(x_embedded, parameters, config, nudge)

    def backward(dpooled):
        dx = backward_top(dpooled)
        if with_class:
            parameters.add("class_token/token", dx[:, 0].sum(0))
            dx = dx[:, 1:]
        if not fixed:
            parameters.add("position_embedding/embedding", dx.sum(0))
        parameters.add("patch_embedding/bias", dx.sum((0, 1)))
        parameters.add("patch_embedding/kernel", np.einsum("bnk,bnw->kw", x, dx).reshape(kernel.shape))

    return pooled, backward


def sincos2d(grid: int, width: int):
    """Sines and cosines of the column, then of the row, at width / 4 frequencies from 1 to 1/10,000: `[grid², w]`."""
    frequencies = np.exp(-np.log(10_000) * np.linspace(0, 1, width // 4))
    rows, columns = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    parts = []
    for places in (columns, rows):
        angles = places.reshape(-1, 1) * frequencies
        parts += [np.sin(angles), np.cos(angles)]
    return np.hstack(parts)


def text_tower(token_ids, parameters, config, *, nudge=1.0):
    """Token ids `[b, n]` -> `[b, w]`, or `[b, e]` with a projection.

    The gradient of the table adds up over every place where a token stands; rows that the batch does not name get zero.
    """
    table = parameters["token_embedding/embedding"]
    positions = parameters["position_embedding/embedding"]
    pooled, backward_top = _encode_and_pool(table[token_ids] + positions, parameters, config, nudge)

    def backward(dpooled):
        dx = backward_top(dpooled)
        dtable = np.zeros_like(table)
        np.add.at(dtable, token_ids, dx)
        parameters.add("token_embedding/embedding", dtable)
        parameters.add("position_embedding/embedding", sum_to(dx, positions.shape))

    return pooled, backward


def _encode_and_pool(x, parameters, config, nudge):
    tokens, backward_encoder = encoder(
        x * nudge, parameters.at("encoder"), depth=config["depth"], num_heads=config["num_heads"]
    )
    pooled, backward_pool = pool(tokens, parameters, pooling=config["pooling"], num_heads=config["num_heads"])
    backwards = [lambda dy: nudge * dy, backward_encoder, backward_pool]
    if config.get("representation_width"):
        pooled, backward_linear = linear_layer(pooled, parameters.at("representation"))
        pooled = np.tanh(pooled)
        backwards += [backward_linear, lambda dy, y=pooled: dy * (1 - y**2)]
    if config.get("embed_dim"):
        pooled, backward_projection = linear_layer(pooled, parameters.at("projection"))
        backwards.append(backward_projection)

    def backward(dy):
        for one in reversed(backwards):
            dy = one(dy)
        return dy

    return pooled, backward
