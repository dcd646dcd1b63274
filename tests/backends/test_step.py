"""Laws of a training step, on whichever backend Keras runs."""

from functools import partial

import keras
import numpy as np
import pytest

from diptych import backends
from diptych.core.placement import Placement
from diptych.core.training.checkpoint_parts import joined, own_pieces
from diptych.core.training.ema import Ema
from diptych.core.training.objectives import Loss, Objective, Term
from diptych.core.training.optimizers import OPTIMIZERS
from diptych.core.training.patterns import freeze
from diptych.engine.training.terms.contrastive import Contrastive, softmax_loss
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.parts.convolutions import Convolution
from tests.compiled_steps import CompiledSteps

SIZE = {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=8),
    text=TextConfig(**SIZE, vocab_size=20, context_length=5),
    init_logit_bias=-2.0,
)


def batch(seed: int, captions: int = 1) -> dict:
    rng = np.random.default_rng(seed)
    text = rng.integers(0, 20, (8, captions, 5)).astype("int32")
    return {"image": rng.integers(0, 256, (8, 8, 8, 3)).astype("uint8"), "text": text if captions > 1 else text[:, 0]}


def contrastive(**arguments) -> Objective:
    return Objective({"contrastive": Contrastive(**arguments)})


def build(optimizer="adamw", objective=None, lock=(), ema=None, rate=1e-2, **arguments):
    model = SigLIP(CONFIG, seed=1)
    freeze(model, lock)
    optimizer = OPTIMIZERS[optimizer](rate, weight_decay=1e-3)
    average = Ema(model.trainable_variables, decay=ema) if ema else None
    step = backends.train_step(model, objective or contrastive(), optimizer, ema=average, **arguments)
    return model, optimizer, average, step


@pytest.fixture(scope="module", name="steps")
def steps_compiled_once() -> CompiledSteps:
    return CompiledSteps(build)


def values(variables) -> dict[str, np.ndarray]:
    return {v.path: np.array(keras.ops.convert_to_numpy(v.value)) for v in variables}


def number(x) -> float:
    return float(keras.ops.convert_to_numpy(x))


def distance(a: dict, b: dict) -> float:
    return max(np.abs(a[name] - b[name]).max() for name in a)


def test_a_compiled_step_that_is_asked_for_again_begins_anew(steps):
    """Weights, slots, counter and average; the file's other tests rely on it."""
    runs = []
    for _ in range(2):
        model, optimizer, average, step = steps(ema=0.9)
        held = [*model.variables, *optimizer.variables, *average.averages]
        start = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in held]
        losses = [number(step(batch(i))["loss"]) for i in range(2)]
        step.synchronize()
        moved = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in held]
        assert any(np.abs(after - before).max() > 1e-3 for before, after in zip(start, moved, strict=True))
        runs.append((step, start, losses))
    assert runs[0][0] is runs[1][0]
    assert all(np.array_equal(one, other) for one, other in zip(runs[0][1], runs[1][1], strict=True))
    assert runs[0][2] == runs[1][2]


