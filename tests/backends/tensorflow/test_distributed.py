"""Losses and training steps over replicas of a `tf.distribute` strategy against one device.

A processor is divided into logical devices before tensorflow uses it, so the replicas run in a process of their own:
this file as a program, which prints what the tests look at.
"""

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from diptych.core.placement import ALONE, Placement
from tests.tree import ROOT

tf = pytest.importorskip("tensorflow")

REPLICAS = 2
RUNS = ("graph", "eager")
LOSSES = ("sigmoid_loss", "softmax_contrastive_loss")
T, B = 9.0, -4.0
THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
STEPS = ("pairs",)
STEPS += (
    ("every loss", "every loss in pieces", "gathered", "classifier", "clip", "resnet", "language", "bit")
    if THOROUGH
    else ()
)


@pytest.fixture(scope="module")
def printed() -> dict:
    variables = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.tensorflow.test_distributed"],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("run", RUNS)
def test_replicas_give_the_loss_and_gradients_of_the_global_batch(printed, run, loss):
    one, replicas = printed[loss]["one device"], printed[loss][run]["sum"]
    assert len(replicas["loss"]) == REPLICAS
    np.testing.assert_allclose(replicas["loss"], [one["loss"]] * REPLICAS, rtol=1e-6)
    for name in ("image_embeddings", "text_embeddings"):
        found, expected = np.concatenate(replicas[name]), np.array(one[name])
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    scalars = one.keys() - {"loss", "image_embeddings", "text_embeddings"}
    assert len(scalars) == (2 if loss == "sigmoid_loss" else 1)
    for name in scalars:
        assert sum(replicas[name]) == pytest.approx(one[name], rel=1e-5)


@pytest.mark.parametrize("run", RUNS)
def test_a_mean_over_replicas_takes_gradients_times_their_number(printed, run):
    mean, total = (printed["sigmoid_loss"][run][mode] for mode in ("mean", "sum"))
    assert mean["loss"] == total["loss"]
    for name in ("image_embeddings", "text_embeddings", "logit_scale", "logit_bias"):
        np.testing.assert_allclose(mean[name], REPLICAS * np.array(total[name]), rtol=1e-6)


@pytest.mark.parametrize("run", RUNS)
def test_unequal_batches_are_refused(printed, run):
    refused = printed["sigmoid_loss"][run]["uneven"]
    assert refused["type"] == "InvalidArgumentError"
    assert "as many pairs on every replica" in refused["message"]
    assert [number in refused["message"] for number in ("11", "9")] == [True, True]


def test_the_backward_pass_has_no_collective(printed):
    counts = printed["collectives"]
    assert counts["after the gradient"] == counts["after the loss"] > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_a_second_derivative_and_one_of_forward_only_are_refused(printed, loss):
    found = printed[loss]
    assert f"{loss} has first derivatives only" in found["second derivative"]["message"]
    assert f"{loss} was called with forward_only=True" in found["forward only"]["message"]
    assert found["forward only"]["loss"][0] == pytest.approx(found["one device"]["loss"], rel=1e-6)


def test_keras_trainer_averages_over_replicas(printed):
    """One step of SGD in `fit` with gradients="mean" moves the weights as the whole batch on one device does."""
    np.testing.assert_allclose(printed["keras"]["replicas"], printed["keras"]["one device"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", STEPS)
def test_steps_over_replicas_are_those_of_one_device(printed, case):
    """Weights, slots, moving averages, logs and a later evaluation, after five steps."""
    found = printed["steps"][case]
    assert found.keys() >= {"logs", "norms", "weights", "slots", "averages", "evaluated"}
    for kind, (difference, name) in found.items():
        assert difference <= (1e-5 if kind == "norms" else 1e-6), f"{kind} {name}"


def test_a_step_over_more_devices_than_there_are_is_refused(printed):
    assert printed["too many"] == "A step was to be spread over 3 devices, and tensorflow has 2 here (CPU)."


def test_what_tensorflow_cannot_do_is_refused():
    from diptych.backends.tensorflow.contrastive import distributed_sigmoid_loss

    x = np.eye(3, dtype="float32")
    with pytest.raises(ValueError, match="no point-to-point exchange"):
        distributed_sigmoid_loss(x, x, logit_scale=T, logit_bias=B, exchange="ring")
    with pytest.raises(ValueError, match="expected 'sum' or 'mean'"):
        distributed_sigmoid_loss(x, x, logit_scale=T, logit_bias=B, gradients="max")
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope(), pytest.raises(ValueError, match="replica context"):
        distributed_sigmoid_loss(x, x, logit_scale=T, logit_bias=B)


def test_outside_of_a_strategy_there_is_one_replica():
    from diptych.backends.tensorflow.contrastive import distributed_sigmoid_loss, sigmoid_loss

    x = np.eye(3, dtype="float32")
    alone, spread = (loss(x, x, logit_scale=T, logit_bias=B) for loss in (sigmoid_loss, distributed_sigmoid_loss))
    assert float(spread) == pytest.approx(float(alone), rel=1e-6)


def main():
    from diptych import backends
    from diptych.backends.tensorflow import contrastive
    from diptych.backends.tensorflow.device import devices_here
    from diptych.backends.tensorflow.spread import mirrored
    from tests.backends.spread_steps import CASES, differences, trained

    placement = backends.join({}, devices=REPLICAS)

    strategy = mirrored(tuple(device.name for device in devices_here()))
    rng = np.random.default_rng(0)
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 20, 12)).astype("f"))
    y = (y + x) / np.linalg.norm(y + x, axis=1, keepdims=True)

    def run(function, kind="graph", sizes=(10, 10), **keywords):
        """Each result of function(x, y) on every replica, as lists."""

        def on_replicas(x, y):
            return strategy.run(function, args=(x, y), kwargs=keywords)

        def spread(rows):
            parts = np.split(rows, np.cumsum(sizes)[:-1])
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )

        results = (tf.function(on_replicas) if kind == "graph" else on_replicas)(spread(x), spread(y))
        return {
            name: [value.numpy().tolist() for value in strategy.experimental_local_results(result)]
            for name, result in results.items()
        }

    def refusal(*arguments, **keywords):
        try:
            run(*arguments, **keywords)
        except (tf.errors.InvalidArgumentError, RuntimeError) as error:
            return {"type": type(error).__name__, "message": str(error)}
        return {"type": None, "message": "nothing was raised"}

    printed: dict = {loss: {} for loss in LOSSES}
    for loss, found in printed.items():
        one = getattr(contrastive, f"{loss}_and_gradients")(x, y, **scalars_of(loss))
        found["one device"] = {name: value.numpy().tolist() for name, value in one._asdict().items()}
        for kind in RUNS:
            found[kind] = {mode: run(derived, kind, gradients=mode, loss=loss) for mode in ("sum", "mean")}
            found[kind]["uneven"] = refusal(derived, kind, sizes=(11, 9), loss=loss)
        found["second derivative"] = refusal(derived_twice, loss=loss)
        found["forward only"] = refusal(derived, forward_only=True, loss=loss)
        found["forward only"] |= run(alone, forward_only=True, loss=loss)
    printed["collectives"] = count_collectives(run)
    printed["keras"] = {"one device": keras_step(x, y, None), "replicas": keras_step(x, y, strategy)}
    printed["steps"] = {
        case: differences(trained(CASES[case], ALONE), trained(CASES[case], placement)) for case in STEPS
    }
    try:
        trained(CASES["pairs"], Placement(devices=REPLICAS + 1))
    except ValueError as error:
        printed["too many"] = str(error)
    print(json.dumps(printed))


