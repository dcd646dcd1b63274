"""The captioning decoder and its loss.

Further letters: t tasks, l length of a sequence, v vocabulary, c width of image tokens.

Configurations are the dictionaries of a `CaptionerConfig`; weights are keyed by their path inside the captioner.
"""

from dataclasses import dataclass

import numpy as np

from tests.oracle.attention import softmax
from tests.oracle.gelu import gelu
from tests.oracle.layer_norm import layer_norm, layer_norm_layer
from tests.oracle.linear import linear, linear_layer
from tests.oracle.parameters import Parameters


@dataclass(frozen=True)
class Answer:
    """Features `[b, t, l, w]`, losses `[b, t]`, the loss of all, its gradient by weight path and to the image
    tokens.
    """

    hidden: np.ndarray
    losses: np.ndarray
    loss: float
    gradients: dict[str, np.ndarray]
    encoder_tokens: np.ndarray

    def named(self) -> dict[str, np.ndarray]:
        """All of it under one set of names; gradients have a slash in theirs."""
        values = {"hidden": self.hidden, "losses": self.losses, "loss": np.asarray(self.loss)}
        return values | self.gradients | {"gradient/encoder_tokens": self.encoder_tokens}


def captioner(config, weights, batch, *, image_nudge=1.0, token_nudge=1.0) -> Answer:
    """Value and gradient of L = (1 / b) Σ over examples of the mean over their sequences, of which any token counts, of
    the mean of their counted tokens' losses.

    `batch = {"token_ids": int [b, t, l], "weights": [b, t, l], "parallel": bool [b, t], "encoder_tokens": [b, n, c],
    "encoder_mask": bool [b, n]}`. The nudges multiply image tokens and what enters the blocks.
    """
    parameters = Parameters(weights)
    token_ids, counted = batch["token_ids"], np.asarray(batch["weights"], np.float64)
    image_tokens = np.asarray(batch["encoder_tokens"], np.float64) * image_nudge
    hidden, backward_decoder = decoder(
        token_ids,
        image_tokens,
        parameters,
        config,
        parallel=batch["parallel"],
        encoder_mask=batch["encoder_mask"],
        nudge=token_nudge,
    )
    tied, vocabulary = config["tie_embeddings"], config["vocab_size"]
    table = "token_embedding/embedding"
    kernel = parameters[table][:vocabulary].T if tied else parameters["logits_kernel"]
    rows = hidden.reshape(-1, config["width"])
    token_losses, backward_losses = cross_entropy(rows, kernel, parameters["logits_bias"], token_ids.reshape(-1))
    shares = counted / np.maximum(counted.sum(-1, keepdims=True), 1.0)
    losses = (token_losses.reshape(shares.shape) * shares).sum(-1)

    present = counted.any(-1)
    of_sequences = present / np.maximum(present.sum(-1, keepdims=True), 1) / len(losses)

    dhidden, dkernel, dbias = backward_losses((shares * of_sequences[..., None]).reshape(-1))
    parameters.add("logits_bias", dbias)
    if tied:
        parameters.add(table, np.concatenate([dkernel.T, np.zeros((1, config["width"]))]))
    else:
        parameters.add("logits_kernel", dkernel)
    dimage = backward_decoder(dhidden.reshape(hidden.shape))
    return Answer(hidden, losses, float((losses * of_sequences).sum()), parameters.gradients, dimage * image_nudge)


def decoder(token_ids, image_tokens, parameters, config, *, parallel, encoder_mask, nudge=1.0):
    """`[b, t, l]`, `[b, n, c]` -> `[b, t, l, w]`; its backward returns the gradient to the image tokens."""
    batch, tasks, length = token_ids.shape
    shifted = np.concatenate([np.zeros((batch, tasks, 1), token_ids.dtype), token_ids[..., :-1]], axis=-1)
    inputs = np.where(parallel[..., None], config["vocab_size"], shifted).reshape(-1, length)
    token_mask = np.tril(np.ones((length, length), bool)) | parallel.reshape(-1, 1, 1)
    image_mask = np.repeat(encoder_mask[:, None, :], tasks, axis=0)
    table, positions = parameters["token_embedding/embedding"], parameters["position_embedding/embedding"]
    x = (table[inputs] + positions[:length]) * nudge
    way_back = []
    for index in range(config["depth"]):
        x, backward_block = block(
            x,
            image_tokens,
            parameters.at(f"block_{index:02d}"),
            num_heads=config["num_heads"],
            use_bias=config["use_bias"],
            masks=(token_mask[:, None], image_mask[:, None]),
        )
        way_back.insert(0, backward_block)
    y, backward_norm = layer_norm_layer(x, parameters.at("norm"))

    def backward(dy):
        dx, dimage = backward_norm(dy.reshape(x.shape)), np.zeros_like(image_tokens)
        for backward_block in way_back:
            dx, dimage_here = backward_block(dx)
            dimage += dimage_here
        dx = dx * nudge
        dtable, dpositions = np.zeros_like(table), np.zeros_like(positions)
        np.add.at(dtable, inputs, dx)
        dpositions[:length] = dx.sum(0)
        parameters.add("token_embedding/embedding", dtable)
        parameters.add("position_embedding/embedding", dpositions)
        return dimage

    return y.reshape(batch, tasks, length, -1), backward


