"""Gemma and PaliGemma: every backend computes what transformers computes, to 2e-5, and chooses the same tokens."""

import numpy as np
import pytest

from diptych.models.checkpoints import read_checkpoint
from tests.memory_weights import MemoryWeights

pytest.importorskip("transformers", reason="transformers is not installed")

from tests.agreement.reference_gemma import (
    ROWS,
    build_reference,
    draw_batch,
    reference_answer,
    reference_tokens,
    save_reference,
)

TOLERANCE = 2e-5
SIDE = "tests.agreement.gemma_side"
STEPS = 4
KINDS = [("gemma", 0), ("gemma2", 0), ("gemma", 2), ("gemma2", 1)]
"""Of language models and of PaliGemmas: the text's, and how many pictures an example has."""


def _name(kind: tuple[str, int]) -> str:
    return f"{kind[0]} with {kind[1]} pictures"


@pytest.fixture(scope="module", params=KINDS, ids=_name)
def reference(request, tmp_path_factory):
    """A torch model, its number of pictures, and the folder that transformers wrote of it."""
    kind, pictures = request.param
    model = build_reference(kind, pictures=pictures, seed=3)
    folder = tmp_path_factory.mktemp(kind)
    save_reference(model, folder)
    return model, pictures, folder


def _check(reply: dict, expected: dict, batch: dict, who: str) -> None:
    close = {"rtol": TOLERANCE, "atol": TOLERANCE}
    np.testing.assert_allclose(reply["logits"][batch["token_mask"]], expected["logits"], **close, err_msg=who)
    np.testing.assert_allclose(reply["loss"], expected["loss"], rtol=TOLERANCE, err_msg=who)
    assert set(reply["gradients"]) == set(expected["gradients"])
    for path, want in expected["gradients"].items():
        allowed = TOLERANCE * max(np.abs(want).max(), 1e-4)
        np.testing.assert_allclose(reply["gradients"][path], want, rtol=0, atol=allowed, err_msg=f"{who}: {path}")


def _expected(reference, batch: dict) -> dict:
    model, pictures, folder = reference
    answer = reference_answer(model, batch, pictures=pictures)
    gradients = MemoryWeights(answer["gradients"])
    answer["gradients"] = dict(read_checkpoint(folder).names(gradients).load(gradients))
    return answer


def test_logits_loss_and_gradients_are_those_of_transformers(pool, reference):
    batch = draw_batch(pictures=reference[1], seed=4)
    expected = _expected(reference, batch)
    arguments = {"folder": str(reference[2]), "pictures": reference[1], "batch": batch}
    for backend, reply in pool.ask("call", module=SIDE, function="evaluate", arguments=arguments).items():
        _check(reply, expected, batch, backend)


@pytest.mark.parametrize("reference", [("gemma2", 0), ("gemma", 2)], indirect=True, ids=_name)
def test_the_likeliest_tokens_are_those_of_transformers(pool, reference):
    model, pictures, folder = reference
    batch = draw_batch(pictures=pictures, seed=5, rows=[(length, length, True) for length, _, _ in ROWS])
    expected = reference_tokens(model, batch, pictures=pictures, steps=STEPS)
    if not pictures:  # texts that are gone on with begin at one place here
        batch = {**batch, **_moved_to_the_front(batch)}
    arguments = {"folder": str(folder), "pictures": pictures, "batch": batch, "steps": STEPS}
    for backend, found in pool.ask("call", module=SIDE, function="tokens", arguments=arguments).items():
        np.testing.assert_array_equal(found, expected, err_msg=backend)
    assert len(np.unique(expected)) > 3


@pytest.mark.parametrize("reference", [("gemma2", 1)], indirect=True, ids=_name)
def test_a_wrong_answer_is_rejected(pool, reference):
    """The same check fails for a reference with one weight of its first norm changed by a hundredth."""
    import torch

    model, pictures, folder = reference
    batch = draw_batch(pictures=pictures, seed=4)
    arguments = {"folder": str(folder), "pictures": pictures, "batch": batch}
    asked = pool.ask("call", backends=pool.backends[:1], module=SIDE, function="evaluate", arguments=arguments)
    (reply,) = asked.values()
    norm = next(value for name, value in model.named_parameters() if name.endswith("layers.0.input_layernorm.weight"))
    with torch.no_grad():
        norm[3] += 1e-2
    with pytest.raises(AssertionError):
        _check(reply, _expected(reference, batch), batch, "wrong")
    with torch.no_grad():
        norm[3] -= 1e-2


def _moved_to_the_front(batch: dict) -> dict:
    order = np.argsort(~batch["token_mask"], axis=1, kind="stable")
    return {name: np.take_along_axis(batch[name], order, axis=1) for name in ("token_ids", "token_mask")}
