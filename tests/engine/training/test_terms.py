"""SigLIP 2's objective in a training step: what is added up, who is taught by whom, and what a step leaves behind."""

import keras
import numpy as np
import pytest

from diptych import backends
from diptych.core.losses.distillation import chunked_distillation, mean_logits
from diptych.core.training.curated_objective import CuratedObjective
from diptych.core.training.curation import gumbel_noise
from diptych.core.training.optimizers import AdamW
from diptych.engine.training.terms import Distillation
from diptych.engine.training.terms.matching import Temperatures
from diptych.models import SigLIP
from tests.compiled_steps import CompiledSteps
from tests.engine.training.small_student import ALL, CONFIG, OUTPUTS, PAIRS, batch, objective, student


def build(weights=ALL, momentum=0.9, epsilon=1e-8, **arguments):
    model = student(weights)
    goal, teacher = objective(model, weights, momentum)
    optimizer = AdamW(1e-2, epsilon=epsilon)
    step = backends.train_step(model, goal, optimizer, teacher=teacher, **arguments)
    return model, goal, teacher, optimizer, step


@pytest.fixture(scope="module", name="steps")
def steps_compiled_once() -> CompiledSteps:
    return CompiledSteps(build)


def array(x) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(x))


def number(x) -> float:
    return float(array(x))


def values(variables) -> dict[str, np.ndarray]:
    return {name: array(variable.value) for name, variable in variables.items()}


def weights_of(model) -> dict:
    return {variable.path: variable for variable in model.weights}


def test_the_loss_is_the_weighted_sum_of_its_parts(steps):
    *_, step = steps()
    logs = {name: number(value) for name, value in step(batch(0)).items()}
    parts = {name: logs[f"{name}_loss"] for name in ("contrastive", "captioning", "distillation", "masked_prediction")}
    assert logs["loss"] == pytest.approx(sum(ALL[name] * value for name, value in parts.items()), rel=1e-6)
    # The logits' kernel starts at zero, so each task's loss is that of an even guess; 7 of 8 examples have boxes.
    even = np.log(20)
    assert logs["caption_loss"] == pytest.approx(even, rel=1e-5)
    assert logs["referring_loss"] == pytest.approx(even, rel=1e-5)
    assert parts["captioning"] == pytest.approx(even, rel=1e-5)


@pytest.mark.parametrize(
    "weights",
    [PAIRS, *(PAIRS | {name: 1.0} for name in ALL if name != "contrastive"), {"captioning": 1.0}],
)
def test_only_losses_that_count_are_computed(steps, weights):
    model, goal, _, _, step = steps(weights)
    names = {name for name in step(batch(0)) if name.endswith("_loss")}
    expected = {f"{name}_loss" for name in weights}
    if "captioning" in weights:
        expected |= {"caption_loss", "referring_loss", "grounded_loss"}
    assert names == expected
    assert (model.captioner is None) == ("captioning" not in weights)
    assert goal.variables.keys() == {
        f"{name}_centre" for name in ("distillation", "masked_prediction") if name in weights
    }


def test_pieces_give_the_whole_batchs_loss_gradient_and_centres(steps):
    results = []
    for pieces in (1, 4):
        # A large epsilon, or Adam would make whole steps of the rounding in gradients that are zero, such as the keys'
        # biases'.
        model, goal, teacher, _, step = steps(epsilon=1e-2, micro_batches=pieces, clip_norm=1.0)
        logs = [step(batch(seed)) for seed in range(3)]
        step.synchronize()
        results.append((logs, values(weights_of(model)), values(goal.variables), values(teacher.named())))
    for whole, cut in zip(results[0][0], results[1][0], strict=True):
        for name in whole:
            assert number(cut[name]) == pytest.approx(number(whole[name]), rel=2e-4, abs=1e-6), name
    for whole, cut in zip(results[0][2:], results[1][2:], strict=True):
        for name in whole:
            np.testing.assert_allclose(cut[name], whole[name], rtol=1e-3, atol=2e-5, err_msg=name)


def test_the_teacher_follows_after_the_step_and_has_no_gradient(steps):
    model, _, teacher, _, step = steps()
    before = values(teacher.named())
    for seed in range(2):
        step(batch(seed))
        step.synchronize()
        now = values(weights_of(model))
        before = {path: 0.9 * value + 0.1 * now[path] for path, value in before.items()}
        for path, value in values(teacher.named()).items():
            np.testing.assert_allclose(value, before[path], rtol=1e-5, atol=1e-7, err_msg=path)
    assert not {variable.path for variable in model.trainable_variables} & {
        v.path for v in teacher.averages if v.trainable
    }


