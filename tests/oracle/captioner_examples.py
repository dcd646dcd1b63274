"""Weights and batches for the captioning decoder, drawn from a seed, and how errors grow on the way through it."""

import math

import numpy as np

from tests.oracle.captioner import Answer, captioner

NUDGE = 1e-6
NUDGES = 3


def weight_shapes(config) -> dict[str, tuple[int, ...]]:
    """Every weight of the decoder: path inside it -> shape."""
    width, vocabulary, hidden = config["width"], config["vocab_size"], config["mlp_dim"]
    shapes = {
        "token_embedding/embedding": (vocabulary + 1, width),
        "position_embedding/embedding": (config["context_length"], width),
        "norm/scale": (width,),
        "norm/bias": (width,),
        "logits_bias": (vocabulary,),
    }
    if not config["tie_embeddings"]:
        shapes["logits_kernel"] = (width, vocabulary)
    for index in range(config["depth"]):
        block = f"block_{index:02d}"
        for norm in ("token_norm", "image_norm", "mlp_norm"):
            shapes[f"{block}/{norm}/scale"] = (width,)
            if config["use_bias"]:
                shapes[f"{block}/{norm}/bias"] = (width,)
        shapes[f"{block}/token_attention/qkv_kernel"] = (width, 3 * width)
        shapes[f"{block}/token_attention/out_kernel"] = (width, width)
        shapes[f"{block}/image_attention/query_kernel"] = (width, width)
        shapes[f"{block}/image_attention/key_value_kernel"] = (config["encoder_width"], 2 * width)
        shapes[f"{block}/image_attention/out_kernel"] = (width, width)
        shapes[f"{block}/mlp/in_kernel"] = (width, hidden)
        shapes[f"{block}/mlp/out_kernel"] = (hidden, width)
        if config["use_bias"]:
            shapes[f"{block}/mlp/in_bias"] = (hidden,)
            shapes[f"{block}/mlp/out_bias"] = (width,)
    return shapes


def draw_captioner_weights(config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """float32 weights at which every one has a say: kernels at unit gain, biases and scales around theirs."""
    weights = {}
    for path, shape in weight_shapes(config).items():
        if path.endswith("kernel"):
            value = rng.normal(0.0, 1.0 / math.sqrt(shape[0]), shape)
        elif path.endswith("scale"):
            value = rng.normal(1.0, 0.1, shape)
        else:
            tied = config["tie_embeddings"] and path == "token_embedding/embedding"
            scale = 0.5 if tied else 1.0 if path.startswith("token") else 0.2
            value = rng.normal(0.0, scale, shape)
        weights[path] = value.astype(np.float32)
    return weights


def draw_captioner_batch(
    config,
    rng: np.random.Generator,
    *,
    batch_size: int,
    tasks: int = 3,
    length: int | None = None,
    image_tokens: int = 5,
) -> dict[str, np.ndarray]:
    """Causal and parallel sequences side by side; prompts and padding that do not count; one sequence that counts
    nowhere.

    Every image has a token that is there; the last image's last tokens are padding.
    """
    length = length or config["context_length"]
    shape = (batch_size, tasks, length)
    first = rng.integers(0, max(1, length // 3), shape[:2] + (1,))
    last = rng.integers(length // 2, length, shape[:2] + (1,))
    places = np.arange(length)
    weights = ((places >= first) & (places <= last)).astype(np.uint8)
    weights[-1, -1] = 0
    parallel = rng.random(shape[:2]) < 0.5
    parallel[0, 0], parallel[-1, 0] = True, False
    present = rng.integers(1, image_tokens + 1, (batch_size, 1))
    present[0] = image_tokens
    return {
        "token_ids": rng.integers(0, config["vocab_size"], shape).astype(np.int32),
        "weights": weights,
        "parallel": parallel,
        "encoder_tokens": rng.normal(size=(batch_size, image_tokens, config["encoder_width"])).astype(np.float32),
        "encoder_mask": np.arange(image_tokens) < present,
    }


def draw_captioner_problem(config, *, seed: int, **shape) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights, batch) for a configuration: the same for the same arguments, on every machine."""
    rng = np.random.default_rng(seed)
    return draw_captioner_weights(config, rng), draw_captioner_batch(config, rng, **shape)


def captioner_conditions(config, weights, batch, answer: Answer, *, seed: int = 0) -> dict[str, float]:
    """name -> ‖change‖ / (1e-6 ‖value‖) when weights, image tokens and tokens are nudged by 1e-6; see
    `conditioning`.
    """
    rng = np.random.default_rng(seed)
    values, total = answer.named(), {}
    sequences = batch["token_ids"].shape[0] * batch["token_ids"].shape[1]
    for _ in range(NUDGES):
        nudged = {path: value * _nudge(rng, value.shape) for path, value in weights.items()}
        nudges = {
            "image_nudge": _nudge(rng, batch["encoder_tokens"].shape),
            "token_nudge": _nudge(rng, (sequences, 1, config["width"])),
        }
        for name, value in captioner(config, nudged, batch, **nudges).named().items():
            total[name] = total.get(name, 0.0) + np.square(value - values[name]).sum()
    norms = {name: np.linalg.norm(value) for name, value in values.items()}
    return {
        name: float(np.sqrt(square / NUDGES) / (NUDGE * norms[name])) if norms[name] else 0.0
        for name, square in total.items()
    }


def _nudge(rng, shape):
    return 1.0 + NUDGE * rng.standard_normal(shape)
