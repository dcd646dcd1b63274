"""GPT-1 with its two heads, and the loss of fine-tuning (Radford et al. 2018, equations 1 to 5; OpenAI's code)."""

from dataclasses import dataclass

import numpy as np

from tests.oracle.attention import softmax
from tests.oracle.captioner import masked_attention
from tests.oracle.encoder import mlp
from tests.oracle.layer_norm import layer_norm_layer
from tests.oracle.linear import linear_layer
from tests.oracle.parameters import Parameters

EPSILON = 1e-5


@dataclass
class Answer:
    """Both losses and their weighted sum, the task's logits, and the gradients of the sum by path."""

    task: float
    language: float
    loss: float
    logits: np.ndarray
    gradients: dict[str, np.ndarray]


def double_heads(weights, batch, *, depth: int, num_heads: int, choices: bool, language_weight: float) -> Answer:
    """The loss of a batch without dropout.

    Args:
        weights: by the paths of `GPTDoubleHeads`.
        batch: token_ids int `[b, s, n]`, extract int `[b, s]`, target `[b, answers]`.
        choices: whether each sequence is an answer to choose; otherwise the states of an example's are added.
    """
    parameters = Parameters(weights)
    ids, extract = (np.asarray(batch[name], np.int64) for name in ("token_ids", "extract"))
    examples, count, length = ids.shape
    texts = ids.reshape(-1, length)
    features, backward_decoder = decoder(texts, parameters.at("decoder"), depth=depth, num_heads=num_heads)

    table = weights["decoder/token_embedding/embedding"]
    counted = (np.arange(length) <= extract.reshape(-1, 1))[:, 1:] * 1.0
    shares = counted / counted.sum(1, keepdims=True) / len(texts)  # of each token in the mean over all sequences
    probabilities, _ = softmax(features[:, :-1] @ np.asarray(table, np.float64).T)
    rows, places = np.indices(counted.shape)
    own = probabilities[rows, places, texts[:, 1:]]
    language = float(-(np.log(own) * shares).sum())

    at = np.arange(len(texts)), extract.reshape(-1)
    states = features[at].reshape(examples, count, -1)
    if not choices:
        states = states.sum(1, keepdims=True)
    numbers, backward_head = linear_layer(states, parameters.at("classifier"))
    logits = numbers[:, :, 0] if choices else numbers[:, 0]
    target = np.asarray(batch["target"], np.float64)
    said, _ = softmax(logits)
    task = float(-(target * np.log(said)).sum() / examples)

    dlogits = (said - target) / examples
    dstates = backward_head(dlogits[:, :, None] if choices else dlogits[:, None])
    dfeatures = np.zeros_like(features)
    dfeatures[at] = np.broadcast_to(dstates, (examples, count, features.shape[-1])).reshape(len(texts), -1)
    dscores = probabilities.copy()
    dscores[rows, places, texts[:, 1:]] -= 1.0
    dscores *= language_weight * shares[:, :, None]
    dfeatures[:, :-1] += dscores @ table
    parameters.add("decoder/token_embedding/embedding", np.einsum("bnv,bnw->vw", dscores, features[:, :-1]))
    backward_decoder(dfeatures)
    return Answer(task, language, task + language_weight * language, logits, parameters.gradients)


def decoder(ids, parameters, *, depth, num_heads):
    """Token ids `[b, n]` -> features `[b, n, w]`: post-LN blocks without a last norm; backward collects gradients."""
    tokens, positions = parameters["token_embedding/embedding"], parameters["position_embedding/embedding"]
    x = tokens[ids] + positions[: ids.shape[1]]
    way_back = []
    for index in range(depth):
        x, backward_block = block(x, parameters.at(f"block_{index:02d}"), num_heads=num_heads)
        way_back.insert(0, backward_block)

    def backward(dy):
        for backward_block in way_back:
            dy = backward_block(dy)
        dtokens, dpositions = np.zeros_like(tokens), np.zeros_like(positions)
        np.add.at(dtokens, ids, dy)
        dpositions[: ids.shape[1]] = dy.sum(0)
        parameters.add("token_embedding/embedding", dtokens)
        parameters.add("position_embedding/embedding", dpositions)

    return x, backward


def block(x, parameters, *, num_heads):
    """n = norm(x + attention(x)), norm(n + mlp(n))."""
    mixed, backward_attention = causal_attention(x, parameters.at("attention"), num_heads=num_heads)
    n, backward_first = layer_norm_layer(x + mixed, parameters.at("attention_norm"), EPSILON)
    changed, backward_mlp = mlp(n, parameters.at("mlp"))
    y, backward_second = layer_norm_layer(n + changed, parameters.at("mlp_norm"), EPSILON)

    def backward(dy):
        dy = backward_second(dy)
        dy = backward_first(dy + backward_mlp(dy))
        return dy + backward_attention(dy)

    return y, backward


def causal_attention(x, parameters, *, num_heads):
    """`[b, n, w]` -> the same; place j sees the places 0 to j."""
    batch, length, width = x.shape
    heads = (batch, length, num_heads, width // num_heads)
    qkv, backward_qkv = linear_layer(x, parameters, "qkv_kernel", "qkv_bias")
    seen = np.tril(np.ones((length, length), bool))
    mixed, backward_mixed = masked_attention(*(part.reshape(heads) for part in np.split(qkv, 3, axis=-1)), mask=seen)
    y, backward_out = linear_layer(mixed.reshape(x.shape), parameters, "out_kernel", "out_bias")

    def backward(dy):
        parts = backward_mixed(backward_out(dy).reshape(heads))
        return backward_qkv(np.concatenate([part.reshape(x.shape) for part in parts], axis=-1))

    return y, backward


def openai_adam(weights, gradients, state, *, rate: float, l2: float, beta_2: float = 0.999) -> dict[str, np.ndarray]:
    """Weights after one update of OpenAI's `opt.py` on clipped gradients; `state` holds the moments and the count."""
    state["t"] = t = state.get("t", 0) + 1
    corrected = rate * np.sqrt(1 - beta_2**t) / (1 - 0.9**t)
    after = {}
    for path, weight in weights.items():
        m = state[path, "m"] = 0.9 * state.get((path, "m"), 0.0) + 0.1 * gradients[path]
        v = state[path, "v"] = beta_2 * state.get((path, "v"), 0.0) + (1 - beta_2) * gradients[path] ** 2
        decay = l2 if weight.ndim > 1 else 0.0
        after[path] = weight - corrected * (m / (np.sqrt(v) + 1e-8) + decay * weight)
    return after
