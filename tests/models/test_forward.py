"""The layers against formulas in float64 NumPy, and big_vision's conventions one by one."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from diptych.core.losses.contrastive import sigmoid_loss
from diptych.models import SigLIP, TextTransformer, TwoTowers, VisionTransformer
from diptych.models.parts.embeddings import ClassToken, PatchEmbedding, TokenEmbedding
from diptych.models.parts.heads import MapHead, normalize
from diptych.models.parts.mlp import Mlp
from diptych.models.parts.norms import LayerNorm
from tests.models.examples import TINY, TINY_TEXT, TINY_VISION, batch_for, forward, numpy_of, value_and_gradients

BATCH = batch_for(TINY)


def randomize(layer, seed=0) -> dict[str, np.ndarray]:
    """Gives every weight, biases and scales too, random values; -> {name: float64 array}."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return {w.path.partition("/")[2]: w.numpy().astype("float64") for w in layer.weights}


def layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_patches_are_a_convolution_without_padding():
    images = np.random.default_rng(0).normal(size=(2, 10, 13, 3)).astype("float32")
    layer = PatchEmbedding(patch_size=4, width=7)
    patches = numpy_of(layer(images))
    weights = randomize(layer)
    patches = numpy_of(layer(images))
    convolved = ops.conv(images, layer.kernel, strides=4, padding="valid", data_format="channels_last") + layer.bias
    assert np.allclose(patches, numpy_of(convolved).reshape(2, 2 * 3, 7), atol=1e-5)
    row, column = 1, 2
    cut = images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].astype("float64")
    by_hand = np.einsum("bijc,ijcw->bw", cut, weights["kernel"]) + weights["bias"]
    assert np.allclose(patches[:, row * 3 + column], by_hand, atol=1e-5)


def test_pixels_that_fill_no_patch_are_not_seen():
    model = VisionTransformer(TINY_VISION)
    changed = BATCH["images"].copy()
    changed[:, 8:], changed[:, :, 8:] = 9.0, -9.0
    seen = changed.copy()
    seen[:, 7] = 9.0
    before, after, other = (numpy_of(forward(model, x)["pooled"]) for x in (BATCH["images"], changed, seen))
    assert np.array_equal(before, after)
    assert not np.allclose(before, other, atol=1e-3)


def test_the_map_head_follows_its_formula():
    tokens = np.random.default_rng(1).normal(size=(3, 5, 8))
    layer = MapHead(num_heads=2, mlp_dim=12)
    layer(tokens.astype("float32"))
    w = randomize(layer)
    query = (w["probe"][0] @ w["query_kernel"] + w["query_bias"]).reshape(2, 4)
    key, value = np.split(tokens @ w["key_value_kernel"] + w["key_value_bias"], 2, axis=-1)
    logits = np.einsum("hd,blhd->bhl", query, key.reshape(3, 5, 2, 4)) / np.sqrt(4)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    x = np.einsum("bhl,blhd->bhd", weights, value.reshape(3, 5, 2, 4)).reshape(3, 8) @ w["out_kernel"] + w["out_bias"]
    hidden = gelu(layer_norm(x, w["norm/scale"], w["norm/bias"]) @ w["mlp/in_kernel"] + w["mlp/in_bias"])
    expected = x + hidden @ w["mlp/out_kernel"] + w["mlp/out_bias"]
    assert np.allclose(numpy_of(forward(layer, tokens.astype("float32"))), expected, rtol=1e-4, atol=1e-4)


def test_layer_norm_has_big_visions_epsilon():
    x = np.random.default_rng(2).normal(0, 1e-3, (4, 16)).astype("float32")
    layer = LayerNorm()
    layer(x)
    w = randomize(layer)
    expected = layer_norm(x.astype("float64"), w["scale"], w["bias"])
    assert np.allclose(numpy_of(layer(x)), expected, rtol=1e-4, atol=1e-5)


def test_the_mlp_uses_the_tanh_form_of_gelu():
    x = np.random.default_rng(3).normal(0, 2, (64, 8)).astype("float32")
    layer = Mlp(mlp_dim=16)
    layer(x)
    w = randomize(layer)
    expected = gelu(x @ w["in_kernel"] + w["in_bias"]) @ w["out_kernel"] + w["out_bias"]
    assert np.allclose(numpy_of(layer(x)), expected, rtol=1e-4, atol=2e-5)  # the erf form is 5e-4 away


@pytest.mark.parametrize("pooling", ["last", "first", "gap"])
def test_text_pooling_reads_the_named_position(pooling):
    model = TextTransformer(replace(TINY_TEXT, pooling=pooling))
    outputs = forward(model, BATCH["token_ids"])
    tokens = numpy_of(outputs["tokens"])
    projection = model.get_layer("projection")
    chosen = {"last": tokens[:, -1], "first": tokens[:, 0], "gap": tokens.mean(1)}[pooling]
    expected = chosen @ projection.kernel.numpy() + projection.bias.numpy()
    assert tokens.shape == (4, TINY_TEXT.context_length, TINY_TEXT.width)
    assert np.allclose(numpy_of(outputs["pooled"]), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["gap", "cls"])
def test_image_pooling_reads_the_named_position(pooling):
    outputs = forward(VisionTransformer(replace(TINY_VISION, pooling=pooling)), BATCH["images"])
    tokens = numpy_of(outputs["tokens"])
    assert tokens.shape == (4, 4 + (pooling == "cls"), 16)
    assert np.allclose(numpy_of(outputs["pooled"]), tokens[:, 0] if pooling == "cls" else tokens.mean(1), atol=1e-6)


