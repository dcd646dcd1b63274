"""GPT-1: its equations and counts, its beginning, what each place sees, and dropout."""

from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

from diptych.core.losses.language import next_token_losses
from diptych.models.abstract import shapes_only
from diptych.models.gpt.config import GPTConfig, count_gpt_parameters
from diptych.models.gpt.model import GPT
from diptych.models.gpt.presets import PRESETS
from diptych.models.parts.dropout import drop
from tests.models.examples import forward, numpy_of, value_and_gradients
from tests.models.gpt.small_gpt import CONFIG, ROWS, gpt_of, texts

PAPER = {"tokens": 31_087_104, "positions": 393_216, "blocks": 12 * 7_087_872, "total": 116_534_784}


def test_the_papers_model_has_its_parameters():
    assert count_gpt_parameters(PRESETS["gpt1"]) == PAPER
    for name, config in PRESETS.items():
        with shapes_only():
            model = GPT(config)
        assert model.count_params() == count_gpt_parameters(config)["total"], name


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def by_hand(model: GPT, ids: np.ndarray) -> list[np.ndarray]:
    """All hidden states in float64, from the equations of OpenAI's `train.py`."""
    weights = {variable.path: np.asarray(numpy_of(variable.value), "float64") for variable in model.weights}
    config, length = model.config, ids.shape[1]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.norm_epsilon)
        return x * weights[f"{name}/scale"] + weights[f"{name}/bias"]

    x = weights["decoder/token_embedding/embedding"][ids] + weights["decoder/position_embedding/embedding"][:length]
    states = [x]
    for block in range(config.depth):
        name = f"decoder/block_{block:02d}"
        qkv = x @ weights[f"{name}/attention/qkv_kernel"] + weights[f"{name}/attention/qkv_bias"]
        q, k, v = (
            part.reshape(*ids.shape, config.num_heads, -1).transpose(0, 2, 1, 3) for part in np.split(qkv, 3, axis=-1)
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -1e9)
        found = (softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(*ids.shape, -1)
        found = found @ weights[f"{name}/attention/out_kernel"] + weights[f"{name}/attention/out_bias"]
        n = norm(x + found, f"{name}/attention_norm")
        u = n @ weights[f"{name}/mlp/in_kernel"] + weights[f"{name}/mlp/in_bias"]
        u = 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        x = norm(n + u @ weights[f"{name}/mlp/out_kernel"] + weights[f"{name}/mlp/out_bias"], f"{name}/mlp_norm")
        states.append(x)
    return states


def losses_by_hand(model: GPT, ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    probabilities = softmax(by_hand(model, ids)[-1] @ table.T)
    return -np.log(np.take_along_axis(probabilities[:, :-1], ids[:, 1:, None], axis=2)[..., 0])


@pytest.mark.parametrize("predicts", ["tokens", "rows"])
def test_hidden_states_and_losses_are_those_of_the_equations(predicts):
    model, ids, close = gpt_of(replace(CONFIG, predicts=predicts)), texts(), {"rtol": 2e-5, "atol": 2e-5}

    def everything(ids):
        tokens = model(ids)["tokens"]
        chunked, whole = (model.token_losses(ids, tokens_per_chunk=tokens) for tokens in (5, 1024))
        return [*model.hidden_states(ids), tokens, model.logits(tokens), chunked, whole]

    *states, tokens, logits, chunked, whole = map(numpy_of, forward(everything, ids))
    expected = by_hand(model, ids)
    for got, state in zip([*states, tokens], [*expected, expected[-1]], strict=True):
        np.testing.assert_allclose(got, state, **close)
    table = numpy_of(model.decoder.token_embedding.embedding)
    if predicts == "rows":
        table = np.concatenate([table, numpy_of(model.decoder.position_embedding.embedding)])
    assert model.config.predicted_rows == len(table)
    np.testing.assert_allclose(logits, expected[-1] @ table.T, **close)
    for losses in (chunked, whole):
        np.testing.assert_allclose(losses, losses_by_hand(model, ids, table), **close)


def test_a_place_sees_itself_and_what_is_before_it():
    model, ids = gpt_of(), texts()
    places = range(ids.shape[1])
    changed = [np.where(np.arange(ids.shape[1]) == place, (ids + 1) % CONFIG.vocab_size, ids) for place in places]
    before, *after = np.split(numpy_of(forward(model, np.concatenate([ids, *changed]))["tokens"]), 1 + len(places))
    for place, features in zip(places, after, strict=True):
        moved = np.abs(features - before).max(axis=(0, 2)) > 1e-6
        assert moved.tolist() == [other >= place for other in places]


def test_it_begins_as_the_papers():
    model = GPT(GPTConfig(width=64, depth=1, mlp_dim=256, num_heads=1, vocab_size=500, context_length=64))
    assert model.weights
    for variable in model.weights:
        values, kind = numpy_of(variable.value), variable.path.rsplit("/", 1)[1]
        if kind == "scale":
            assert (values == 1).all()
        elif kind.endswith("bias"):
            assert (values == 0).all(), variable.path
        else:
            count = values.size
            assert abs(values.std() / 0.02 - 1) < 4 / np.sqrt(2 * count), variable.path
            assert abs(values.mean()) < 4 * 0.02 / np.sqrt(count)
            assert np.abs(values).max() > 3 * 0.02, "the normal is not truncated"


@pytest.mark.parametrize("dropout_on", ["sum", "table"])
def test_dropout_follows_from_the_seeds_and_nothing_else(dropout_on):
    config = replace(CONFIG, dropout_on=dropout_on)
    model, ids, seeds = gpt_of(config), texts(), np.array([5, 6, 7], "int32")

    def losses(model, ids, seeds):
        given = {"token_ids": ids, "dropout_seeds": seeds}
        both = forward(lambda batch: (model.token_losses(**batch), model.token_losses(batch["token_ids"])), given)
        return tuple(map(numpy_of, both))

    changed = seeds + np.array([0, 0, 1], "int32")
    dropped, whole = losses(model, np.concatenate([ids, ids]), np.concatenate([seeds, changed]))
    before, other = np.split(dropped, 2)
    assert np.abs(dropped - whole).min() > 0
    np.testing.assert_allclose(other[:2], before[:2], rtol=1e-5)
    assert np.abs(other[2] - before[2]).min() > 0
    np.testing.assert_allclose(losses(gpt_of(config, rematerialize=True), ids, seeds)[0], before, rtol=1e-5)
    if dropout_on == "sum":
        np.testing.assert_allclose(losses(model, ids[1:2], seeds[1:2])[0], before[1:2], rtol=1e-5)


def test_without_rates_seeds_change_nothing():
    config = replace(CONFIG, embedding_dropout=0.0, attention_dropout=0.0, addition_dropout=0.0)
    model, ids = gpt_of(config), texts()
    got = forward(partial(model.token_losses, dropout_seeds=np.arange(ROWS, dtype="int32")), ids)
    np.testing.assert_allclose(numpy_of(got), numpy_of(forward(model.token_losses, ids)), rtol=2e-5, atol=2e-5)


def test_the_share_that_is_left_out_is_the_rate_at_every_place_and_the_rest_grows():
    x, seeds = np.ones((4, 50, 60), "float32"), np.array([0, 1, 2, -5], "int32")
    masks = {place: numpy_of(forward(partial(drop, seeds=seeds, rate=0.1, place=place), x)) for place in ("a", "b")}
    dropped = [mask[row].ravel() == 0 for mask in masks.values() for row in range(4)]
    for each in dropped:
        assert abs(each.mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / each.size)
    together = np.corrcoef(dropped) - np.eye(8)
    assert np.abs(together).max() < 4.5 / np.sqrt(3000), (
        "masks of examples and places have nothing to do with each other"
    )
    by_neighbour = np.corrcoef(dropped[0][:-1], dropped[0][1:])[0, 1]
    assert abs(by_neighbour) < 4 / np.sqrt(3000)
    assert np.allclose(masks["a"][masks["a"] > 0], 1 / 0.9)
    # The same on every backend.
    assert np.flatnonzero(dropped[0])[:6].tolist() == FIRST_LEFT_OUT


FIRST_LEFT_OUT = [4, 11, 12, 13, 18, 26]


def test_rematerialised_gradients_are_the_same():
    ids = texts()
    found = []
    for rematerialize in (False, True):
        model = gpt_of(rematerialize=rematerialize)
        seeds = ops.arange(ROWS, dtype="int32")
        variables = model.trainable_variables
        _, gradients = value_and_gradients(lambda: ops.mean(model.token_losses(ids, dropout_seeds=seeds)), variables)  # noqa: B023
        found.append([numpy_of(gradient) for gradient in gradients])
    for plain, again in zip(*found, strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-4, atol=1e-6)


def test_in_bfloat16_weights_and_losses_stay_float32():
    model, ids = gpt_of(dtype="mixed_bfloat16"), texts()
    losses, features = forward(lambda ids: (model.token_losses(ids), model(ids)["tokens"]), ids)
    assert keras.backend.standardize_dtype(losses.dtype) == "float32"
    assert keras.backend.standardize_dtype(features.dtype) == "bfloat16"
    table = numpy_of(model.decoder.token_embedding.embedding)
    np.testing.assert_allclose(numpy_of(losses), losses_by_hand(model, ids, table), atol=0.3)


def test_what_does_not_fit_is_refused():
    model = gpt_of()
    with pytest.raises(ValueError, match="positions for 9 tokens, got texts of 10"):
        model(texts(10))
    with pytest.raises(ValueError, match="at least two tokens"):
        next_token_losses(ops.zeros((3, 1, 16)), model.logits_kernel, texts(1))
    with pytest.raises(ValueError, match="token_ids lie between"):
        model(np.array([[0, 23]], "int32"))
    with pytest.raises(ValueError, match="dropout_on must be 'sum' or 'table', got 'rows'"):
        replace(CONFIG, dropout_on="rows")
    with pytest.raises(ValueError, match="attention_dropout must be at least 0 and below 1, got 1"):
        replace(CONFIG, attention_dropout=1)


def test_it_is_saved_as_any_model(tmp_path):
    model = gpt_of()
    model.save(tmp_path / "gpt.keras")
    loaded = keras.saving.load_model(tmp_path / "gpt.keras")
    assert loaded.config == CONFIG
    for before, after in zip(model.weights, loaded.weights, strict=True):
        assert before.path == after.path
        assert np.array_equal(numpy_of(before), numpy_of(after))
