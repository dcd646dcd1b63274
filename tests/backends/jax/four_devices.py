"""The contrastive losses across four virtual CPU devices, printed as JSON for `tests.backends.jax.process`."""

import json
import re
from functools import partial

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
SCALARS = {"sigmoid_loss": ("logit_scale", "logit_bias"), "softmax_contrastive_loss": ("logit_scale",)}


def named(loss, scalars):
    return dict(zip(SCALARS[loss], scalars, strict=True))


def one_device(loss):
    return lambda x, y, *scalars: getattr(backends, loss)(x, y, **named(loss, scalars))


def spread(loss, mesh, exchange, **options):
    distributed = getattr(backends, f"distributed_{loss}")
    options |= {"group": (mesh, mesh.axis_names), "exchange": exchange}
    return lambda x, y, *scalars: distributed(x, y, **named(loss, scalars), **options)


def differentiated(function):
    return lambda *arguments: jax.value_and_grad(function, argnums=tuple(range(len(arguments))))(*arguments)


def errors(got, right) -> list[float]:
    return [
        float(np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / np.linalg.norm(b))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(right), strict=True)
    ]


def explicit_answer(loss, mesh, exchange, arguments):
    """Under a mesh whose shardings are part of the types."""
    with jax.set_mesh(mesh):
        x, y = (jax.device_put(a, PartitionSpec("data")) for a in arguments[:2])
        return jax.jit(differentiated(spread(loss, mesh, exchange)))(x, y, *arguments[2:])


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
    softmax_alone = backends.softmax_contrastive_loss_and_gradients(x, y, logit_scale=t)
    alone_part = backends.sigmoid_loss_and_gradients(x[:50], y, **scalars, **part)
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=jax.devices()))
    try:
        whole = backends.sigmoid_loss_and_gradients(x, y, **scalars)
        softmax = backends.softmax_contrastive_loss_and_gradients(x, y, logit_scale=t)
        return {
            "errors": errors(whole, alone),
            "softmax_errors": errors(softmax, softmax_alone),
            "softmax_devices": len(softmax.image_embeddings.sharding.device_set),
            "devices": len(whole.image_embeddings.sharding.device_set),
            "part_errors": errors(backends.sigmoid_loss_and_gradients(x[:50], y, **scalars, **part), alone_part),
        }
    finally:
        keras.distribution.set_distribution(None)


def across_devices(loss, mesh, explicit) -> dict:
    """How a loss over the devices differs from that of one, and what its program sends."""
    scalars = [jnp.float32(getattr(CASE, name)) for name in SCALARS[loss]]
    arguments = (*map(jnp.asarray, CASE.draw()), *scalars)
    shards = [jax.device_put(a, NamedSharding(mesh, PartitionSpec(mesh.axis_names))) for a in arguments[:2]]
    placed = (*shards, *scalars)
    right = differentiated(one_device(loss))(*arguments)
    report: dict = {}
    for exchange in ("ring", "gather"):
        function = spread(loss, mesh, exchange)
        got = jax.jit(differentiated(function))(*placed)
        report[exchange] = {
            "errors": errors(got, right),
            "eager_errors": errors(differentiated(function)(*placed), right),
            "explicit_errors": errors(explicit_answer(loss, explicit, exchange, arguments), right),
            "spread": [str(got[1][i].sharding.spec) for i in (0, 1)],
            "forward_error": errors(jax.jit(function)(*placed), right[0])[0],
            "collectives": collectives(differentiated(function), placed),
            "forward_collectives": collectives(function, placed),
            "wrong": errors(differentiated(function)(shards[0], shards[1][::-1], *scalars), right),
        }
    report["twice"] = refusal(
        lambda: jax.hessian(lambda t: spread(loss, mesh, "ring")(*shards, t, *scalars[1:]))(scalars[0])
    )
    return report


def main() -> None:
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))
    explicit = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    report: dict = {loss: across_devices(loss, mesh, explicit) for loss in SCALARS}
    report["devices"] = len(jax.devices())
    arguments = (*map(jnp.asarray, CASE.draw()), jnp.float32(CASE.logit_scale), jnp.float32(CASE.logit_bias))
    shards = [jax.device_put(a, NamedSharding(mesh, PartitionSpec(mesh.axis_names))) for a in arguments[:2]]
    ring = partial(spread, "sigmoid_loss", mesh, "ring")
    report["uneven"] = refusal(lambda: ring()(arguments[0][:130], arguments[1][:130], 10.0, -10.0))
    report["no axis"] = refusal(
        lambda: backends.distributed_sigmoid_loss(*shards, logit_scale=10.0, logit_bias=-10.0, group=(mesh, "batch"))
    )
    report["no mesh"] = refusal(lambda: backends.distributed_sigmoid_loss(*shards, logit_scale=10.0, logit_bias=-10.0))
    report["mean"] = refusal(lambda: ring(gradients="mean")(*shards, 10.0, -10.0))
    report["data parallel"] = explicit_gradients_under_data_parallel(arguments)
    report["fit"] = {
        "one": fit_losses(False, backends.sigmoid_loss),
        "four": fit_losses(True, backends.sigmoid_loss),
        "reference": fit_losses(False, SigLIP.pair_loss),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
