"""Gemma's laws: who sees whom, scales and caps, exact sizes. That it is transformers' `tests/agreement` holds."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from diptych.models import Gemma, GemmaConfig
from diptych.models.abstract import shapes_only
from diptych.models.gemma.config import count_gemma_parameters
from diptych.models.gemma.presets import PRESETS
from diptych.models.parts.places import Places
from diptych.models.presets import preset_config
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import forward, numpy_of

ONE_BLOCK = GemmaConfig(
    width=12,
    depth=1,
    mlp_dim=20,
    num_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    vocab_size=40,
    context_length=32,
)
IDS = np.random.default_rng(1).integers(3, 40, (1, 9)).astype("int32")

PUBLISHED = {
    "gemma_2b": (110_104_576, 2_506_172_416),
    "gemma_7b": (276_830_208, 8_537_680_896),
    "gemma2_2b": (77_865_984, 2_614_341_888),
    "gemma2_9b": (198_195_200, 9_241_705_984),
    "gemma2_27b": (566_249_472, 27_227_128_320),
}
"""Parameters of a layer and of the whole, of the published models."""


def random_gemma(config: GemmaConfig, **arguments) -> Gemma:
    """A model none of whose weights is where it starts."""
    model, rng = Gemma(config, **arguments), np.random.default_rng(2)
    for variable in model.weights:
        variable.assign(rng.normal(0, 0.4, variable.shape).astype("float32"))
    return model


def features_of(model: Gemma, ids, mask=None) -> np.ndarray:
    return numpy_of(forward(lambda x: model.features(x["ids"], mask), {"ids": ids}))


@ABOVE_THE_BACKENDS
@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_published_without_memory_for_them(name):
    config, (layer, total) = PRESETS[name], PUBLISHED[name]
    counted = count_gemma_parameters(config)
    assert (counted["blocks"] - config.width) / config.depth == layer
    assert counted["total"] == total
    shallow = replace(config, depth=2)
    with shapes_only():
        model = Gemma(shallow)
    assert model.count_params() == count_gemma_parameters(shallow)["total"] == total - (config.depth - 2) * layer


@pytest.mark.parametrize("window", [None, 3])
def test_a_token_sees_itself_and_those_before_it_as_far_as_the_window(window):
    model = random_gemma(replace(ONE_BLOCK, sliding_window=window))
    changed = IDS.copy()
    changed[0, 4] = 39 if IDS[0, 4] != 39 else 38
    own, other = features_of(model, np.concatenate([IDS, changed]))
    sees = [4, 5, 6, 7, 8] if window is None else [4, 5, 6]
    assert np.array_equal(np.flatnonzero(np.abs(own - other).max(axis=-1) > 1e-4), sees)


def test_the_window_is_that_of_each_second_block_from_the_first_on():
    config = replace(ONE_BLOCK, depth=4, sliding_window=3)
    assert [config.window(layer) for layer in range(4)] == [3, None, 3, None]


def test_padding_changes_nothing_wherever_it_stands():
    model = random_gemma(replace(ONE_BLOCK, sliding_window=4, depth=2))
    rows = np.zeros((3, 12), "int32")
    masks = np.zeros(rows.shape, bool)
    for row, place in enumerate((slice(0, 9), slice(3, 12), slice(2, 11))):
        rows[row, place], masks[row, place] = IDS[0], True
    found = features_of(model, rows, masks)
    assert np.isfinite(found).all()
    expected = features_of(model, IDS)[0]
    for row in range(3):
        np.testing.assert_allclose(found[row][masks[row]], expected, rtol=1e-4, atol=1e-5)


def test_a_prefix_sees_all_of_itself_and_what_follows_sees_what_came_before():
    count = np.array([[True, True, True, True, True, False]])
    causal = np.array([[False, False, True, True, True, True]])
    places = Places.of(keras.ops.convert_to_tensor(count), keras.ops.convert_to_tensor(causal))
    sees = numpy_of(places.seen_from(places))[0, 0].astype(int).tolist()
    assert sees == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],  # padding, whose row must not be empty
    ]
    narrow = numpy_of(places.seen_from(places, window=2))[0, 0].astype(int).tolist()
    assert narrow[:5] == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
    ]
    assert numpy_of(places.positions).tolist() == [[0, 1, 2, 3, 4, 4]]


def test_the_factor_of_embeddings_is_rounded_to_the_dtype_that_is_computed_in():
    config = replace(ONE_BLOCK, width=2_048, mlp_dim=4, head_dim=2)
    for dtype, factor in (("float32", 2_048**0.5), ("mixed_bfloat16", 45.25), ("bfloat16", 45.25)):
        model = Gemma(config, dtype=dtype)
        model.decoder.token_embedding.embedding.assign(np.ones((40, 2_048), "float32"))
        assert np.all(numpy_of(model.decoder.embedded(np.array([[3]], "int32"))) == np.float32(factor))


def test_weights_of_norms_are_distances_from_one():
    model = Gemma(ONE_BLOCK)
    assert all(np.all(numpy_of(w.value) == 0) for w in model.weights if w.path.endswith("norm/scale"))
    deviation = numpy_of(features_of(model, IDS)).std()
    assert 0.9 < deviation < 1.1


def test_logits_are_capped_and_only_those_of_tokens():
    model = random_gemma(replace(ONE_BLOCK, logits_soft_cap=2.0, predicted_ids=30))
    below = np.minimum(IDS, 29)

    def everything(ids):
        features = model.features(ids)
        return features, model.logits(features), model.token_losses(ids, tokens_per_chunk=3)

    features, logits, losses = map(numpy_of, forward(everything, below))
    table = numpy_of(model.decoder.token_embedding.embedding.value)[:30]
    np.testing.assert_allclose(logits, 2 * np.tanh(features @ table.T / 2), rtol=1e-5, atol=1e-5)
    of_next = logits[0] - np.log(np.exp(logits[0].astype("float64")).sum(-1, keepdims=True))
    np.testing.assert_allclose(losses[0], -of_next[np.arange(8), below[0, 1:]], rtol=1e-5, atol=1e-5)


def test_recomputed_blocks_give_the_same():
    config = replace(ONE_BLOCK, post_norms=True, attention_soft_cap=1.0)
    models = [random_gemma(config, rematerialize=rematerialize) for rematerialize in (False, True)]
    np.testing.assert_array_equal(*(features_of(model, IDS) for model in models))


def test_configurations_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="multiple of num_key_value_heads, got 2 and 3"):
        replace(ONE_BLOCK, num_key_value_heads=3)
    with pytest.raises(ValueError, match="head_dim must be even"):
        replace(ONE_BLOCK, head_dim=5)
    with pytest.raises(ValueError, match="predicted_ids must be at most vocab_size 40, got 41"):
        replace(ONE_BLOCK, predicted_ids=41)
    with pytest.raises(ValueError, match="logits_soft_cap must be positive"):
        replace(ONE_BLOCK, logits_soft_cap=0.0)
    with pytest.raises(ValueError, match="'gemma_2b' is a Gemma, and two towers are expected"):
        preset_config("gemma_2b")


@ABOVE_THE_BACKENDS
def test_a_model_survives_its_configuration():
    model = Gemma(replace(ONE_BLOCK, post_norms=True))
    again = Gemma.from_config(model.get_config())
    assert again.config == model.config
    assert [weight.path for weight in again.weights] == [weight.path for weight in model.weights]
    decoder = type(model.decoder).from_config(model.decoder.get_config())
    assert decoder.config == model.config
