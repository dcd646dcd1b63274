"""Mixed precision and rematerialisation: what they may change (speed, memory), and what they may not (the result)."""

from dataclasses import replace
from functools import cache, partial

import keras
import numpy as np
import pytest

from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.counting import count_parameters, estimate_memory
from tests.models.examples import TINY, batch_for, forward, numpy_of, value_and_gradients

SHALLOW = replace(TINY, vision=replace(TINY.vision, depth=1))
BATCH = batch_for(SHALLOW)


def dtype_of(x) -> str:
    return keras.backend.standardize_dtype(x.dtype)


@cache
def loss_and_gradients(dtype="float32", rematerialize=False):
    """-> loss, [gradients] as NumPy arrays, of the same weights and batch every time."""
    model = SigLIP(SHALLOW, dtype=dtype, rematerialize=rematerialize)
    value, gradients = value_and_gradients(
        lambda: model.compute_loss(BATCH, y_pred=model(BATCH)), model.trainable_variables
    )
    return float(value), [keras.ops.convert_to_numpy(g) for g in gradients]


def relative_error(actual, expected) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_where_it_matters():
    model = SigLIP(SHALLOW, dtype="mixed_bfloat16")
    assert {dtype_of(w) for w in model.weights} == {"float32"}
    assert dtype_of(forward(model.image_encoder, BATCH["images"])["tokens"]) == "bfloat16"
    assert dtype_of(forward(model.text_encoder, BATCH["token_ids"])["tokens"]) == "bfloat16"
    outputs = forward(model, BATCH)
    assert {dtype_of(x) for x in outputs.values()} == {"float32"}
    assert dtype_of(model.compute_loss(BATCH, y_pred=outputs)) == "float32"


def test_mixed_precision_turns_embeddings_by_less_than_three_degrees():
    single, mixed = forward(SigLIP(SHALLOW), BATCH), forward(SigLIP(SHALLOW, dtype="mixed_bfloat16"), BATCH)
    for name in single:
        cosines = np.sum(numpy_of(single[name]) * numpy_of(mixed[name]), axis=-1)
        assert cosines.min() > 0.999
        assert not np.array_equal(numpy_of(single[name]), numpy_of(mixed[name]))  # it did compute in bfloat16


def test_mixed_precision_sums_the_gradient_of_a_frequent_token_in_float32():
    # Token 0 stands at every position of every text; in bfloat16 its row would lose all but eight bits of the sum.
    batch = {**BATCH, "token_ids": np.zeros_like(BATCH["token_ids"])}
    model = SigLIP(SHALLOW, dtype="mixed_bfloat16")
    (table,) = (w for w in model.trainable_variables if w.path == "text/token_embedding/embedding")
    _, (gradient,) = value_and_gradients(lambda: model.compute_loss(batch, y_pred=model(batch)), [table])
    assert dtype_of(gradient) == "float32"
    row = keras.ops.convert_to_numpy(gradient)[0]
    rounded = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(row, "bfloat16"), "float32"))
    assert not np.array_equal(row, rounded)


def test_mixed_precision_gradients_follow_those_of_float32():
    (_, single), (_, mixed) = loss_and_gradients(), loss_and_gradients("mixed_bfloat16")
    assert (
        relative_error(np.concatenate([g.ravel() for g in mixed]), np.concatenate([g.ravel() for g in single])) < 0.05
    )


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_rematerialisation_changes_neither_value_nor_gradients(dtype):
    value, gradients = loss_and_gradients(dtype)
    again, recomputed = loss_and_gradients(dtype, rematerialize=True)
    assert again == pytest.approx(value, rel=1e-6)
    # XLA keeps more than bfloat16 inside a fusion, and recomputed blocks fuse otherwise.
    tolerance = 1e-6 if dtype == "float32" else 0.02
    assert all(
        relative_error(other, gradient) < tolerance for other, gradient in zip(recomputed, gradients, strict=True)
    )


def test_rematerialisation_sees_weights_that_changed_since_the_last_call():
    rematerialized, plain = SigLIP(SHALLOW, rematerialize=True), SigLIP(SHALLOW)
    before = numpy_of(forward(rematerialized, BATCH)["image_embedding"])
    for model in (rematerialized, plain):
        model.set_weights([0.5 * w for w in model.get_weights()])
    after, expected = (numpy_of(forward(model, BATCH)["image_embedding"]) for model in (rematerialized, plain))
    assert not np.allclose(after, before, atol=1e-2)
    assert np.allclose(after, expected, atol=1e-6)


# Large enough that activations outweigh everything else.
ROOMY = SigLIPConfig(
    vision=VisionConfig(width=32, depth=3, mlp_dim=128, num_heads=2, patch_size=4, image_size=32),
    text=TextConfig(width=16, depth=2, mlp_dim=64, num_heads=2, vocab_size=50, context_length=8, embed_dim=32),
)


def saved_bytes_on_torch(model, batch) -> int:
    """Bytes of the distinct tensors, weights apart, that torch keeps for the backward pass."""
    import torch

    weights = {v.value.untyped_storage().data_ptr() for v in model.weights}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor keeps its address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.compute_loss(batch, y_pred=model(batch))
    return sum(size for size, _ in saved.values())


@pytest.mark.skipif(keras.config.backend() != "torch", reason="only torch tells which tensors it saves")
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_memory_estimate_is_within_five_percent_of_what_torch_saves(dtype):
    batch = batch_for(ROOMY, size=16)
    estimate = partial(estimate_memory, ROOMY, batch_size=16, dtype=dtype, fused_attention=True)
    plain = saved_bytes_on_torch(SigLIP(ROOMY, dtype=dtype), batch)
    assert estimate()["activations"] == pytest.approx(plain, rel=0.05)
    # Of rematerialised blocks the estimate holds one whole, which torch does not keep until the backward pass.
    rematerialized = saved_bytes_on_torch(SigLIP(ROOMY, dtype=dtype, rematerialize=True), batch)
    assert rematerialized < 0.25 * plain
    assert rematerialized < estimate(rematerialize=True)["activations"] < 0.6 * plain


@pytest.mark.skipif(keras.config.backend() != "jax", reason="only jax's compiler states its memory")
def test_the_memory_estimate_is_within_a_factor_of_two_of_what_jax_allocates():
    import jax

    batch, model = batch_for(ROOMY, size=64), SigLIP(ROOMY)

    def loss(weights):
        with keras.StatelessScope(state_mapping=list(zip(model.trainable_variables, weights, strict=True))):
            return model.compute_loss(batch, y_pred=model(batch))

    compiled = jax.jit(jax.value_and_grad(loss)).lower([v.value for v in model.trainable_variables]).compile()
    memory = compiled.memory_analysis()
    estimate = estimate_memory(ROOMY, batch_size=64)
    assert 0.5 < memory.temp_size_in_bytes / estimate["activations"] < 2
    assert (
        estimate["weights"]
        == 4 * count_parameters(ROOMY)["total"]
        == pytest.approx(memory.argument_size_in_bytes, rel=0.05)
    )