def test_logs_are_of_the_weights_that_the_loss_was_computed_with(steps):
    """The bias is a weight itself, which the step then moves."""
    model, _, _, step = steps(ema=0.9)
    logs = step(batch(0))
    step.synchronize()
    assert number(logs["logit_bias"]) == CONFIG.init_logit_bias
    assert number(logs["logit_scale"]) == pytest.approx(CONFIG.init_logit_scale, rel=1e-6)
    assert number(model.logit_bias) != CONFIG.init_logit_bias


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_on_one_batch_lowers_its_loss(steps, optimizer):
    _, _, _, step = steps(optimizer, rate={"lion": 1e-3}.get(optimizer, 1e-2))
    losses = [number(step(batch(0))["loss"]) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_devices_that_are_not_there_are_refused():
    message = "done on jax and tensorflow" if keras.config.backend() == "torch" else f"{keras.config.backend()} has"
    with pytest.raises(ValueError, match=f"spread over 64 devices.*{message}"):
        build(placement=Placement(devices=64))


@pytest.mark.parametrize(("pieces", "captions", "loss"), [(2, 1, "softmax"), (4, 3, "sigmoid")])
def test_pieces_contrast_every_pair_of_the_batch(steps, pieces, captions, loss):
    """Gradient caching gives the whole batch's loss and gradient, which a mean over the pieces' own losses does not."""
    native = {
        "sigmoid": backends.sigmoid_loss,
        "softmax": partial(softmax_loss, loss=backends.softmax_contrastive_loss),
    }[loss]
    objective = contrastive(**({"pair_loss": softmax_loss} if loss == "softmax" else {}))
    example = batch(3, captions)
    _, _, _, whole = steps("lion", objective)
    _, _, _, cut = steps("lion", contrastive(pair_loss=native), micro_batches=pieces)
    first, second = whole(example), cut(example)
    assert number(second["loss"]) == pytest.approx(number(first["loss"]), rel=1e-5)
    assert number(second["gradient_norm"]) == pytest.approx(number(first["gradient_norm"]), rel=1e-4)
    _, _, _, small = steps("lion", objective)
    alone = [
        number(small({name: array[i : i + 8 // pieces] for name, array in example.items()})["loss"])
        for i in range(0, 8, 8 // pieces)
    ]
    assert abs(np.mean(alone) - number(first["loss"])) > 0.05


def test_pieces_train_as_the_whole_batch_does(steps):
    finals = []
    for pieces in (1, 4):
        _, _, _, step = steps(micro_batches=pieces, clip_norm=0.5)
        finals.append([number(step(batch(i % 2))["loss"]) for i in range(6)])
    assert finals[0] == pytest.approx(finals[1], rel=1e-4)
    assert finals[0][-1] < 0.9 * finals[0][1]


@pytest.mark.parametrize("limit", [0.1, 1e3])
def test_gradients_are_clipped_by_their_global_norm(steps, limit):
    """Lion's momentum after one step is (1 - β₂) times the gradient, whose norm is the limit's where it was longer."""
    _, optimizer, _, step = steps("lion", clip_norm=limit)
    norm = number(step(batch(0))["gradient_norm"])
    step.synchronize()
    assert 1 < norm < 1e3
    slots = [keras.ops.convert_to_numpy(slot.value) for slot in optimizer.slots["momentum"]]
    assert np.sqrt(sum((slot.astype("float64") ** 2).sum() for slot in slots)) == pytest.approx(
        0.01 * min(norm, limit), rel=1e-3
    )


def test_the_average_follows_the_updated_weights(steps):
    model, _, average, step = steps(ema=0.9)
    expected = values(model.trainable_variables)
    for i in range(3):
        step(batch(i))
        step.synchronize()
        now = values(model.trainable_variables)
        expected = {name: 0.9 * expected[name] + 0.1 * now[name] for name in now}
    found = {name: np.array(keras.ops.convert_to_numpy(v.value)) for name, v in average.named().items()}
    assert distance(expected, found) < 1e-6
    assert distance(now, found) > 1e-3


def test_what_is_copied_for_a_checkpoint_is_of_its_step_and_no_later_step_touches_it(steps):
    """Steps reuse the memory of the state: on jax they are given it, on torch they write into it."""

    def saved(others: int) -> dict[str, np.ndarray]:
        model, optimizer, average, step = steps(ema=0.9)
        named = {
            "weights": {variable.path: variable for variable in model.variables},
            "optimizer": optimizer.named_slots(),
            "ema": average.named(),
        }
        for seed in range(2):
            step(batch(seed))
        if not others:
            step.synchronize()
        pieces = own_pieces({group: step.held(variables) for group, variables in named.items()}, 0, 1)
        for seed in range(others):
            step(batch(seed))
        step.synchronize()
        moved = {path: np.array(keras.ops.convert_to_numpy(v.value)) for path, v in named["weights"].items()}
        whole = joined(pieces)
        assert (distance(whole["weights"], moved) > 1e-3) == bool(others)
        return {f"{group}/{name}": array for group, tensors in whole.items() for name, array in tensors.items()}

    at_rest, under_way = saved(0), saved(2)
    assert at_rest.keys() == under_way.keys()
    assert all(np.array_equal(at_rest[name], under_way[name]) for name in at_rest)


def test_an_average_is_applied_and_taken_off_again(steps):
    model, _, average, step = steps(ema=0.9)
    step(batch(0))
    step.synchronize()
    before = values(model.trainable_variables)
    with average.applied():
        inside = values(model.trainable_variables)
    assert distance(before, inside) > 1e-4
    assert distance(before, values(model.trainable_variables)) == 0
    assert np.isfinite(number(step(batch(1))["loss"]))


def test_frozen_weights_do_not_move_and_the_others_do(steps):
    model, _, _, step = steps(lock=["image/.*"])
    before = values(model.weights)
    for i in range(2):
        step(batch(i))
    step.synchronize()
    for path, value in values(model.weights).items():
        moved = np.abs(value - before[path]).max()
        assert (moved == 0) == path.startswith("image/"), path


@pytest.mark.parametrize(("optimizer", "bad_loss"), [*((name, True) for name in OPTIMIZERS), ("adamw", False)])
def test_a_step_that_is_not_finite_changes_nothing(steps, optimizer, bad_loss):
    """The run with a bad batch in its middle, in loss or in gradient alone, is bit for bit the run without it."""

    def poisoned(image, text, *, logit_scale, logit_bias):
        # The bad batch is told by its captions: all their tokens are alike, so that text row 0 equals text row 1.
        loss = Contrastive().pair_loss(image, text, logit_scale=logit_scale, logit_bias=logit_bias)
        same = keras.ops.all(keras.ops.equal(text[0], text[1]))
        if bad_loss:
            return loss + keras.ops.where(same, float("nan"), 0.0)
        # No derivative at 0.
        return loss + keras.ops.sqrt(keras.ops.where(same, 0.0, 1.0) * keras.ops.sum(keras.ops.square(text[0])))

    bad = batch(9)
    bad["text"][:] = 3
    finals = []
    for batches in ([batch(0), bad, batch(1)], [batch(0), batch(1)]):
        model, built, average, step = steps(optimizer, contrastive(pair_loss=poisoned), ema=0.9, clip_norm=1.0)
        logs = [step(example) for example in batches]
        step.synchronize()
        assert [bool(number(log["finite"])) for log in logs] == [example is not bad for example in batches]
        finite_losses = [bool(np.isfinite(number(log["loss"]))) for log in logs]
        assert finite_losses == [example is not bad or not bad_loss for example in batches]
        slots = {name: np.array(keras.ops.convert_to_numpy(v.value)) for name, v in built.named_slots().items()}
        finals.append(values(model.weights) | slots | {f"ema/{n}": np.array(v) for n, v in average.named().items()})
    assert finals[0].keys() == finals[1].keys()
    assert all(np.array_equal(finals[0][name], finals[1][name]) for name in finals[0])
    assert finals[0]["iterations"] == 2


def test_several_captions_mean_the_mean_of_their_losses(steps):
    three = batch(5, captions=3)
    _, _, _, step = steps()
    together = number(step(three)["loss"])
    alone = []
    for caption in range(3):
        _, _, _, step = steps()
        alone.append(number(step({"image": three["image"], "text": three["text"][:, caption]})["loss"]))
    assert together == pytest.approx(np.mean(alone), rel=1e-5)
    assert np.ptp(alone) > 1e-3


def test_the_same_steps_give_the_same_bits():
    finals = []
    for _ in range(2):
        model, _, _, step = build(ema=0.9, clip_norm=1.0)
        for i in range(3):
            step(batch(i))
        step.synchronize()
        finals.append(values(model.weights))
    assert all(np.array_equal(finals[0][name], finals[1][name]) for name in finals[0])


class Breaking(Contrastive):
    """Breaks off in the forward pass of the batch number `at`."""

    calls, at = 0, 0

    def embed(self, *arguments):
        self.calls += 1
        if self.calls == self.at:
            raise MemoryError
        return super().embed(*arguments)


def test_a_step_that_breaks_off_says_whether_its_state_is_whole():
    term = Breaking()
    model, _, _, step = build(objective=Objective({"contrastive": term}, {"contrastive": 1.0}), ema=0.9)
    step(batch(0))
    term.at = term.calls + 1
    with pytest.raises(MemoryError):
        step({name: array[:4] for name, array in batch(1).items()})  # another shape, which is compiled anew
    assert step.torn == (keras.config.backend() == "tensorflow")
    step.synchronize()
    same, _, _, other = build(ema=0.9)
    other(batch(0))
    other.synchronize()
    assert distance(values(model.variables), values(same.variables)) == 0
    step(batch(2))
    assert not step.torn


def test_a_device_without_memory_is_known_by_its_own_error():
    match keras.config.backend():
        case "jax":
            import jax

            full, other = (
                jax.errors.JaxRuntimeError(f"{code}: says XLA") for code in ("RESOURCE_EXHAUSTED", "INTERNAL")
            )
        case "torch":
            import torch

            full, other = torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error")
        case _:
            import tensorflow as tf

            full = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
            other = tf.errors.InternalError(None, None, "says XLA")
    assert backends.out_of_memory(full)
    assert not backends.out_of_memory(other)


class Edges(Term):
    """Mean square of what a convolution makes of pictures."""

    independent = True

    def embed(self, seen):
        return {"squares": keras.ops.mean(keras.ops.square(seen.model(seen.batch["image"])), axis=(1, 2, 3))}

    def loss(self, model, embedded):
        return Loss(keras.ops.mean(embedded["squares"]))


def test_a_kernel_moves_by_its_own_gradient_however_that_lies_in_memory():
    """A convolution's gradient may have its axes in another order. After a step the first moment of AdamW is a tenth of
    it, and Lion's a hundredth.
    """
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    moments = []
    for name, share in (("adamw", 0.1), ("lion", 0.01)):
        model = keras.Sequential([keras.Input((6, 6, 3)), Convolution(filters=4, kernel_size=3)])
        optimizer = OPTIMIZERS[name](1e-2)
        step = backends.train_step(model, Objective({"edges": Edges()}), optimizer)
        step({"image": images})
        step.synchronize()
        moments.append(keras.ops.convert_to_numpy(optimizer.slots["momentum"][0].value) / share)
    np.testing.assert_allclose(*moments, rtol=1e-4, atol=1e-6)
    assert np.ptp(moments[0]) > 1e-2
