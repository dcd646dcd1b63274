"""Attention, norms, MLP and block in each of their kinds, against their papers' equations in float64."""

from math import erf

import keras
import numpy as np
import pytest

from diptych.models.parts.attention import Attention
from diptych.models.parts.block import Block, BlockConfig
from diptych.models.parts.norms import RMSNorm
from diptych.models.parts.rotary import rotate
from tests.models.examples import numpy_of

BATCH, LENGTH, WIDTH, KEYS = 2, 5, 12, 3
RNG = np.random.default_rng(3)
X = RNG.normal(size=(BATCH, LENGTH, WIDTH)).astype("float32")
CONTEXT = RNG.normal(size=(BATCH, KEYS, 7)).astype("float32")
CAUSAL = np.tril(np.ones((LENGTH, LENGTH), bool))
SEES = np.array([[True, False, True], [True, True, True]])[:, None, None]

KINDS = {
    "ViT's": BlockConfig(num_heads=3, mlp_dim=20),
    "GPT-1's": BlockConfig(num_heads=3, mlp_dim=20, causal=True, norm_first=False, activation="gelu"),
    "Gemma's": BlockConfig(
        num_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        mlp_dim=20,
        causal=True,
        rotary_base=100.0,
        gated=True,
        norm="rms",
        use_bias=False,
        attention_bias=False,
    ),
    "Gemma 2's": BlockConfig(
        num_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        mlp_dim=20,
        causal=True,
        rotary_base=100.0,
        query_scale=0.7,
        soft_cap=1.5,
        gated=True,
        norm="rms_from_one",
        post_norms=True,
        use_bias=False,
        attention_bias=False,
    ),
    "one key for all": BlockConfig(num_heads=4, num_key_value_heads=1, mlp_dim=20, activation="quick_gelu"),
}


def affine(x, weights, name):
    return x @ weights[f"{name}_kernel"] + weights.get(f"{name}_bias", 0.0)


def turned(x, positions, base):
    """Each pair (x_i, x_{i + d/2}) as a complex number, times exp(i · position · base^(-2i/d))."""
    half = x.shape[-1] // 2
    angles = np.multiply.outer(positions, base ** (-2.0 * np.arange(half) / x.shape[-1]))[:, None]
    pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def attended(config, query, keys, values, mask):
    """A head at a time; each head of keys and values serves a run of the queries' heads."""
    group = query.shape[2] // keys.shape[2]
    found = np.zeros_like(query)
    for head in range(query.shape[2]):
        q, k, v = query[:, :, head], keys[:, :, head // group], values[:, :, head // group]
        scores = q @ k.swapaxes(1, 2) * (config.query_scale or q.shape[-1] ** -0.5)
        scores = np.where(mask, _capped(scores, config.soft_cap), -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        found[:, :, head] = shares / shares.sum(-1, keepdims=True) @ v
    return found.reshape(*query.shape[:2], -1)


def _capped(scores, cap):
    return scores if cap is None else cap * np.tanh(scores / cap)


def norm(config, x, weights):
    if config.norm in ("rms", "rms_from_one"):
        scale = weights["scale"] + (config.norm == "rms_from_one")
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * scale
    centred = x - x.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.norm_epsilon)
    return y * weights["scale"] + weights.get("bias", 0.0)


def activation(config, x):
    if config.activation == "gelu":
        return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))
    if config.activation == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def by_hand(config, weights, x, context=None):
    """The block from its equations."""
    heads, groups = config.num_heads, config.num_key_value_heads or config.num_heads
    size = config.head_dim or WIDTH // heads

    def split(y, *counts):
        y = y.reshape(*y.shape[:2], sum(counts), size)
        return np.split(y, np.cumsum(counts)[:-1], axis=2)

    def among_tokens(y):
        query, keys, values = split(affine(y, weights["attention"], "qkv"), heads, groups, groups)
        if config.rotary_base:
            query, keys = (turned(each, np.arange(y.shape[1]), config.rotary_base) for each in (query, keys))
        mask = CAUSAL if config.causal else True
        return affine(attended(config, query, keys, values, mask), weights["attention"], "out")

    def to_context(y):
        (query,) = split(affine(y, weights["context_attention"], "query"), heads)
        keys, values = split(affine(context, weights["context_attention"], "key_value"), groups, groups)
        return affine(attended(config, query, keys, values, SEES[:, 0]), weights["context_attention"], "out")

    def mlp(y):
        inside = affine(y, weights["mlp"], "in")
        gate = affine(y, weights["mlp"], "gate") if config.gated else inside
        inside = activation(config, gate) * inside if config.gated else activation(config, inside)
        return affine(inside, weights["mlp"], "out")

    for norm_name, name, part in (
        ("attention_norm", "attention", among_tokens),
        ("context_norm", "context_attention", to_context if context is not None else None),
        ("mlp_norm", "mlp", mlp),
    ):
        if part is not None:
            own = weights[norm_name]
            added = part(norm(config, x, own)) if config.norm_first else part(x)
            if config.post_norms:
                added = norm(config, added, weights[f"{name}_post_norm"])
            x = x + added if config.norm_first else norm(config, x + added, own)
    return x


