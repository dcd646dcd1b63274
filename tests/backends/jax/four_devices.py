"""The sigmoid loss across four virtual CPU devices, printed as JSON for `tests.backends.jax.process`."""

import json
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diptych import backends
from diptych.backends.cases import Case
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig

COLLECTIVES = ("collective-permute", "all-gather", "all-reduce", "reduce-scatter", "all-to-all")
CASE = Case(images=132, texts=132, width=24, logit_scale=12.0, logit_bias=-4.0)


def one_device(x, y, t, b):
    return backends.sigmoid_loss(x, y, logit_scale=t, logit_bias=b)


def spread(mesh, exchange, **arguments):
    return lambda x, y, t, b: backends.distributed_sigmoid_loss(
        x, y, logit_scale=t, logit_bias=b, group=(mesh, "data"), exchange=exchange, **arguments
    )


def errors(got, right) -> list[float]:
    return [
        float(np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / np.linalg.norm(b))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(right), strict=True)
    ]


def explicit_answer(mesh, exchange, arguments):
    """Under a mesh whose shardings are part of the types."""
    with jax.set_mesh(mesh):
        x, y = (jax.device_put(a, PartitionSpec("data")) for a in arguments[:2])
        return jax.jit(jax.value_and_grad(spread(mesh, exchange), argnums=(0, 1, 2, 3)))(x, y, *arguments[2:])


def collectives(function, arguments) -> dict[str, int]:
    """How often each collective stands in the compiled program."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return {name: len(re.findall(rf"\) {name}(?:-start)?\(|\S+ {name}(?:-start)?\(", text)) for name in COLLECTIVES}


def refusal(function) -> str:
    try:
        function()
    except (ValueError, TypeError) as error:
        return str(error)
    return "accepted"


def fit_losses(data_parallel, pair_loss) -> list[float]:
    """Three steps of `fit` on a small model."""
    if data_parallel:
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=jax.devices()))
    try:
        size = {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2}
        config = SigLIPConfig(
            vision=VisionConfig(**size, patch_size=4, image_size=8),
            text=TextConfig(**size, vocab_size=20, context_length=5),
            init_logit_bias=-2.0,
        )
        rng = np.random.default_rng(0)
        data = {
            "images": rng.random((24, 8, 8, 3), np.float32),
            "token_ids": rng.integers(0, 20, (24, 5)).astype(np.int32),
        }
        model = SigLIP(config, seed=0)
        model.pair_loss = pair_loss
        model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=True)
        return model.fit(data, batch_size=24, epochs=3, shuffle=False, verbose=0).history["loss"]
    finally:
        keras.distribution.set_distribution(None)


def explicit_gradients_under_data_parallel(arguments) -> dict:
    """`sigmoid_loss_and_gradients` of a whole batch and of a part, with Keras told of four devices."""
    x, y, t, b = arguments
    scalars = {"logit_scale": t, "logit_bias": b}
    part = {"offset": 30, "denominator": 132}
    alone = backends.sigmoid_loss_and_gradients(x, y, **scalars)
    alone_part = backends.sigmoid_loss_and_gradients(x[:50], y, **scalars, **part)
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=jax.devices()))
    try:
        whole = backends.sigmoid_loss_and_gradients(x, y, **scalars)
        return {
            "errors": errors(whole, alone),
            "devices": len(whole.image_embeddings.sharding.device_set),
            "part_errors": errors(backends.sigmoid_loss_and_gradients(x[:50], y, **scalars, **part), alone_part),
        }
    finally:
        keras.distribution.set_distribution(None)


def main() -> None:
    mesh, explicit = (jax.make_mesh((4,), ("data",), axis_types=(kind,)) for kind in (AxisType.Auto, AxisType.Explicit))
    arguments = (*map(jnp.asarray, CASE.draw()), jnp.float32(CASE.logit_scale), jnp.float32(CASE.logit_bias))
    shards = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in arguments[:2]]
    placed = (*shards, *arguments[2:])
    everything = (0, 1, 2, 3)
    right = jax.value_and_grad(one_device, argnums=everything)(*arguments)
    report: dict = {"devices": len(jax.devices())}
    for exchange in ("ring", "gather"):
        differentiated = jax.value_and_grad(spread(mesh, exchange), argnums=everything)
        got = jax.jit(differentiated)(*placed)
        report[exchange] = {
            "errors": errors(got, right),
            "eager_errors": errors(differentiated(*placed), right),
            "explicit_errors": errors(explicit_answer(explicit, exchange, arguments), right),
            "spread": [str(got[1][i].sharding.spec) for i in (0, 1)],
            "forward_error": errors(jax.jit(spread(mesh, exchange))(*placed), right[0])[0],
            "collectives": collectives(differentiated, placed),
            "forward_collectives": collectives(spread(mesh, exchange), placed),
            "wrong": errors(
                jax.value_and_grad(spread(mesh, exchange), argnums=everything)(shards[0], shards[1][::-1], *placed[2:]),
                right,
            ),
        }
    report["uneven"] = refusal(lambda: spread(mesh, "ring")(arguments[0][:130], arguments[1][:130], 10.0, -10.0))
    report["no axis"] = refusal(
        lambda: backends.distributed_sigmoid_loss(*shards, logit_scale=10.0, logit_bias=-10.0, group=(mesh, "batch"))
    )
    report["no mesh"] = refusal(lambda: backends.distributed_sigmoid_loss(*shards, logit_scale=10.0, logit_bias=-10.0))
    report["mean"] = refusal(lambda: spread(mesh, "ring", gradients="mean")(*placed))
    report["twice"] = refusal(lambda: jax.hessian(lambda t: spread(mesh, "ring")(*shards, t, -4.0))(12.0))
    report["data parallel"] = explicit_gradients_under_data_parallel(arguments)
    report["fit"] = {
        "one": fit_losses(False, backends.sigmoid_loss),
        "four": fit_losses(True, backends.sigmoid_loss),
        "reference": fit_losses(False, SigLIP.pair_loss),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