def test_the_centre_takes_in_the_teachers_mean_after_it_was_used(steps):
    _, goal, teacher, _, step = steps()
    example = batch(5)
    tower, head = teacher.parts["image"], teacher.parts["global_head"]
    pooled = tower.encode(example["global_view"] / np.float32(127.5) - 1)["pooled"]
    mean = array(mean_logits(head.features(pooled), head.prototypes()))
    step(example)
    step.synchronize()
    np.testing.assert_allclose(array(goal.variables["distillation_centre"]), 0.1 * mean, rtol=1e-4, atol=1e-6)
    assert np.abs(mean).max() > 1e-3


def test_training_lowers_every_loss(steps):
    *_, step = steps()
    first = step(batch(0))
    for _ in range(40):
        last = step(batch(0))
    for name in ("contrastive_loss", "captioning_loss"):
        assert number(last[name]) < 0.8 * number(first[name]), name
    for name in ("distillation_loss", "masked_prediction_loss"):
        assert number(last[name]) < number(first[name]), name


def test_a_step_that_is_not_finite_leaves_teacher_and_centres_alone(steps):
    model, goal, teacher, _, step = steps()
    model.towers.pair_logits.logit_bias.assign(np.nan)
    before = values(weights_of(model)), values(teacher.named()), values(goal.variables)
    assert not number(step(batch(0))["finite"])
    step.synchronize()
    after = values(weights_of(model)), values(teacher.named()), values(goal.variables)
    for old, new in zip(before, after, strict=True):
        for name in old:
            np.testing.assert_array_equal(old[name], new[name], err_msg=name)


def test_each_side_has_its_own_temperature():
    """A student at an infinite temperature guesses evenly; a teacher at one leaves the student as sharp as it is."""
    model = student()
    _, teacher = objective(model)
    rng, guesses = np.random.default_rng(0), []
    views, pooled = (rng.normal(size=shape).astype("float32") for shape in ((4, 2, 16), (4, 16)))
    features = model.parts["global_head"].features(keras.ops.convert_to_tensor(views))
    for hot in ("student_temperature", "teacher_temperature"):
        term = Distillation(teacher, OUTPUTS, Temperatures(**{hot: 1e6}))
        taught = keras.ops.convert_to_tensor(pooled)
        guesses.append(array(term.compared(chunked_distillation, model, features, taught)["losses"]))
    np.testing.assert_allclose(guesses[0], np.log(OUTPUTS), rtol=1e-5)
    assert np.abs(guesses[1] - np.log(OUTPUTS)).min() > 0.1


def test_self_supervision_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match="need a teacher and its number of outputs"):
        Distillation(None, OUTPUTS)


def curated(filter_size=8):
    model = student(PAIRS)
    inner, _ = objective(model, PAIRS)
    reference = SigLIP(CONFIG, seed=9)
    goal = CuratedObjective(inner, reference, size=filter_size)
    return model, reference, goal, backends.train_step(model, goal, AdamW(1e-2))


def test_a_curated_step_trains_on_the_chosen_examples_alone():
    noise = gumbel_noise(np.random.default_rng(3), 4, 16).T
    large = {name: batch(2, 16)[name] for name in ("image", "text")}
    model, reference, goal, step = curated()
    chosen = {name: array(x) for name, x in goal.prepare(model, {**large, "selection_noise": noise}).items()}
    assert chosen.keys() == {"image", "text"}
    rows = [int(np.flatnonzero((large["image"] == row).all(axis=(1, 2, 3)))[0]) for row in chosen["image"]]
    assert len(set(rows)) == 8
    np.testing.assert_array_equal(chosen["text"], large["text"][rows])
    before = [array(variable.value) for variable in reference.variables]
    logs = step({**large, "selection_noise": noise})
    plain = student(PAIRS)
    alone = backends.train_step(plain, objective(plain, PAIRS)[0], AdamW(1e-2))(chosen)
    assert number(logs["loss"]) == pytest.approx(number(alone["loss"]), rel=1e-5)
    step.synchronize()
    for old, variable in zip(before, reference.variables, strict=True):
        np.testing.assert_array_equal(old, array(variable.value))
