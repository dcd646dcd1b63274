"""Weights in int8: rounded by channel, computed with as what they stand for, held in the memory that they take."""

import numpy as np
import pytest

from diptych.models import Gemma, SigLIP
from diptych.models.parts.int8_weights import int8_of, scale_of
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import TINY, forward, numpy_of
from tests.models.gemma.test_gemma import IDS, ONE_BLOCK, random_gemma
from tests.models.gpt.small_gpt import gpt_of, texts


@pytest.mark.parametrize("axis", [0, 1])
def test_each_channel_is_rounded_by_its_own_largest(axis):
    matrix = np.random.default_rng(0).normal(0, [[1], [100], [0.01]], (3, 50)).astype("float32")
    matrix[:, 7] = 0
    rounded, scale = int8_of(matrix, axis)
    assert (rounded.dtype, scale.shape) == (np.int8, (matrix.shape[1 - axis],))
    scales = np.expand_dims(scale, axis)
    assert np.all(np.abs(rounded * scales - matrix) <= 0.5001 * scales)
    largest = np.abs(rounded).max(axis=axis)
    assert np.array_equal(largest, np.where((axis == 0) & (np.arange(len(scale)) == 7), 0, 127))


def with_what_int8_stands_for(model, held):
    """The model in float32, with matrices that are the other's int8 made wider."""
    by_path = {weight.path: weight for weight in held.weights}
    for weight in model.weights:
        stored = by_path[weight.path]
        value, scale = numpy_of(stored.value).astype("float32"), scale_of(stored)
        if scale is not None:
            value *= numpy_of(scale.value)[:, None] if "embedding" in weight.path else numpy_of(scale.value)
        weight.assign(value)
    return model


def test_logits_are_those_of_what_is_stored(tmp_path):
    """However it came into int8, and whatever of a table is made wider at a time."""
    model = random_gemma(ONE_BLOCK)
    model.save_to_preset(tmp_path, format="diptych")
    held = Gemma.from_preset(tmp_path, dtype="int8")

    def logits(model):
        return numpy_of(forward(lambda ids: model.logits(model.features(ids)), IDS))

    got, before = logits(held), logits(model)
    quantized = random_gemma(ONE_BLOCK)
    with pytest.warns(UserWarning, match="does not have a `quantize"):
        quantized.quantize("int8")
    np.testing.assert_array_equal(logits(quantized), got)
    np.testing.assert_allclose(got, logits(with_what_int8_stands_for(model, held)), rtol=2e-5, atol=2e-5)
    assert 1e-4 < np.abs(got - before).max() / np.abs(before).max() < 0.05
    assert sorted({str(weight.dtype) for weight in held.weights}) == ["float32", "int8"]
    assert sum(weight.dtype == "int8" for weight in held.weights) == 6
    assert all(not weight.trainable for weight in held.weights if weight.dtype == "int8")


@ABOVE_THE_BACKENDS
def test_towers_and_tables_compute_with_int8_too(tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.models.parts.embeddings.INT8_ROWS", 7)
    model = gpt_of()
    model.save_to_preset(tmp_path / "gpt", format="diptych")
    held = type(model).from_preset(tmp_path / "gpt", dtype="int8_from_float32")
    expected = with_what_int8_stands_for(gpt_of(), held)
    np.testing.assert_array_equal(
        numpy_of(held.generate(texts(3), steps=5)), numpy_of(expected.generate(texts(3), steps=5))
    )
    ids = texts(5)
    np.testing.assert_allclose(numpy_of(held.token_losses(ids)), numpy_of(expected.token_losses(ids)), rtol=2e-5)

    pair = SigLIP(TINY, seed=3)
    pair.save_to_preset(tmp_path / "pair", format="diptych")
    held = SigLIP.from_preset(tmp_path / "pair", dtype="int8")
    assert any(weight.path.endswith("query_kernel") and weight.dtype == "int8" for weight in held.weights)
    expected = with_what_int8_stands_for(pair, held)
    size = TINY.vision.image_size
    images = np.random.default_rng(1).uniform(-1, 1, (2, size, size, 3)).astype("float32")
    np.testing.assert_allclose(
        numpy_of(held.image_embedder()(images)), numpy_of(expected.image_embedder()(images)), rtol=1e-4, atol=2e-5
    )


@ABOVE_THE_BACKENDS
def test_what_cannot_be_is_refused(tmp_path):
    model = random_gemma(ONE_BLOCK)
    model.save_to_preset(tmp_path, format="diptych")
    held = Gemma.from_preset(tmp_path, dtype="int8")
    with pytest.raises(ValueError, match="weights are in int8, for inference"):
        held.save_to_preset(tmp_path / "again", format="diptych")
    assert not (tmp_path / "again").exists()
    with pytest.raises(ValueError, match="holds int8 already"):
        held.decoder.blocks[0].mlp.quantize("int8")
    with pytest.raises(NotImplementedError, match="expected mode 'int8', got 'int4'"):
        model.decoder.blocks[0].mlp.quantize("int4")
    for dtype, given in (("int8_float32", {}), ("int8", {"load_weights": False})):
        with pytest.raises(ValueError, match="expected int8, int8_from_float32 or int8_from_bfloat16"):
            Gemma.from_preset(tmp_path, dtype=dtype, **given)


def test_a_pair_of_towers_in_int8_embeds_nearly_the_same_and_is_no_file(tmp_path):
    model = SigLIP(TINY, seed=3)
    ids = np.arange(2 * TINY.text.context_length, dtype=np.int32).reshape(2, -1) % TINY.text.vocab_size
    before = numpy_of(model.encode_text(ids))
    model.quantize("int8")
    after = numpy_of(model.encode_text(ids))
    assert 0.99 < np.sum(before * after, axis=1).min() < 1 - 1e-7
    with pytest.raises(ValueError, match="int8, for inference"):
        model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="int8, for inference"):
        model.save_to_preset(tmp_path / "preset")
