"""Scaled dot-product attention, and the self-attention made of it."""

import numpy as np

from tests.oracle.linear import linear_layer


def softmax(x):
    """exp(x) / Σ exp(x) over the last axis; dx = y (dy - Σ dy y)."""
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    y = exponentials / exponentials.sum(-1, keepdims=True)

    def backward(dy):
        return y * (dy - (dy * y).sum(-1, keepdims=True))

    return y, backward


def attention(query, key, value):
    """softmax(q kᵀ / sqrt(d)) v for each head: `[b, queries, h, d]`, `[b, n, h, d]` twice -> `[b, queries, h, d]`.

    With P the softmax: dv = Pᵀ dy, dP = dy vᵀ, dS from the softmax, dq = dS k / sqrt(d), dk = dSᵀ q / sqrt(d).
    """
    scale = 1.0 / np.sqrt(query.shape[-1])
    weights, backward_softmax = softmax(np.einsum("bqhd,bkhd->bhqk", query, key) * scale)

    def backward(dy):
        dscores = backward_softmax(np.einsum("bqhd,bkhd->bhqk", dy, value)) * scale
        return (
            np.einsum("bhqk,bkhd->bqhd", dscores, key),
            np.einsum("bhqk,bqhd->bkhd", dscores, query),
            np.einsum("bhqk,bqhd->bkhd", weights, dy),
        )

    return np.einsum("bhqk,bkhd->bqhd", weights, value), backward


def self_attention(x, parameters, *, num_heads):
    """`[b, n, w]` -> the same. One kernel `[w, 3w]` makes query, key and value, in this order, each split into h
    heads.
    """
    batch, length, width = x.shape
    heads = (batch, length, num_heads, width // num_heads)
    qkv, backward_qkv = linear_layer(x, parameters, "qkv_kernel", "qkv_bias")
    mixed, backward_attention = attention(*(part.reshape(heads) for part in np.split(qkv, 3, axis=-1)))
    y, backward_out = linear_layer(mixed.reshape(x.shape), parameters, "out_kernel", "out_bias")

    def backward(dy):
        parts = backward_attention(backward_out(dy).reshape(heads))
        return backward_qkv(np.concatenate([part.reshape(x.shape) for part in parts], axis=-1))

    return y, backward
