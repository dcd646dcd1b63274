"""Curated objectives: their questions to both models, the fields they pick, and the objective within."""

import keras
import numpy as np
import pytest

from diptych.core.training.curated_objective import CuratedObjective
from diptych.core.training.curation import gumbel_noise
from diptych.models import SigLIP
from tests.engine.training.small_student import ALL, CONFIG, batch, objective, student
from tests.engine.training.small_student import PAIRS as ONLY_PAIRS
from tests.oracle import selection

PAIRS, SIZE, CHUNKS = 24, 8, 4
NOISE = gumbel_noise(np.random.default_rng(1), CHUNKS, PAIRS)


def array(x) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(x))


def tensors(examples) -> dict:
    """As a step gives them to an objective."""
    return {name: keras.ops.convert_to_tensor(x) for name, x in examples.items()}


def build(weights=ONLY_PAIRS):
    learner = student(weights)
    reference = SigLIP(CONFIG, seed=9)
    for model, scale, bias in ((learner.towers, 3.0, -1.0), (reference, 8.0, -4.0)):
        model.pair_logits.log_logit_scale.assign(np.log(scale))
        model.pair_logits.logit_bias.assign(bias)
    inner, _ = objective(learner, weights)
    return learner, reference, inner, CuratedObjective(inner, reference, size=SIZE)


def pairs(fields=("image", "text")) -> dict[str, np.ndarray]:
    whole = batch(2, PAIRS)
    return {name: whole[name] for name in fields}


def seen_by(model, examples) -> dict:
    """A model's view of all pairs at once, as the oracle takes it."""
    images = examples["image"] / np.float32(127.5) - 1
    outputs = model({"images": images, "token_ids": examples["text"]})
    return {
        "image": array(outputs["image_embedding"]).astype(np.float64),
        "text": array(outputs["text_embedding"]).astype(np.float64),
        "logit_scale": float(array(model.logit_scale)),
        "logit_bias": float(array(model.logit_bias)),
    }


def rows(examples, chosen) -> list[int]:
    """The places of the chosen images in the super-batch."""
    return [int(np.flatnonzero((examples["image"] == row).all(axis=(1, 2, 3)))[0]) for row in chosen]


def test_it_draws_by_both_models_own_scales_what_the_oracle_draws():
    learner, reference, _, goal = build()
    examples = pairs()
    chosen = goal.prepare(learner, tensors({**examples, "selection_noise": NOISE.T}))
    mine, theirs = seen_by(learner, examples), seen_by(reference, examples)
    scores = selection.scores_of(mine, theirs)
    assert selection.smallest_gap(scores, NOISE, size=SIZE) > selection.tolerance(mine, theirs, size=SIZE)
    drawn = rows(examples, array(chosen["image"]))
    assert drawn == selection.select(scores, NOISE, size=SIZE)
    for one_alone in (-selection.pair_losses(theirs), selection.pair_losses(mine)):
        assert drawn != selection.select(one_alone, NOISE, size=SIZE)


def test_every_field_of_the_chosen_examples_goes_along():
    learner, _, _, goal = build(ALL)
    examples = batch(2, PAIRS)
    chosen = {
        name: array(x) for name, x in goal.prepare(learner, tensors({**examples, "selection_noise": NOISE.T})).items()
    }
    places = rows(examples, chosen["image"])
    assert chosen.keys() == examples.keys()  # the noise is spent
    for name, x in chosen.items():
        np.testing.assert_array_equal(x, examples[name][places], err_msg=name)
        assert x.dtype == examples[name].dtype


def test_of_several_captions_the_first_is_judged_and_all_are_kept():
    learner, _, _, goal = build()
    examples = pairs()
    others = batch(5, PAIRS)["text"]
    several = np.stack([examples["text"], others], axis=1)
    plain = goal.prepare(learner, tensors({**examples, "selection_noise": NOISE.T}))
    both = goal.prepare(learner, tensors({**examples, "text": several, "selection_noise": NOISE.T}))
    np.testing.assert_array_equal(array(both["image"]), array(plain["image"]))
    np.testing.assert_array_equal(array(both["text"]), several[rows(examples, array(plain["image"]))])
    several = np.ascontiguousarray(several[:, ::-1])
    swapped = goal.prepare(learner, tensors({**examples, "text": several, "selection_noise": NOISE.T}))
    assert rows(examples, array(swapped["image"])) != rows(examples, array(plain["image"]))


@pytest.mark.parametrize("count", [PAIRS, 20])  # 20: the last piece is smaller
def test_models_see_the_super_batch_in_pieces(count):
    learner, _, _, goal = build()
    examples = {name: x[:count] for name, x in pairs().items()}
    scored = goal._scored(learner, examples)
    whole = seen_by(learner, examples)
    np.testing.assert_allclose(array(scored.image), whole["image"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(array(scored.text), whole["text"], rtol=1e-4, atol=1e-6)
    sizes = []

    class Counting:
        logit_scale, logit_bias = learner.logit_scale, learner.logit_bias

        def __call__(self, inputs):
            sizes.append(len(inputs["images"]))
            return learner(inputs)

    for piece, rest in ((SIZE, count % SIZE), (4, 0)):  # as with --accum-freq 2 for the second
        sizes.clear()
        goal.piece = piece
        goal._scored(Counting(), examples)
        assert set(sizes) == {piece, rest} - {0}


def test_the_rest_is_the_objective_within():
    learner, reference, inner, goal = build(ALL)
    assert goal.variables == inner.variables
    assert len(goal.variables) == 2
    fixed = {id(variable) for variable in goal.fixed}
    assert fixed == {id(variable) for variable in (*inner.fixed, *reference.variables)}
    assert not fixed & {id(variable) for variable in learner.variables}
    examples = {name: x[:SIZE] for name, x in batch(2, PAIRS).items()}
    totals = []
    for some in (goal, inner):
        embedded, own = some.forward(learner, examples)
        totals.append(some.total(some.losses(learner, embedded) | own))
    for one, other in zip(*(keras.tree.flatten(total) for total in totals), strict=True):
        np.testing.assert_array_equal(array(one), array(other))
    assert totals[0].updates.keys() == goal.variables.keys()