def block_of(config, *, looks=False) -> tuple[Block, dict]:
    """A block with random weights, none of them where it starts, and the weights in float64 by part and name."""
    block = Block(config=config, looks=looks, name="block")
    block.build((None, LENGTH, WIDTH), CONTEXT.shape if looks else None)
    rng, weights = np.random.default_rng(1), {}
    for variable in block.variables:
        part, name = variable.path.split("/")[-2:]
        value = rng.normal(1.0 if name == "scale" else 0.0, 0.4, variable.shape).astype("float32")
        variable.assign(value)
        weights.setdefault(part, {})[name] = value.astype("float64")
    return block, weights


@pytest.mark.parametrize("looks", [False, True], ids=["alone", "looking"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_its_equations(kind, looks):
    block, weights = block_of(KINDS[kind], looks=looks)
    context = {"context": CONTEXT, "context_mask": SEES} if looks else {}
    expected = by_hand(KINDS[kind], weights, X.astype("float64"), CONTEXT.astype("float64") if looks else None)
    assert np.allclose(numpy_of(block(X, **context)), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", ["GPT-1's", "Gemma's", "Gemma 2's"])
def test_token_by_token_is_the_whole_sequence(kind):
    block, _ = block_of(KINDS[kind], looks=True)
    expected = numpy_of(block(X, CONTEXT, context_mask=SEES))
    keys_values = block.context_attention.keys_values(keras.ops.convert_to_tensor(CONTEXT))
    cache = block.attention.empty_cache(BATCH, LENGTH)
    for place in range(LENGTH):
        known = (np.arange(LENGTH) <= place)[None, None, None]
        one = keras.ops.convert_to_tensor(X[:, place : place + 1])
        position = keras.ops.convert_to_tensor(place, "int32")
        got, cache = block.step(one, cache, position, keys_values, known, SEES)
        assert np.allclose(numpy_of(got)[:, 0], expected[:, place], rtol=1e-4, atol=2e-5)
    assert cache[0].shape[2] == (KINDS[kind].num_key_value_heads or KINDS[kind].num_heads)


def test_several_tokens_at_once_and_positions_of_ones_own_go_through_the_cache():
    block, _ = block_of(KINDS["Gemma 2's"])
    positions = np.array([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]], "int32")
    mask = CAUSAL & (np.arange(LENGTH) >= np.array([0, 2])[:, None])[:, None, None] | np.eye(LENGTH, dtype=bool)
    expected = numpy_of(block(X, token_mask=mask, positions=positions))
    cache = block.attention.empty_cache(BATCH, LENGTH)
    for part in (slice(0, 3), slice(3, 5)):
        tokens = keras.ops.convert_to_tensor(X[:, part])
        given = {"token_mask": mask[:, :, part], "positions": positions[:, part]}
        got, cache = block.step(tokens, cache, part.start, **given)
        assert np.allclose(numpy_of(got), expected[:, part], rtol=1e-4, atol=2e-5)


def test_turned_products_depend_on_the_distance_alone():
    query, key = (RNG.normal(size=(1, 1, 2, 8)).astype("float32") for _ in range(2))

    def product(at, other):
        turned = (rotate(keras.ops.convert_to_tensor(x), np.array([p])) for x, p in ((query, at), (key, other)))
        return np.sum(np.multiply(*(numpy_of(each) for each in turned)), axis=-1)

    assert np.allclose(product(7, 3), product(104, 100), atol=1e-4)
    assert not np.allclose(product(7, 3), product(7, 4), atol=1e-2)
    assert np.allclose(product(5, 5), (query * key).sum(-1), atol=1e-5)


def test_a_group_of_heads_must_be_whole():
    with pytest.raises(ValueError, match="multiple of num_key_value_heads, got 6 and 4"):
        Attention(num_heads=6, num_key_value_heads=4)


def test_the_root_mean_square_is_taken_in_float32():
    layer = RMSNorm(dtype="mixed_bfloat16")
    x = np.full((1, 3000), 300.0, "float32")
    x[0, 0] = 1.0
    got = layer(keras.ops.cast(x, "bfloat16"))
    assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    assert np.allclose(numpy_of(got)[0, 1:], 1.0, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_survives_its_configuration(kind):
    block, _ = block_of(KINDS[kind])
    again = Block.from_config(block.get_config())
    assert again.config == KINDS[kind]
    again.build((None, LENGTH, WIDTH))
    assert [w.path for w in again.weights] == [w.path for w in block.weights]
    assert Attention.from_config(block.attention.get_config()).get_config() == block.attention.get_config()
