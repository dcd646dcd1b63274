"""Forward pass in NumPy by the names in a big_vision file, against the model that wrote the file."""

import numpy as np
import pytest

from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.weights import big_vision
from tests.models.examples import forward, numpy_of

CONFIG = SigLIPConfig(
    vision=VisionConfig(width=16, depth=2, mlp_dim=24, num_heads=2, patch_size=4, image_size=12),
    text=TextConfig(width=24, depth=2, mlp_dim=40, num_heads=3, vocab_size=30, context_length=7, embed_dim=16),
)
ATTENTION, MLP = "MultiHeadDotProductAttention_0", "MlpBlock_0"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with no weight at zero or one, and the arrays of its file by big_vision's names."""
    model, rng = SigLIP(CONFIG), np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    folder = tmp_path_factory.mktemp("big_vision")
    model.save_to_preset(folder, format="big_vision")
    arrays = {
        name.removeprefix("params/"): x.astype("float64") for name, x in np.load(folder / big_vision.FILE).items()
    }
    return model, arrays


def dense(x, p, name):
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def layer_norm(x, p, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}/scale"] + p[f"{name}/bias"]


def attention(asking, asked, p, name):
    """flax keeps the heads apart: kernels are [width, heads, size] on the way in, [heads, size, width] out."""
    query, key, value = (
        np.einsum("nld,dhk->nlhk", x, p[f"{name}/{part}/kernel"]) + p[f"{name}/{part}/bias"]
        for x, part in ((asking, "query"), (asked, "key"), (asked, "value"))
    )
    scores = np.einsum("nqhk,nlhk->nhql", query, key) / np.sqrt(key.shape[-1])
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("nhql,nlhk->nqhk", shares / shares.sum(-1, keepdims=True), value)
    return np.einsum("nqhk,hkd->nqd", mixed, p[f"{name}/out/kernel"]) + p[f"{name}/out/bias"]


def mlp(x, p, name):
    x = dense(x, p, f"{name}/Dense_0")
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return dense(x, p, f"{name}/Dense_1")


def encoder(x, p, name, depth):
    for layer in range(depth):
        block = f"{name}/encoderblock_{layer}"
        y = layer_norm(x, p, f"{block}/LayerNorm_0")
        x = x + attention(y, y, p, f"{block}/{ATTENTION}")
        x = x + mlp(layer_norm(x, p, f"{block}/LayerNorm_1"), p, f"{block}/{MLP}")
    return layer_norm(x, p, f"{name}/encoder_norm")


def image_embedding(images, p):
    patches = images.reshape(len(images), 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    x = np.einsum("nrcijk,ijkd->nrcd", patches, p["img/embedding/kernel"]) + p["img/embedding/bias"]
    x = encoder(x.reshape(len(x), 9, -1) + p["img/pos_embedding"], p, "img/Transformer", 2)
    head = "img/MAPHead_0"
    x = attention(np.repeat(p[f"{head}/probe"], len(x), axis=0), x, p, f"{head}/{ATTENTION}")
    return (x + mlp(layer_norm(x, p, f"{head}/LayerNorm_0"), p, f"{head}/{MLP}"))[:, 0]


def text_embedding(token_ids, p):
    x = encoder(p["txt/Embed_0/embedding"][token_ids] + p["txt/pos_embedding"], p, "txt/Encoder_0", 2)
    return dense(x[:, -1], p, "txt/head")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_a_files_towers_compute_what_flax_would(saved):
    model, arrays = saved
    rng = np.random.default_rng(1)
    images, ids = rng.uniform(-1, 1, (3, 12, 12, 3)), rng.integers(0, 30, (3, 7))
    outputs = forward(model, {"images": images.astype("float32"), "token_ids": ids.astype("int32")})
    np.testing.assert_allclose(numpy_of(outputs["image_embedding"]), unit(image_embedding(images, arrays)), atol=2e-5)
    np.testing.assert_allclose(numpy_of(outputs["text_embedding"]), unit(text_embedding(ids, arrays)), atol=2e-5)
    assert numpy_of(model.logit_scale) == pytest.approx(np.exp(arrays["t"].item()), rel=1e-6)
    assert numpy_of(model.logit_bias) == pytest.approx(arrays["b"].item(), rel=1e-6)


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_parts_that_change_places_are_seen(saved, part):
    _, arrays = saved
    images = np.random.default_rng(1).uniform(-1, 1, (3, 12, 12, 3))
    name = f"img/Transformer/encoderblock_1/{ATTENTION}"
    other = {"query": "key", "key": "value", "value": "query"}[part]
    swapped = arrays | {
        f"{name}/{one}/{kind}": arrays[f"{name}/{two}/{kind}"]
        for one, two in ((part, other), (other, part))
        for kind in ("kernel", "bias")
    }
    assert np.abs(unit(image_embedding(images, swapped)) - unit(image_embedding(images, arrays))).max() > 1e-3