def test_the_class_token_comes_first_and_has_no_position():
    x = np.random.default_rng(4).normal(size=(2, 3, 5)).astype("float32")
    layer = ClassToken()
    layer(x)
    token = randomize(layer)["token"]
    y = numpy_of(layer(x))
    assert np.allclose(y[:, 0], token)
    assert np.array_equal(y[:, 1:], x)
    model = VisionTransformer(replace(TINY_VISION, pooling="cls"))
    names = [layer.name for layer in model.layers]
    assert names.index("position_embedding") < names.index("class_token") < names.index("encoder")
    assert model.get_layer("position_embedding").embedding.shape == (4, 16)


def test_normalization_is_big_visions():
    x = np.random.default_rng(5).normal(size=(6, 9)).astype("float32") * np.logspace(-6, 3, 6, dtype="float32")[:, None]
    expected = x / (np.linalg.norm(x.astype("float64"), axis=-1, keepdims=True) + 1e-8)
    assert np.allclose(numpy_of(normalize(x)), expected, rtol=1e-5)


def test_a_zero_vector_normalizes_to_zero_with_a_finite_gradient():
    x = keras.Variable(np.zeros((2, 5), "float32"))
    value, (gradient,) = value_and_gradients(lambda: ops.sum(normalize(x.value)[:, 0]), [x])
    assert float(value) == 0
    assert np.isfinite(numpy_of(gradient)).all()


def test_the_gradient_of_the_token_table_is_dense():
    ids = np.array([[1, 1, 3], [0, 3, 1]], "int32")
    cotangent = np.random.default_rng(6).normal(size=(2, 3, 4)).astype("float32")
    layer = TokenEmbedding(vocab_size=6, width=4)
    layer(ids)
    _, (gradient,) = value_and_gradients(lambda: ops.sum(ops.multiply(layer(ids), cotangent)), [layer.embedding])
    assert type(gradient).__name__ != "IndexedSlices"
    assert np.allclose(numpy_of(gradient), np.einsum("blv,blw->vw", np.eye(6)[ids], cotangent), atol=1e-6)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="only tensorflow has sparse gradients of lookups")
def test_a_bare_lookup_would_have_a_sparse_gradient():
    table = keras.Variable(np.ones((6, 4), "float32"))
    ids = np.array([[1, 1, 3]], "int32")
    _, (gradient,) = value_and_gradients(lambda: ops.sum(ops.take(table.value, ids, axis=0)), [table])
    assert type(gradient).__name__ == "IndexedSlices"


def test_embeddings_have_unit_length_and_follow_the_towers():
    model = SigLIP(TINY)
    outputs = forward(model, BATCH)
    for embedding, tower, inputs in (
        ("image_embedding", model.image_encoder, BATCH["images"]),
        ("text_embedding", model.text_encoder, BATCH["token_ids"]),
    ):
        x = numpy_of(outputs[embedding])
        assert np.allclose(np.linalg.norm(x, axis=-1), 1, atol=1e-5)
        pooled = numpy_of(forward(tower, inputs)["pooled"])
        assert np.allclose(x, pooled / np.linalg.norm(pooled, axis=-1, keepdims=True), atol=1e-5)
    assert np.allclose(
        numpy_of(forward(model.image_embedder(), BATCH["images"])), numpy_of(outputs["image_embedding"]), atol=1e-6
    )
    assert np.allclose(
        numpy_of(forward(model.text_embedder(), BATCH["token_ids"])), numpy_of(outputs["text_embedding"]), atol=1e-6
    )
    encoded = model.encode_image(BATCH["images"]), model.encode_text(BATCH["token_ids"])
    for found, name in zip(encoded, ("image_embedding", "text_embedding"), strict=True):
        np.testing.assert_allclose(numpy_of(found), numpy_of(outputs[name]), atol=1e-6)


def test_scale_and_bias_start_as_configured():
    model = SigLIP(TINY)
    assert numpy_of(model.logit_scale) == pytest.approx(10, rel=1e-6)
    assert numpy_of(model.logit_bias) == -2
    without = SigLIP(replace(TINY, init_logit_bias=None))
    assert without.logit_bias is None
    assert len(without.weights) == len(model.weights) - 1


def test_the_loss_that_fit_minimises_is_the_pairwise_sigmoid_loss():
    model = SigLIP(TINY)
    outputs = forward(model, BATCH)
    expected = sigmoid_loss(
        outputs["image_embedding"],
        outputs["text_embedding"],
        logit_scale=model.logit_scale,
        logit_bias=model.logit_bias,
    )
    assert float(model.compute_loss(BATCH, y_pred=outputs)) == pytest.approx(float(expected), rel=1e-6)
    x, y = (numpy_of(outputs[name]).astype("float64") for name in ("image_embedding", "text_embedding"))
    z = (2 * np.eye(4) - 1) * (10 * x @ y.T - 2)
    assert float(expected) == pytest.approx(np.log1p(np.exp(-z)).sum() / 4, rel=1e-5)


def test_towers_of_different_width_are_refused_with_the_cure():
    narrow = TextTransformer(replace(TINY_TEXT, embed_dim=8))
    with pytest.raises(ValueError, match=r"image 16, text 8\. Give one of them a projection"):
        TwoTowers(VisionTransformer(TINY_VISION), narrow)
