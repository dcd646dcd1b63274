"""The language term: which tokens count, in pieces of a batch as in one, with several texts an example, over a cap."""

import keras
import numpy as np
import pytest
from keras import ops

from diptych.core.training.objectives import Objective, Seen
from diptych.engine.training.terms.language import Language
from diptych.models import Gemma
from diptych.models.gpt.config import GPTConfig
from diptych.models.siglip.student import Student

CONFIG = GPTConfig(width=16, depth=1, mlp_dim=32, num_heads=2, vocab_size=23, context_length=8)
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 23, (4, 8)).astype(np.int32)
WEIGHTS = (RNG.random((4, 8)) < 0.6).astype(np.float32)
WEIGHTS[3] = 0


@pytest.fixture(scope="module")
def student():
    return Student(CONFIG)


def loss_of(student, **fields):
    batch = {name: ops.convert_to_tensor(array) for name, array in fields.items()}
    term = Language()
    return float(ops.convert_to_numpy(term.loss(student, term.embed(Seen(student, batch))).value))


def expected(student, ids, weights):
    """In float64, from the model's own features."""
    features = ops.convert_to_numpy(student.towers(ids)["tokens"]).astype("float64")
    logits = features[:, :-1] @ ops.convert_to_numpy(student.towers.logits_kernel).astype("float64")
    surprise = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, ids[:, 1:, None], -1)[..., 0]
    counted = weights[:, 1:]
    return float(np.mean((surprise * counted).sum(1) / np.maximum(counted.sum(1), 1)))


def test_it_is_the_mean_over_texts_of_the_mean_over_the_tokens_that_count(student):
    found = loss_of(student, token_ids=IDS, token_weights=WEIGHTS)
    assert found == pytest.approx(expected(student, IDS, WEIGHTS), rel=1e-5)
    first = WEIGHTS.copy()
    first[:, 0] = 1 - first[:, 0]
    assert loss_of(student, token_ids=IDS, token_weights=first) == found  # nothing predicts the first
    assert loss_of(student, token_ids=IDS, token_weights=np.ones_like(WEIGHTS)) != pytest.approx(found, rel=1e-3)


def test_several_texts_of_an_example_count_like_examples(student):
    flat = loss_of(student, token_ids=IDS, token_weights=WEIGHTS)
    shaped = {"token_ids": IDS.reshape(2, 2, 8), "token_weights": WEIGHTS.reshape(2, 2, 8)}
    assert loss_of(student, **shaped) == pytest.approx(flat, rel=1e-6)


def test_what_is_left_out_follows_from_the_seeds(student):
    def dropped(seeds):
        return loss_of(student, token_ids=IDS, token_weights=WEIGHTS, dropout_seeds=np.array(seeds, np.int32))

    assert dropped([1, 2, 3, 4]) == dropped([1, 2, 3, 4])
    assert dropped([1, 2, 3, 4]) != dropped([5, 2, 3, 4])


def test_pieces_of_a_batch_have_the_mean_loss_of_it(student):
    objective = Objective({"language": Language()})
    assert not objective.compares

    def value(rows):
        batch = {"token_ids": IDS[rows], "token_weights": WEIGHTS[rows]}
        _, own = objective.forward(student, {name: ops.convert_to_tensor(x) for name, x in batch.items()})
        return float(ops.convert_to_numpy(own["language"].value))

    whole = value(slice(0, 4))
    assert (value(slice(0, 2)) + value(slice(2, 4))) / 2 == pytest.approx(whole, rel=1e-6)


def test_logits_are_capped_where_the_model_caps_them():
    gemma = Gemma.from_preset("gemma2_tiny", load_weights=False)
    ids = IDS[:2] + 3
    batch = {"token_ids": ids, "token_weights": np.ones((2, 8), np.float32)}
    term = Language()
    seen = Seen(gemma, {name: ops.convert_to_tensor(array) for name, array in batch.items()})
    found = ops.convert_to_numpy(term.embed(seen)["losses"])
    own = ops.convert_to_numpy(gemma.token_losses(ids)).mean(axis=1)
    np.testing.assert_allclose(found, own, rtol=1e-5)
    assert gemma.config.logits_soft_cap
    assert keras.ops.shape(seen.predicting.features)[0] == 2
