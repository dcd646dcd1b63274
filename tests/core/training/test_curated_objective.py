"""What a curated objective asks the two models, which fields it picks from, and what it leaves to the objective within."""

import keras
import numpy as np
import pytest

from diptych.core.training.curated_objective import CuratedObjective
from diptych.core.training.curation import gumbel_noise
from diptych.core.training.stages import Curation, LossWeights
from diptych.models import SigLIP
from tests.core.training.small_student import ALL, CONFIG, batch, objective, student
from tests.oracle import selection

PAIRS, SIZE, CHUNKS = 24, 8, 4
NOISE = gumbel_noise(np.random.default_rng(1), CHUNKS, PAIRS)
CURATION = Curation(reference="x", chunks=CHUNKS)


def array(x) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(x))


def tensors(examples) -> dict:
    """As a step gives them to an objective."""
    return {name: keras.ops.convert_to_tensor(x) for name, x in examples.items()}


def build(weights=None, curation=CURATION):
    weights = LossWeights() if weights is None else weights
    learner = student(weights)
    reference = SigLIP(CONFIG, seed=9)
    for model, scale, bias in ((learner.towers, 3.0, -1.0), (reference, 8.0, -4.0)):
        model.pair_logits.log_logit_scale.assign(np.log(scale))
        model.pair_logits.logit_bias.assign(bias)
    inner, _ = objective(learner, weights)
    return learner, reference, inner, CuratedObjective(inner, reference, size=SIZE, curation=curation)


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


@pytest.mark.parametrize("method", ["learnability", "easy_reference", "hard_learner"])
def test_it_draws_by_both_models_own_scales_what_the_oracle_draws(method):
    learner, reference, _, goal = build(curation=Curation(reference="x", chunks=CHUNKS, method=method))
    examples = pairs()
    chosen = goal.prepare(learner, tensors({**examples, "selection_noise": NOISE}))
    mine, theirs = seen_by(learner, examples), seen_by(reference, examples)
    losses = {
        "learnability": selection.scores_of(mine, theirs),
        "easy_reference": -selection.pair_losses(theirs),
        "hard_learner": selection.pair_losses(mine),
    }
    scores = losses[method]
    assert selection.smallest_gap(scores, NOISE, size=SIZE) > selection.tolerance(mine, theirs, size=SIZE)
    drawn = rows(examples, array(chosen["image"]))
    assert drawn == selection.select(scores, NOISE, size=SIZE)
    assert all(drawn != selection.select(other, NOISE, size=SIZE) for name, other in losses.items() if name != method)


def test_every_field_of_the_chosen_examples_goes_along():
    learner, _, _, goal = build(ALL)
    examples = batch(2, PAIRS)
    chosen = {
        name: array(x) for name, x in goal.prepare(learner, tensors({**examples, "selection_noise": NOISE})).items()
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
    plain = goal.prepare(learner, tensors({**examples, "selection_noise": NOISE}))
    both = goal.prepare(learner, tensors({**examples, "text": several, "selection_noise": NOISE}))
    np.testing.assert_array_equal(array(both["image"]), array(plain["image"]))
    np.testing.assert_array_equal(array(both["text"]), several[rows(examples, array(plain["image"]))])
    several = np.ascontiguousarray(several[:, ::-1])
    swapped = goal.prepare(learner, tensors({**examples, "text": several, "selection_noise": NOISE}))
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

    goal._scored(Counting(), examples)
    assert sizes == [min(SIZE, count - start) for start in range(0, count, SIZE)]


def test_the_rest_is_the_objective_within():
    learner, reference, inner, goal = build(ALL)
    assert goal.variables == inner.variables
    assert len(goal.variables) == 2
    fixed = {id(variable) for variable in goal.fixed}
    assert fixed == {id(variable) for variable in (*inner.fixed, *reference.variables)}
    assert not fixed & {id(variable) for variable in learner.variables}
    examples = {name: x[:SIZE] for name, x in batch(2, PAIRS).items()}
    parts = goal.embed(learner, examples)
    for one, other in zip(parts, inner.embed(learner, examples), strict=True):
        np.testing.assert_array_equal(array(one), array(other))
    loss, logs = goal.loss_of(learner, parts)
    expected, expected_logs = inner.loss_of(learner, parts)
    assert float(array(loss)) == float(array(expected))
    assert logs.keys() == expected_logs.keys()
    for one, other in zip(goal.updates(learner, parts), inner.updates(learner, parts), strict=True):
        np.testing.assert_array_equal(array(one), array(other))
