"""Checkpoints of Hugging Face transformers: every backend computes what torch computes there, to 2e-5."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.models.weights import transformers, transformers_fields
from tests.agreement.strategies import agreement_settings

pytest.importorskip("transformers", reason="transformers is not installed")

from tests.agreement.reference_models import (
    KINDS,
    build_reference,
    draw_batch,
    reference_answer,
    reference_configs,
    save_reference,
)
from tests.memory_weights import MemoryWeights

TOLERANCE = 2e-5
OUTPUTS = ("image_embedding", "text_embedding", "image_tokens", "text_tokens", "logits")


def _expected(model, batch, config) -> dict:
    """The reference's answer under our names, and by how much its gradients are rounded: their distance from its own in
    float64. A token that stands for no patch has no meaning and is left out.
    """
    table, answer = transformers.table(config), reference_answer(model, batch)
    exactly = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in batch.items()}
    exact = reference_answer(copy.deepcopy(model).double(), exactly)["gradients"]
    rounded = {name: np.abs(value - exact[name]) for name, value in answer["gradients"].items()}
    answer["gradients"], answer["rounding"] = (
        dict(table.load(MemoryWeights(found))) for found in (answer["gradients"], rounded)
    )
    return answer


def _check(reply: dict, expected: dict, batch: dict, who: str) -> None:
    embeddings = reply["image_embedding"] @ reply["text_embedding"].T
    reply["logits"] = embeddings * reply["logit_scale"] + (reply["logit_bias"] or 0)
    exists = np.ones(expected["image_tokens"].shape[:2], bool)
    if "spatial_shapes" in batch:
        exists = np.arange(exists.shape[1]) < batch["spatial_shapes"].prod(axis=1)[:, None]
    for name in OUTPUTS:
        got, want = (answer[name][exists] if name == "image_tokens" else answer[name] for answer in (reply, expected))
        np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{who}: {name}")
    np.testing.assert_allclose(reply["loss"], expected["loss"], rtol=TOLERANCE, err_msg=f"{who}: loss")
    assert set(reply["gradients"]) == set(expected["gradients"])
    for path, want in expected["gradients"].items():
        got, size = reply["gradients"][path], np.abs(want).max()
        # A sum of terms of both signs is as exact as its terms. How exact they can be the reference itself shows, whose
        # operations are rounded as ours are; 1e-4 is a floor far below any gradient that is not cancelled.
        allowed = max(TOLERANCE * max(size, 1e-4), 4 * expected["rounding"][path].max())
        np.testing.assert_allclose(got, want, rtol=0, atol=allowed, err_msg=f"{who}: gradient of {path}")


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_loss_and_gradients_are_those_of_transformers(pool, tmp_path_factory, kind):
    @agreement_settings(examples=3)
    @given(fields=reference_configs(kind), seed=st.integers(0, 2**16))
    def agree(fields, seed):
        folder = tmp_path_factory.mktemp(kind)
        model, batch = build_reference(fields, seed), draw_batch(fields, seed + 1)
        save_reference(model, folder)
        expected = _expected(model, batch, transformers_fields.config_of(fields, folder))
        for backend, reply in pool.ask("evaluate_checkpoint", folder=str(folder), batch=batch).items():
            _check(reply, expected, batch, f"{backend}, {kind}")

    agree()


def test_a_wrong_answer_is_rejected(pool, tmp_path):
    """The same check fails for a reference with a few weights changed by a hundredth."""
    import torch

    fields = {
        "model_type": "siglip2",
        "vision_config": {
            "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1,
            "patch_size": 4,
            "num_patches": 16,
        },
        "text_config": {
            "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1,
            "vocab_size": 20,
            "max_position_embeddings": 8, "projection_size": 16, "eos_token_id": 2, "pad_token_id": 0,
            "bos_token_id": 1,
        },
    }  # fmt: skip
    model, batch = build_reference(fields, 0), draw_batch(fields, 1)
    save_reference(model, tmp_path)
    (reply,) = pool.ask("evaluate_checkpoint", backends=pool.backends[:1], folder=str(tmp_path), batch=batch).values()
    config = transformers_fields.config_of(fields, tmp_path)
    _check(reply, _expected(model, batch, config), batch, "right")
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight[3, ::2] += 1e-2
    with pytest.raises(AssertionError, match="image_"):
        _check(reply, _expected(model, batch, config), batch, "wrong")