def block(x, image_tokens, parameters, *, num_heads, use_bias, masks):
    """Three residuals: tokens to tokens, tokens to the image, MLP. Its backward returns dx and the image tokens'
    gradient.
    """
    token_mask, image_mask = masks
    tasks = len(x) // len(image_tokens)
    repeated = np.repeat(image_tokens, tasks, axis=0)
    normed, backward_token_norm = _norm(x, parameters.at("token_norm"), use_bias)
    at = parameters.at("token_attention")
    mixed, backward_tokens = _attend(normed, normed, at, num_heads, token_mask, fused=True)
    x = x + mixed
    normed, backward_image_norm = _norm(x, parameters.at("image_norm"), use_bias)
    at = parameters.at("image_attention")
    mixed, backward_image = _attend(normed, repeated, at, num_heads, image_mask, fused=False)
    x = x + mixed
    normed, backward_mlp_norm = _norm(x, parameters.at("mlp_norm"), use_bias)
    changed, backward_mlp = _mlp(normed, parameters.at("mlp"), use_bias)

    def backward(dy):
        dy = dy + backward_mlp_norm(backward_mlp(dy))
        dnormed, drepeated = backward_image(dy)
        dy = dy + backward_image_norm(dnormed)
        dnormed, dkept = backward_tokens(dy)
        dy = dy + backward_token_norm(dnormed + dkept)
        return dy, drepeated.reshape(len(image_tokens), tasks, *image_tokens.shape[1:]).sum(1)

    return x + changed, backward


def masked_attention(query, key, value, mask):
    """softmax(q kᵀ / sqrt(d), where the mask is True) v for each head; gradients as without a mask, as P is 0 outside
    it.
    """
    scale = 1.0 / np.sqrt(query.shape[-1])
    scores = np.where(mask, np.einsum("bqhd,bkhd->bhqk", query, key) * scale, -np.inf)
    weights, backward_softmax = softmax(scores)

    def backward(dy):
        dscores = backward_softmax(np.einsum("bqhd,bkhd->bhqk", dy, value)) * scale
        return (
            np.einsum("bhqk,bkhd->bqhd", dscores, key),
            np.einsum("bhqk,bqhd->bkhd", dscores, query),
            np.einsum("bhqk,bqhd->bkhd", weights, dy),
        )

    return np.einsum("bhqk,bkhd->bqhd", weights, value), backward


def cross_entropy(hidden, kernel, bias, labels):
    """-log softmax(h W + b) at the label, `[tokens]`; dlogits = dy (softmax - 1 at the label)."""
    logits, backward_logits = linear(hidden, kernel, bias)
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    rows = np.arange(len(labels))

    def backward(dy):
        dlogits = np.exp(log_probabilities)
        dlogits[rows, labels] -= 1.0
        return backward_logits(dlogits * dy[:, None])

    return -log_probabilities[rows, labels], backward


def _attend(x, seen, parameters, num_heads, mask, *, fused):
    """Attention of x to what it sees, without biases; one kernel for query, key and value, or one and one for two."""
    width = x.shape[-1]

    def product(array, name):
        kernel = parameters[name]
        y, backward_product = linear(array, kernel, np.zeros(kernel.shape[1]))

        def backward(dy):
            darray, dkernel, _ = backward_product(dy)
            parameters.add(name, dkernel)
            return darray

        return y, backward

    def heads(array):
        return array.reshape(*array.shape[:2], num_heads, width // num_heads)

    if fused:
        qkv, backward_qkv = product(x, "qkv_kernel")
        query, key, value = np.split(qkv, 3, axis=-1)
    else:
        query, backward_query = product(x, "query_kernel")
        key_value, backward_key_value = product(seen, "key_value_kernel")
        key, value = np.split(key_value, 2, axis=-1)
    mixed, backward_attention = masked_attention(heads(query), heads(key), heads(value), mask)
    y, backward_out = product(mixed.reshape(x.shape), "out_kernel")

    def backward(dy):
        parts = backward_attention(heads(backward_out(dy)))
        dquery, dkey, dvalue = (part.reshape(*part.shape[:2], width) for part in parts)
        if fused:
            return backward_qkv(np.concatenate([dquery, dkey, dvalue], axis=-1)), 0.0
        return backward_query(dquery), backward_key_value(np.concatenate([dkey, dvalue], axis=-1))

    return y, backward


def _norm(x, parameters, use_bias):
    if use_bias:
        return layer_norm_layer(x, parameters)
    y, backward_norm = layer_norm(x, parameters["scale"], np.zeros(x.shape[-1]))

    def backward(dy):
        dx, dscale, _ = backward_norm(dy)
        parameters.add("scale", dscale)
        return dx

    return y, backward


def _mlp(x, parameters, use_bias):
    def product(array, name):
        if use_bias:
            return linear_layer(array, parameters, f"{name}_kernel", f"{name}_bias")
        y, backward_product = linear(
            array, parameters[f"{name}_kernel"], np.zeros(parameters[f"{name}_kernel"].shape[1])
        )

        def backward(dy):
            darray, dkernel, _ = backward_product(dy)
            parameters.add(f"{name}_kernel", dkernel)
            return darray

        return y, backward

    hidden, backward_in = product(x, "in")
    active, backward_gelu = gelu(hidden)
    y, backward_out = product(active, "out")
    return y, lambda dy: backward_in(backward_gelu(backward_out(dy)))