def scalars_of(loss: str) -> dict[str, float]:
    return {"logit_scale": T, "logit_bias": B} if loss == "sigmoid_loss" else {"logit_scale": T}


def alone(x, y, scalars=None, loss="sigmoid_loss", **keywords):
    from diptych.backends.tensorflow import contrastive

    function = getattr(contrastive, f"distributed_{loss}")
    return {"loss": function(x, y, **(scalars or scalars_of(loss)), largest_block=8, **keywords)}


def derived(x, y, loss="sigmoid_loss", **keywords):
    scalars = {name: tf.constant(value) for name, value in scalars_of(loss).items()}
    sources = {"image_embeddings": x, "text_embeddings": y, **scalars}
    with tf.GradientTape() as tape:
        tape.watch(sources)
        value = alone(x, y, scalars, loss, **keywords)["loss"]
    return {"loss": value, **tape.gradient(value, sources)}


def derived_twice(x, y, loss):
    with tf.GradientTape() as tape:
        tape.watch(x)
        once = derived(x, y, loss)["text_embeddings"]
    return {"image_embeddings": tape.gradient(once, x)}


def count_collectives(run) -> dict[str, int]:
    """The collectives that replicas have asked for after the loss, and after its gradient."""
    asked, counts = [], {}

    def counted(original):
        def method(*arguments, **keywords):
            asked.append(original)
            return original(*arguments, **keywords)

        return method

    for name in ("all_reduce", "all_gather"):
        setattr(tf.distribute.ReplicaContext, name, counted(getattr(tf.distribute.ReplicaContext, name)))

    def in_two_steps(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            results = alone(x, y)
        counts["after the loss"] = len(asked)
        tape.gradient(results["loss"], [x, y])
        counts["after the gradient"] = len(asked)
        return results

    run(in_two_steps, "eager", sizes=(10, 10))
    return counts


def keras_step(x, y, strategy) -> list:
    """The weights of a model after one step of `fit` on the whole batch."""
    import keras

    from diptych.backends.tensorflow.contrastive import distributed_sigmoid_loss

    class Loss(keras.layers.Layer):
        def build(self, shapes):
            self.scale = self.add_weight(shape=(), initializer=keras.initializers.Constant(T))
            self.bias = self.add_weight(shape=(), initializer=keras.initializers.Constant(B))

        def call(self, batch):
            if tf.distribute.in_cross_replica_context():
                return batch[0]
            scalars = {"logit_scale": self.scale.value, "logit_bias": self.bias.value}
            self.add_loss(distributed_sigmoid_loss(*batch, **scalars, gradients="mean"))
            return batch[0]

    with strategy.scope() if strategy else contextlib.nullcontext():
        images, texts = (keras.Input([12]) for _ in range(2))
        tower = keras.layers.Dense(5, kernel_initializer=keras.initializers.GlorotUniform(3))
        model = keras.Model([images, texts], Loss()([tower(images), tower(texts)]))
        model.compile(optimizer=keras.optimizers.SGD(0.01), jit_compile=False)
    model.fit([x, y], batch_size=len(x), epochs=1, shuffle=False, verbose=0)
    return np.concatenate([np.ravel(keras.ops.convert_to_numpy(w)) for w in model.trainable_variables]).tolist()


if __name__ == "__main__":
    main()
