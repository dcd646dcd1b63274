"""From tokens `[b, n, w]` to one vector `[b, w]`."""

import numpy as np

from tests.oracle.attention import attention
from tests.oracle.encoder import mlp
from tests.oracle.layer_norm import layer_norm_layer
from tests.oracle.linear import linear_layer, sum_to


def map_head(tokens, parameters, *, num_heads):
    """Multi-head attention pooling: a learned probe attends to the tokens; then x + mlp(norm(x)).

    The query does not depend on the batch, so its gradient is a sum over it. The probe attends without a residual.
    """
    batch, length, width = tokens.shape
    head_width = width // num_heads
    query, backward_query = linear_layer(parameters["probe"], parameters, "query_kernel", "query_bias")
    key_value, backward_key_value = linear_layer(tokens, parameters, "key_value_kernel", "key_value_bias")
    key, value = (part.reshape(batch, length, num_heads, head_width) for part in np.split(key_value, 2, axis=-1))
    queries = np.broadcast_to(query.reshape(1, 1, num_heads, head_width), (batch, 1, num_heads, head_width))
    mixed, backward_attention = attention(queries, key, value)
    x, backward_out = linear_layer(mixed.reshape(batch, width), parameters, "out_kernel", "out_bias")
    normed, backward_norm = layer_norm_layer(x, parameters.at("norm"))
    changed, backward_mlp = mlp(normed, parameters.at("mlp"))

    def backward(dy):
        dx = dy + backward_norm(backward_mlp(dy))
        dqueries, dkey, dvalue = backward_attention(backward_out(dx).reshape(queries.shape))
        parameters.add("probe", backward_query(sum_to(dqueries, (1, 1, num_heads, head_width)).reshape(1, 1, width)))
        return backward_key_value(np.concatenate([part.reshape(tokens.shape) for part in (dkey, dvalue)], axis=-1))

    return x + changed, backward


def pool(tokens, parameters, *, pooling, num_heads):
    """ "map" (with parameters), "gap" the mean, "first" and "cls" token 0, "last" token n - 1."""
    if pooling == "map":
        return map_head(tokens, parameters.at("map_head"), num_heads=num_heads)
    length = tokens.shape[1]
    weights = {
        "gap": np.full(length, 1.0 / length),
        "first": np.eye(length)[0],
        "cls": np.eye(length)[0],
        "last": np.eye(length)[-1],
    }[pooling]

    def backward(dy):
        return weights[:, None] * dy[:, None, :]

    return np.einsum("n,bnw->bw", weights, tokens), backward
