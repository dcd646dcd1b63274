"""The pre-LN transformer encoder (big_vision `models/siglip/vit.py`)."""

from tests.oracle.attention import self_attention
from tests.oracle.gelu import gelu
from tests.oracle.layer_norm import layer_norm_layer
from tests.oracle.linear import linear_layer


def mlp(x, parameters):
    """w -> m -> GELU -> w."""
    hidden, backward_in = linear_layer(x, parameters, "in_kernel", "in_bias")
    active, backward_gelu = gelu(hidden)
    y, backward_out = linear_layer(active, parameters, "out_kernel", "out_bias")

    def backward(dy):
        return backward_in(backward_gelu(backward_out(dy)))

    return y, backward


def block(x, parameters, *, num_heads):
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    normed, backward_attention_norm = layer_norm_layer(x, parameters.at("attention_norm"))
    mixed, backward_attention = self_attention(normed, parameters.at("attention"), num_heads=num_heads)
    x = x + mixed
    normed, backward_mlp_norm = layer_norm_layer(x, parameters.at("mlp_norm"))
    changed, backward_mlp = mlp(normed, parameters.at("mlp"))

    def backward(dy):
        dy = dy + backward_mlp_norm(backward_mlp(dy))
        return dy + backward_attention_norm(backward_attention(dy))

    return x + changed, backward


def encoder(x, parameters, *, depth, num_heads):
    """`depth` blocks and a final layer norm, `[b, n, w]` -> the same."""
    way_back = []
    for index in range(depth):
        x, backward_block = block(x, parameters.at(f"block_{index:02d}"), num_heads=num_heads)
        way_back.insert(0, backward_block)
    y, backward_norm = layer_norm_layer(x, parameters.at("norm"))

    def backward(dy):
        dx = backward_norm(dy)
        for backward_block in way_back:
            dx = backward_block(dx)
        return dx

    return y, backward
