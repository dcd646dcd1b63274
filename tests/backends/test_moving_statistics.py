"""Untrained weights that a forward pass moves: carried by the step, moved once a piece, not by a bad step."""

import keras
import numpy as np
import pytest
from keras import ops

from diptych import backends
from diptych.core.training.objectives import Loss, Objective, Term
from tests.oracle import batch_norm
from tests.tolerances import UNIT_ROUNDOFF

RATE, ROWS = 0.1, 8


class Model(keras.Model):
    """The oracle's."""

    def __init__(self):
        super().__init__()
        self.linear = keras.layers.Dense(3, use_bias=False, kernel_initializer=keras.initializers.GlorotUniform(1))
        self.norm = keras.layers.BatchNormalization(momentum=batch_norm.MOMENTUM, epsilon=batch_norm.EPSILON)
        self.linear.build((None, 4))
        self.norm.build((None, 3))

    def call(self, x, training=False):
        return self.norm(self.linear(x), training=training)

    def named(self) -> dict[str, keras.Variable]:
        norm = self.norm
        statistics = {"mean": norm.moving_mean, "variance": norm.moving_variance}
        return {"kernel": self.linear.kernel, "gamma": norm.gamma, "beta": norm.beta, **statistics}


class SquaredError(Term):
    """The oracle's loss; `compares` says that it is to be treated as if its examples looked at each other."""

    def __init__(self, compares: bool):
        self.independent = not compares

    def embed(self, seen):
        return {"error": seen.model(seen.batch["x"], training=True) - seen.batch["target"]}

    def loss(self, model, embedded):
        return Loss(ops.mean(ops.square(embedded["error"])))


def batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(ROWS, 4)).astype("float32"), "target": rng.normal(size=(ROWS, 3)).astype("float32")}


def build(compares: bool, pieces: int):
    model = Model()
    objective, optimizer = Objective({"error": SquaredError(compares)}), keras.optimizers.SGD(RATE)
    return model, backends.train_step(model, objective, optimizer, micro_batches=pieces)


def values(model) -> dict[str, np.ndarray]:
    return {
        name: np.array(ops.convert_to_numpy(variable.value), np.float64) for name, variable in model.named().items()
    }


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("compares", [False, True])
def test_weights_and_statistics_are_the_oracles_step_after_step(compares, pieces):
    model, step = build(compares, pieces)
    expected = values(model)
    for seed in range(3):
        example = batch(seed)
        x, target = (array.astype(np.float64) for array in example.values())
        loss, expected = batch_norm.step(x, target, expected, pieces=pieces, rate=RATE)
        logs = step(example)
        assert float(ops.convert_to_numpy(logs["loss"])) == pytest.approx(loss, rel=1e3 * UNIT_ROUNDOFF["float32"])
    step.synchronize()
    for name, value in values(model).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.abs(expected["mean"]).max() > 0.01


def test_a_step_that_is_not_finite_moves_no_statistics():
    model, step = build(compares=False, pieces=1)
    step(batch(0))
    step.synchronize()
    before = values(model)
    bad = batch(1)
    bad["target"][0, 0] = np.nan
    assert not bool(ops.convert_to_numpy(step(bad)["finite"]))
    step.synchronize()
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_the_oracles_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    weights = {"kernel": rng.normal(size=(4, 3)), "gamma": rng.normal(size=3), "beta": rng.normal(size=3)}
    x, target = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    _, gradient, _ = batch_norm.loss_and_gradient(x, target, weights)
    for name, value in weights.items():
        for place in np.ndindex(value.shape):
            sides = []
            for nudge in (1e-6, -1e-6):
                moved = value.copy()
                moved[place] += nudge
                sides.append(batch_norm.loss_and_gradient(x, target, weights | {name: moved})[0])
            assert gradient[name][place] == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4, abs=1e-7), name
